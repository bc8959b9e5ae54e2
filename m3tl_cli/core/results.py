"""What a finished run says in numbers: `results.json`, written by the experiment and read by the report.

Imports nothing heavy: reading a run needs no torch.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

BLOCKS: Mapping[str, str] = {
    "a": "held-out samples of the source domains",
    "b": "seen tasks in target domains",
    "c": "new tasks in target domains",
    "d": "new tasks in source domains",
    "old": "seen tasks in target domains, after the new tasks were added",
    "probe": "seen tasks in target domains, frozen network and new heads",
}
"""Kinds of blocks, in the order to show. A block's key is its kind, or kind, "@" and a number: shots, in block a inner steps."""

BASELINES: Mapping[str, str] = {"ridge": "ridge head", "random": "random trunk + ridge", "scratch": "scratch"}
"""Options of `target.baselines` to their names in `Results.baselines`, which has blocks b and c of each."""

PERFECT = "perfect"
"""The 1 of the normalised gain where it is the best possible score and no baseline's."""


@dataclass(frozen=True)
class Score:
    """One metric of one task.

    Args:
        value: What the model reached.
        trivial: What the trivial predictor (majority class, mean, constant normal; fitted on training labels) reaches on the
            same samples.
        perfect: The best possible value.
        direction: Which way is better.
        unit: For people; empty where the metric has none.
    """

    value: float
    trivial: float
    perfect: float
    direction: Literal["higher", "lower"]
    unit: str = ""

    @property
    def error_reduction(self) -> float:
        """Share of the trivial predictor's distance to perfect that the model removed; 1 is perfect, below 0 is worse than trivial."""
        distance = abs(self.trivial - self.perfect)
        if distance == 0:
            return 0.0
        return 1.0 - (self.perfect - self.value if self.direction == "higher" else self.value - self.perfect) / distance


@dataclass(frozen=True)
class TaskResult:
    """A task's scores. `primary` is the metric that comparisons use."""

    kind: str
    primary: str
    scores: Mapping[str, Score]
    role: str = "main"


@dataclass(frozen=True)
class Cost:
    """What the run cost.

    Args:
        parameters: Of all networks. trainable: those that a stage updates. networks: connected components of tasks.
        updates: Optimiser steps. samples: training samples read by them. forward, backward: passes of a batch through one of the
            networks.
        seconds: Of training, evaluation included. seconds_prepare: of making the data, 0 where it was cached.
        peak_memory: Bytes: the process's largest resident size during the run on a CPU, the allocator's peak on a GPU.
        labels: Labelled samples that training saw, each counted once, pretraining included; 0 where nobody counted.
        flops: Floating-point operations of all stages, see `StageCost`; 0 where nobody counted them, or not in every stage that trained.
    """

    parameters: int
    trainable: int
    networks: int
    updates: int
    samples: int
    forward: int
    backward: int
    seconds: float
    seconds_prepare: float
    peak_memory: int
    labels: int = 0
    flops: float = 0.0


@dataclass(frozen=True)
class StageCost:
    """What one stage cost.

    Args:
        stage: pretrain, warm_up, train, adapt or evaluate.
        updates: Optimiser steps; inner steps are not among them. samples: read by them. forward, backward: passes of a batch through
            one of the networks, inner steps included.
        seconds: Of the stage.
        cached: It was read from an earlier run; the numbers are what it cost then.
        flops: Floating-point operations of training: matrix products, convolutions and attention in every pass, forward, backward and in
            second order, on support and on query, of all networks, and of heads that are built. A multiplication and an addition are two.
            Left out are element-wise work (activations, norms, losses, optimiser steps), the solution of linear systems, what a balancer
            does with gradients, and every scoring, also at a target. 0 where nobody counted, NaN where only a part was counted.
    """

    stage: str
    updates: int
    samples: int
    forward: int
    backward: int
    seconds: float
    cached: bool = False
    flops: float = 0.0

    @property
    def uncounted(self) -> bool:
        """Whether it trained, and its operations are not known: files from before they were counted."""
        return self.backward > 0 and not self.flops > 0


@dataclass(frozen=True)
class Curve:
    """One task's metric while it adapts to target episodes.

    Args:
        block: Kind of block: "b", "c" ...
        num_shots: Labelled samples a task that an episode adapts on.
        task: Its name. metric: of its scores.
        optimizer: Label of the trial, for example "adamw 0.003" or "inner SGD".
        steps: Adaptation steps at which the query was scored, rising; 0 is before the first.
        episodes: A row per target episode, a value per step; the same episodes in every trial.
        trivial: What the trivial predictor reaches, mean over the episodes.
        perfect: The best possible value.
        direction: Which way is better.
        chosen: Meta-validation chose this trial.
        chosen_step: Number of steps that meta-validation chose for this trial; one of `steps`.

    Raises:
        ValueError: If a row has not one value per step.
    """

    block: str
    num_shots: int
    task: str
    optimizer: str
    metric: str
    steps: tuple[int, ...]
    episodes: tuple[tuple[float, ...], ...]
    trivial: float
    perfect: float
    direction: Literal["higher", "lower"]
    chosen: bool
    chosen_step: int

    def __post_init__(self) -> None:
        if any(len(row) != len(self.steps) for row in self.episodes):
            found = sorted({len(row) for row in self.episodes})
            raise ValueError(f"`episodes` must have {len(self.steps)} values a row, one per step; found {found}")

    @property
    def key(self) -> str:
        """The block's key in `Results.blocks`."""
        return block_key(self.block, self.num_shots)

    @property
    def means(self) -> tuple[float, ...]:
        """Mean over the episodes that have a number, per step; NaN where none has."""
        return tuple(mean(row[i] for row in self.episodes) for i in range(len(self.steps)))

    def at(self, step: int) -> Score:
        """Mean over the episodes after `step` steps, NaN where that step was not scored; without a unit."""
        value = self.means[self.steps.index(step)] if step in self.steps else math.nan
        return Score(value, self.trivial, self.perfect, self.direction)


