"""Folders of ablations as `m3tl ablate` leaves them, made up: a planted response, no training."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from m3tl_cli.comparison.cells import SETTINGS, Cell, read_cells
from m3tl_cli.comparison.compare import compare
from m3tl_cli.comparison.plan import Plan, plan_for
from m3tl_cli.comparison.tables import Comparison
from m3tl_cli.core.results import Curve, block_parts
from tests.comparison import _cells
from tests.report import _folder

STEPS = (0, 1, 2, 5, 10, 20, 50, 100)
LEVELS = {"a": 0.62, "b@1": 0.3, "b@5": 0.42, "b@20": 0.5, "c@1": 0.18, "c@5": 0.3, "c@20": 0.44}
EASE = {"segmentation": 0.1, "depth": -0.08, "edges": 0.14, "height": 0.02, "drivable": 0.22, "count": -0.19}


def gain(setting: str, seed: int, key: str, task: str) -> float:
    """Joint and bilevel training help new tasks, pretraining a little; `count` loses by sharing."""
    pretrain, joint, bilevel, handover = SETTINGS[setting]
    new = block_parts(key)[0] == "c"
    helped = 0.015 * pretrain + 0.03 * joint + 0.05 * bilevel * new + 0.01 * (joint and bilevel) + 0.02 * (handover and new)
    if task == "count":
        helped = -0.6 * helped
    common = _cells.noise("all", seed, key, scale=0.02)
    return LEVELS[key] + EASE[task] + helped + common + _cells.noise(setting, seed, key, task, scale=0.025)


def curves(cell: Cell) -> tuple[Curve, ...]:
    """From a third of the way to the end, quicker where training was bilevel."""
    made = []
    speed = 4.0 if SETTINGS[cell.setting][2] else 14.0
    for key, tasks in cell.results.blocks.items():
        kind, number = block_parts(key)
        if number is None:
            continue
        for task, result in tasks.items():
            end = result.scores["accuracy"].value
            way = [0.3 + 0.7 * (1 - math.exp(-step / speed)) / (1 - math.exp(-STEPS[-1] / speed)) for step in STEPS]
            rows = tuple(tuple(0.2 + (end - 0.2) * w + e for w in way) for e in (-0.01, 0.0, 0.01))
            made.append(Curve(kind, number, task, "AdamW 0.001", "accuracy", STEPS, rows, 0.2, 1.0, "higher", True, 100))
    return tuple(made)


def cells(
    settings: Sequence[str] = tuple(SETTINGS), seeds: Sequence[int] = range(1, 9), root: Path = Path("/runs"), **more: Any
) -> list[Cell]:
    """Runs with curves on every block at a target, costs that differ, and four baselines."""
    found = _cells.ablation(gain, seeds, settings, root=root, validation={s: 0.3 + 0.02 * i for i, s in enumerate(SETTINGS)}, **more)
    return [replace(cell, results=_finished(cell)) for cell in found]


def _finished(cell: Cell) -> Any:
    random = np.random.default_rng([cell.seed, len(cell.setting)])
    pretrain, _, bilevel, _ = SETTINGS[cell.setting]
    results = cell.results
    slower = results.cost.networks * (2.6 if bilevel else 1.0) * (1 + 0.05 * random.standard_normal())
    stages = tuple(replace(s, seconds=s.seconds * slower) for s in results.stages)
    seconds = math.fsum(s.seconds for s in stages)
    cost = replace(results.cost, seconds=seconds, peak_memory=int(9e8 * (1 + 0.3 * bilevel)), labels=2600 if pretrain else 2000)
    weaker = {"random trunk + ridge": 0.2, "ridge head": 0.1, "pooled single model": 0.05, "stl ensemble": -0.02}
    baselines = {
        name: {
            key: {t: _cells.result((r.scores["accuracy"].value - 0.2) / 0.8 - less) for t, r in tasks.items()}
            for key, tasks in results.blocks.items()
            if key.startswith(("b", "c"))
        }
        for name, less in weaker.items()
    }
    own = replace(results, curves=curves(cell), stages=stages, cost=cost, baselines=baselines, tasks=(*_cells.SEEN, *_cells.NEW))
    return replace(own, transference=influences(cell.seed)) if results.cost.networks == 1 else own


def influences(seed: int) -> dict[str, dict[str, float]]:
    """Each seen task helps itself by 5 %, the ones after it by 2 % and the ones before it by -1 %; the seed adds less than .01 %."""
    return {
        i: {j: (0.05 if a == b else 0.02 if a < b else -0.01) + 1e-5 * seed for b, j in enumerate(_cells.SEEN)}
        for a, i in enumerate(_cells.SEEN)
    }


def make(
    folder: Path,
    settings: Sequence[str] = tuple(SETTINGS),
    seeds: Sequence[int] = tuple(range(1, 9)),
    *,
    planned: bool = True,
    failed: Sequence[tuple[str, int]] = (),
    pictures: bool = True,
    beside: Mapping[str, str] | None = None,
    **more: Any,
) -> Comparison:
    """An ablation's folder with its run folders, and the comparison of them.

    Args:
        folder: To make.
        settings: Of the ablation.
        seeds: Of the ablation.
        planned: Whether there is a plan.
        failed: Setting and seed of runs that left no results.
        pictures: Whether the runs drew samples.
        beside: Name of what stands beside the settings to what it is compared as; it does as well as m3tl.
        more: For `_cells.cell`.
    """
    made = cells(settings, seeds, folder, **more)
    for name, kind in (beside or {}).items():
        made += [
            replace(like, setting=name, folder=folder / f"{name}-s{like.seed}", results=replace(like.results, paradigm=name), config=own)
            for like in cells(["m3tl"], seeds, folder, **more)
            for own in [{**like.config, "compared_as": kind, "paradigm": {**like.config["paradigm"], "name": name}}]
        ]
    for cell in made:
        leave(cell, failed=(cell.setting, cell.seed) in failed, pictures=pictures and cell.seed <= 2)
    axes = sorted(made[0].axes)
    plan: Plan | None = None
    if planned:
        plan = plan_for(
            settings, baselines=tuple(beside or ()), axes={}, seeds=seeds, block="c", num_shots=5, margin=0.02, budget="equal_updates"
        )
        plan.write(folder / "plan.json")
        (folder / "ablation.json").write_text(json.dumps({"command": ["m3tl", "ablate", f"seeds={len(seeds)}", "name=a b"]}))
    found, unread = read_cells([c.folder for c in made], axes)
    return compare(found, plan, unread=unread)


@cache
def _samples() -> Any:
    return _folder.samples(6)


def leave(cell: Cell, *, failed: bool, pictures: bool) -> None:
    cell.folder.mkdir(parents=True)
    (cell.folder / "config.yaml").write_text(json.dumps({"seed": cell.seed, **cell.config}))  # JSON is YAML, and quick
    state = {"state": "FAILED", "error": "loss of height is not finite at step 412"} if failed else {"state": "FINISHED"}
    (cell.folder / "status.json").write_text(json.dumps(state))
    (cell.folder / "report.html").write_text("<title>run</title>")
    words = ["m3tl", "train", f"paradigm={cell.setting}", f"seed={cell.seed}"]
    environment = {
        "command": words,
        "versions": {"torch": "2.15.0"},
        "git": {"commit": "2a81c073"},
        "host": f"node{cell.seed % 2}",
        "gpus": [],
    }
    (cell.folder / "environment.json").write_text(json.dumps(environment))
    (cell.folder / "overrides.yaml").write_text(json.dumps(words[2:]))
    if failed:
        return
    cell.results.write(cell.folder / "results.json")
    if pictures:
        raw, drawn = _samples()
        (cell.folder / "samples.json").write_text(json.dumps(raw))
        np.savez(cell.folder / "samples.npz", **drawn)  # type: ignore[arg-type]
