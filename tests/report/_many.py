"""An ablation and a run over as many tasks as a study of schools has, made up: a planted response, no training."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from m3tl_cli.comparison.cells import SETTINGS, read_cells
from m3tl_cli.comparison.compare import compare
from m3tl_cli.comparison.plan import plan_for
from m3tl_cli.comparison.tables import Comparison
from m3tl_cli.core.results import Curve, Results, Score, TaskResult, block_parts
from tests.comparison import _cells
from tests.report import _ablation, _folder

ARMS = ("stl", "mtl", "mtl_transfer", "m3tl")
SHOTS = (5, 20)


def names(num: int) -> tuple[str, ...]:
    """`school_001`, `school_002` ..."""
    return tuple(f"school_{i:03d}" for i in range(1, num + 1))


def gain(setting: str, seed: int, key: str, task: str) -> float:
    """Sharing helps the average task, task 1 most; the last of every ten loses by it, and the higher its number the more."""
    number = int(task.rpartition("_")[2])
    pretrain, joint, bilevel, handover = SETTINGS[setting]
    helped = 0.03 * joint + 0.02 * (pretrain and handover) + 0.01 * bilevel
    helped *= -0.5 - number / 100 if number % 10 == 0 else 4.0 if number == 1 else 1.0
    ease = 0.15 * math.sin(number)
    return 0.4 + ease + helped + _cells.noise("all", seed, key, scale=0.01) + _cells.noise(setting, seed, key, task, scale=0.02)


def ablation(
    folder: Path, num: int = 139, arms: Sequence[str] = ARMS, seeds: Sequence[int] = tuple(range(1, 7)), *, target: bool = True
) -> Comparison:
    """Folders of runs over `num` tasks, and the comparison of them.

    Args:
        folder: To fill.
        num: Of tasks.
        arms: Settings; the first is the reference.
        seeds: Of the ablation.
        target: Whether the tasks are also adapted to, in target domains, with their curves. Without, the source alone is scored.
    """
    tasks = names(num)
    made = _cells.ablation(gain, seeds, arms, root=folder, tasks={"a": tasks, "b": tasks, "c": tasks})
    for cell in made:
        kept = {
            key: found
            for key, found in cell.results.blocks.items()
            if key == "a" or (target and (block_parts(key)[0], block_parts(key)[1] in SHOTS) == ("b", True))
        }
        known = replace(cell, results=replace(cell.results, blocks=kept, curves=(), baselines={}))
        results = replace(known.results, curves=_ablation.curves(known), tasks=tasks)
        _ablation.leave(replace(known, results=results), failed=False, pictures=False)
    key = ("b", 5) if target else ("a", None)
    plan = plan_for(arms, axes={}, seeds=seeds, block=key[0], num_shots=key[1], margin=0.02, budget="equal_updates")
    plan.write(folder / "plan.json")
    (folder / "ablation.json").write_text(json.dumps({"command": ["m3tl", "ablate", f"seeds={len(seeds)}", "experiment=school"]}))
    found, unread = read_cells([cell.folder for cell in made], [])
    return compare(found, plan, unread=unread)


def run(folder: Path, num: int = 139, *, target: bool = True) -> Path:
    """The folder of one run over `num` tasks, with curves of its training and its adaptation."""
    _folder.make(folder)
    tasks = names(num)

    def scored(key: str, task: str, less: float = 0.0) -> TaskResult:
        share = gain("mtl", 1, key, task) - less
        value = Score(90.0 * (1 - share), 90.0, 0.0, "lower", "points^2")
        return TaskResult("regression", "mse", {"mse": value, "explained_variance": Score(share, 0.0, 1.0, "higher")})

    blocks = {"a": {t: scored("a", t) for t in tasks}}
    curves: list[Curve] = []
    if target:
        for n in SHOTS:
            blocks[f"b@{n}"] = {t: scored(f"b@{n}", t) for t in tasks}
            for t, result in blocks[f"b@{n}"].items():
                end = result.scores["mse"].value
                rows = tuple(
                    tuple(90.0 + (end - 90.0) * (1 - math.exp(-step / 12)) + e for step in _ablation.STEPS) for e in (-2.0, 0.0, 2.0)
                )
                curves.append(Curve("b", n, t, "AdamW 0.001", "mse", _ablation.STEPS, rows, 90.0, 0.0, "lower", True, 100))
    lines = []
    for step in range(50, 1001, 50):
        values = {"optimizer/lr": 3e-3 * (1 - step / 1100)}
        for t in tasks:
            end = blocks["a"][t].scores["mse"].value
            values[f"train/{t}/loss"] = 1 - gain("mtl", 1, "a", t) * (1 - math.exp(-step / 200))
            values[f"balancing/{t}/weight"] = 1 / num
            values[f"train/grad_norm/{t}"] = math.exp(-step / 400)
            if step % 100 == 0:
                values[f"val/{t}/mse"] = 90 + (end - 90) * (1 - math.exp(-step / 200))
                values[f"val/{t}/explained_variance"] = (90 - end) / 90 * (1 - math.exp(-step / 200))
        lines.append({"step": step, "time": 1.79e9 + step / 8, "values": values})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    Results("mtl", 1, tasks, blocks, _folder.COST, curves=tuple(curves)).write(folder / "results.json")
    (folder / "samples.json").unlink()
    (folder / "samples.npz").unlink()
    return folder
