"""Results of a run that went through every stage, made up: six seen tasks, four new ones, four numbers of shots."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from m3tl_cli.core.results import Choice, Cost, Curve, Results, Score, StageCost, TaskResult, block_key
from tests.report import _folder

SHOTS = (1, 5, 10, 20)
STEPS = (0, 1, 2, 5, 10, 20, 50, 100)
EPISODES = 12
TRIALS = ("adamw 0.003", "adamw 0.001", "inner SGD")

SEEN = {
    "segmentation": ("segmentation", "miou", Score(0.46, 0.193, 1.0, "higher")),
    "depth": ("depth", "abs_rel", Score(0.121, 0.254, 0.0, "lower")),
    "normals": ("normals", "mean_angle", Score(12.41, 18.64, 0.0, "lower", "deg")),
    "vehicle_count": ("multiclass", "accuracy", Score(0.63, 0.361, 1.0, "higher")),
    "vehicle_distance": ("regression", "mae", Score(1.213, 1.833, 0.0, "lower", "m")),
    "light": ("multiclass", "accuracy", Score(0.91, 0.333, 1.0, "higher")),
}
NEW = {
    "edges": ("binary_map", "average_precision", Score(0.61, 0.121, 1.0, "higher")),
    "drivable": ("binary_map", "average_precision", Score(0.981, 0.872, 1.0, "higher")),
    "height": ("regression_map", "mae", Score(0.84, 1.51, 0.0, "lower", "m")),
    "inverse_depth": ("depth", "abs_rel", Score(0.22, 0.31, 0.0, "lower")),
}


def cut(task: tuple[str, str, Score], share: float) -> TaskResult:
    """The task with a primary score that removes `share` of the trivial predictor's error, and a second metric."""
    kind, primary, score = task
    value = score.trivial + share * (score.perfect - score.trivial)
    second = Score(0.4 + share / 2, 0.4, 1.0, "higher")
    return TaskResult(kind, primary, {primary: Score(value, score.trivial, score.perfect, score.direction, score.unit), "delta_1": second})


def share(kind: str, num_shots: int, place: int) -> float:
    """Error reduction after adaptation; falls with the place of the task, so that the last one is worse than trivial."""
    best = {"b": 0.62, "c": 0.5, "d": 0.58, "old": 0.57}[kind]
    return best - 0.09 * place - 0.3 / math.sqrt(num_shots)


def curve(kind: str, num_shots: int, name: str, task: tuple[str, str, Score], place: int, trial: str) -> Curve:
    """Rises from a third of its end; inner SGD gets half as far."""
    random = np.random.default_rng([num_shots, place, len(trial)])
    end = share(kind, num_shots, place) * {"adamw 0.003": 1.0, "adamw 0.001": 0.9, "inner SGD": 0.5}[trial]
    score = task[2]
    way = [1 / 3 + 2 / 3 * (1 - math.exp(-step / 15)) for step in STEPS]
    rows = [[score.trivial + (end * w + 0.04 * e) * (score.perfect - score.trivial) for w in way] for e in _centred(random)]
    return Curve(
        block=kind,
        num_shots=num_shots,
        task=name,
        optimizer=trial,
        metric=task[1],
        steps=STEPS,
        episodes=tuple(map(tuple, rows)),
        trivial=score.trivial,
        perfect=score.perfect,
        direction=score.direction,
        chosen=trial == TRIALS[0],
        chosen_step=50,
    )


def results() -> Results:
    """What `m3tl train paradigm=m3tl` leaves."""
    blocks = {
        "a": {t: cut(x, 0.55 - 0.05 * i) for i, (t, x) in enumerate(SEEN.items())},
        "a@0": {t: cut(x, 0.35 - 0.05 * i) for i, (t, x) in enumerate(SEEN.items())},
    }
    curves, choices = [], []
    for kind in ("b", "c", "d", "old"):
        for n in SHOTS:
            tasks = SEEN if kind in ("b", "old") else NEW
            key = block_key(kind, n)
            blocks[key] = {t: cut(x, share(kind, n, i)) for i, (t, x) in enumerate(tasks.items())}
            if kind != "old":
                curves += [curve(kind, n, t, x, i, trial) for i, (t, x) in enumerate(tasks.items()) for trial in TRIALS]
                choices.append(Choice(key, TRIALS[0], 50, 0.31, tuple((trial, 0.31 - 0.04 * i) for i, trial in enumerate(TRIALS))))
    weaker = {"random trunk + ridge": 0.3, "ridge head": 0.12, "scratch": 0.2, "pooled single model": 0.1, "stl ensemble": 0.05}
    baselines = {
        name: {
            block_key(kind, n): {t: cut(x, share(kind, n, i) - less) for i, (t, x) in enumerate(tasks.items())}
            for kind, tasks in (("b", SEEN), ("c", NEW))
            for n in SHOTS
        }
        for name, less in weaker.items()
    }
    return Results(
        paradigm="m3tl",
        seed=1,
        tasks=(*SEEN, *NEW),
        blocks=blocks,
        cost=Cost(190_412, 190_412, 1, 1500, 64_000, 4210, 3890, 231.0, 0.0, 938 * 2**20, labels=38_400),
        notes=("height starts from depth (highest LogME of 6 sources)", "one network of 190,412 parameters"),
        curves=tuple(curves),
        baselines=baselines,
        choices=tuple(choices),
        stages=(
            StageCost("pretrain", 500, 8000, 500, 500, 31.0, cached=True),
            StageCost("warm_up", 500, 8000, 500, 500, 42.0),
            StageCost("train", 500, 48_000, 2500, 2500, 138.0),
            StageCost("adapt", 0, 0, 600, 390, 41.0),
            StageCost("evaluate", 0, 0, 110, 0, 10.0),
        ),
        sources={t: {s: 0.3 - 0.05 * abs(i - j) for j, s in enumerate(SEEN)} for i, t in enumerate(NEW)},
        transference={s: {t: 0.02 - 0.01 * abs(i - j) for j, t in enumerate(SEEN)} for i, s in enumerate(SEEN)},
    )


def make(folder: Path) -> Path:
    """A finished run folder with these results."""
    _folder.make(folder)
    results().write(folder / "results.json")
    return folder


def _centred(random: np.random.Generator) -> list[float]:
    noise = random.standard_normal(EPISODES)
    return list(noise - noise.mean())
