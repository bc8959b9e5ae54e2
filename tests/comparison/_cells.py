"""Finished runs with a planted response: no training, no files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from m3tl_cli.comparison.cells import SETTINGS, Cell
from m3tl_cli.core.results import Choice, Cost, Curve, Results, Score, StageCost, TaskResult, block_key

SHOTS = (1, 5, 20)
SEEN = ("segmentation", "depth")
NEW = ("edges", "height", "drivable", "count")
FLOPS = 3e9  # of a pass forward and one back

Gain = Callable[[str, int, str, str], float]
"""Setting, seed, block key, task -> normalised gain."""


def result(gain: float) -> TaskResult:
    """Two metrics with the same gain: one in which higher is better, one in which lower is."""
    scores = {"accuracy": Score(0.2 + 0.8 * gain, 0.2, 1.0, "higher"), "error": Score(4.0 * (1 - gain), 4.0, 0.0, "lower", "m")}
    return TaskResult("multiclass", "accuracy", scores)


def curve(task: str, end: float) -> Curve:
    """From trivial at step 0, half way at step 2, to `end` at step 10."""
    return Curve("c", 5, task, "AdamW 0.001", "accuracy", (0, 2, 10), ((0.2, (0.2 + end) / 2, end),), 0.2, 1.0, "higher", True, 10)


def config(setting: str, **changes: Any) -> dict[str, Any]:
    pretrain, joint, bilevel, handover = SETTINGS.get(setting, (False,) * 4)
    found: dict[str, Any] = {
        "name": "ablation",
        "data": {"_target_": "m3tl_cli.data.scenes.Scenes", "num_scenes": 270, "seed": 1, "modalities": ["rgb", "lidar"]},
        "paradigm": {"name": setting, "pretrain": pretrain, "joint": joint, "bilevel": bilevel, "handover": handover},
        "fusion": {"_target_": "m3tl_cli.fusion.gated.Gated", "width": 48},
        "inner": {"num_inner_steps": 2, "rates": "module_task"},
        "target": {"num_shots": list(SHOTS)},
        "optimizer": {"lr": 0.003},
        "trainer": {"updates": 700, "num_pictures": 6},
    }
    for key, value in changes.items():
        node, *rest = key.split("__")
        if rest:
            found[node][rest[0]] = value
        else:
            found[node] = value
    return found


def cell(
    setting: str,
    seed: int,
    gain: Gain,
    *,
    validation: float = 0.0,
    axes: Mapping[str, str] | None = None,
    updates: int = 700,
    root: Path = Path("/runs"),
    tasks: Mapping[str, Sequence[str]] | None = None,
    **changes: Any,
) -> Cell:
    """One run: blocks a, b@n and c@n, a chosen adaptation curve per new task, costs by stage."""
    of = {"a": SEEN, "b": SEEN, "c": NEW} | dict(tasks or {})
    blocks = {"a": {t: result(gain(setting, seed, "a", t)) for t in of["a"]}}
    for kind in ("b", "c"):
        for n in SHOTS:
            key = block_key(kind, n)
            blocks[key] = {t: result(gain(setting, seed, key, t)) for t in of[kind]}
    curves = tuple(curve(t, b.scores["accuracy"].value) for t, b in blocks["c@5"].items())
    pretrain, joint, bilevel, _ = SETTINGS.get(setting, (False,) * 4)
    networks = 1 if joint or bilevel else len(of["a"])
    forward = updates * networks * (5 if bilevel else 1)
    stages = (
        *((StageCost("pretrain", 20, 320, 20, 20, 2.0, cached=True, flops=20 * FLOPS),) if pretrain else ()),
        StageCost("train", updates, 16 * updates, forward, forward, 10.0, flops=forward * FLOPS),
        StageCost("adapt", 50, 400, 50, 50, 3.0, flops=50 * FLOPS),
    )
    axes = dict(axes or {})
    folder = root / ("-".join([setting, *axes.values(), f"s{seed}", str(updates)]))
    results = Results(
        paradigm=setting,
        seed=seed,
        tasks=tuple(of["a"]),
        blocks=blocks,
        cost=Cost(1000 * networks, 1000 * networks, networks, updates, 16 * updates, forward, forward, 10.0, 1.0, 10**6, 500),
        curves=curves,
        choices=(Choice("c@5", "AdamW 0.001", 10, validation, (("AdamW 0.001", validation),)),),
        stages=stages,
        baselines={"ridge head": {"c@5": {t: result(0.1) for t in of["c"]}}},
    )
    return Cell(setting, seed, axes, results, folder, config(setting, trainer__updates=updates, **changes))


def noise(setting: str, seed: int, *more: object, scale: float) -> float:
    """Normal, the same whenever it is asked."""
    words = [ord(ch) for ch in f"{setting}/{seed}/{more}"]
    return scale * float(np.random.default_rng(words).standard_normal())


def ablation(gain: Gain, seeds: Sequence[int] = range(1, 9), settings: Sequence[str] = tuple(SETTINGS), **more: Any) -> list[Cell]:
    validation = more.pop("validation", {})
    return [cell(s, seed, gain, validation=validation.get(s, 0.0), **more) for s in settings for seed in seeds]