@dataclass(frozen=True)
class Choice:
    """What meta-validation chose for one block.

    Args:
        block: Its key, as in `Results.blocks`.
        optimizer: Label of the chosen trial. steps: how many. score: mean error reduction that it reached on meta-validation.
        trials: Label and score of everything that was tried, each at its best number of steps.
    """

    block: str
    optimizer: str
    steps: int
    score: float
    trials: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Results:
    """Everything that the final panel, the report and a comparison need.

    Args:
        blocks: Block key (see `BLOCKS`) to task to result. At a target, values are means over target episodes of the score after
            adaptation to convergence, with the trial and the number of steps that meta-validation chose.
        curves: How tasks went while they adapted.
        baselines: Name, such as "ridge head", to block key to task to result.
        choices: What meta-validation chose per block.
        stages: What each stage cost, in the order in which they ran; together they are `cost`.
        sources: New task to source task to the score of that source's probe on meta-validation; `notes` say which was taken.
        transference: Task to task to the share of the second's loss that a step on the first one's removed (below 0: added), mean over
            training; empty where no parameter is shared, or nobody measured.
    """

    paradigm: str
    seed: int
    tasks: tuple[str, ...]
    blocks: Mapping[str, Mapping[str, TaskResult]]
    cost: Cost
    notes: tuple[str, ...] = field(default_factory=tuple)
    curves: tuple[Curve, ...] = ()
    baselines: Mapping[str, Mapping[str, Mapping[str, TaskResult]]] = field(default_factory=dict)
    choices: tuple[Choice, ...] = ()
    stages: tuple[StageCost, ...] = ()
    sources: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    transference: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write as JSON, atomically."""
        raw = asdict(self)
        # A line per curve: one per number would make a file of a hundred thousand lines.
        curves = ",\n".join(f"  {json.dumps(curve)}" for curve in raw.pop("curves"))
        write_text(path, json.dumps(raw, indent=1).removesuffix("\n}") + f',\n "curves": [\n{curves}\n ]\n}}')

    @staticmethod
    def read(path: Path) -> Results:
        """Inverse of `write`; files from before a field existed have its default."""
        raw: dict[str, Any] = json.loads(path.read_text())
        return Results(
            paradigm=raw["paradigm"],
            seed=raw["seed"],
            tasks=tuple(raw["tasks"]),
            blocks=_blocks(raw["blocks"]),
            cost=Cost(**raw["cost"]),
            notes=tuple(raw["notes"]),
            curves=tuple(
                Curve(**{**c, "steps": tuple(c["steps"]), "episodes": tuple(map(tuple, c["episodes"]))}) for c in raw.get("curves", ())
            ),
            baselines={name: _blocks(blocks) for name, blocks in raw.get("baselines", {}).items()},
            choices=tuple(Choice(**{**c, "trials": tuple((label, score) for label, score in c["trials"])}) for c in raw.get("choices", ())),
            stages=tuple(StageCost(**stage) for stage in raw.get("stages", ())),
            sources=raw.get("sources", {}),
            transference=raw.get("transference", {}),
        )


def total_flops(stages: Iterable[StageCost]) -> float:
    """Floating-point operations of some stages; 0 where one of them trained and was not counted."""
    known = tuple(stages)
    return 0.0 if any(stage.uncounted for stage in known) else math.fsum(stage.flops for stage in known)


def block_key(block: str, number: int) -> str:
    """The key of a kind of block at `number` shots, in block a inner steps: `b@5`."""
    return f"{block}@{number}"


def block_parts(key: str) -> tuple[str, int | None]:
    """Inverse of `block_key`; None where the key has no number."""
    kind, _, number = key.rpartition("@")
    return (kind, int(number)) if kind and number.isdecimal() else (key, None)


def block_title(key: str) -> str:
    """A block in words: `c@5` is "new tasks in target domains, 5 shots"."""
    kind, number = block_parts(key)
    title = BLOCKS.get(kind, f"block {kind}")
    if number is None:
        return title
    what = "inner step" if kind == "a" else "shot"
    return f"{title}, {number} {what}{'' if number == 1 else 's'}"


def block_order(key: str) -> tuple[int, str, int]:
    """Sorts block keys as they are shown: by kind as in `BLOCKS`, unknown kinds last, then by number."""
    kind, number = block_parts(key)
    return (list(BLOCKS).index(kind) if kind in BLOCKS else len(BLOCKS), kind, -1 if number is None else number)


def mean(values: Iterable[float]) -> float:
    """Mean of the finite ones among `values`; NaN without any."""
    known = [v for v in values if math.isfinite(v)]
    return math.fsum(known) / len(known) if known else math.nan


def _blocks(raw: Mapping[str, Any]) -> dict[str, dict[str, TaskResult]]:
    return {
        block: {name: TaskResult(**{**task, "scores": {m: Score(**s) for m, s in task["scores"].items()}}) for name, task in tasks.items()}
        for block, tasks in raw.items()
    }


def write_text(path: Path, text: str) -> None:
    """Replace a file's content in one step: a reader sees the old text or the new, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
