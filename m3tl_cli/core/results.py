"""What a finished run says in numbers: `results.json`, written by the experiment and read by the report.

Imports nothing heavy: reading a run needs no torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal


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


@dataclass(frozen=True)
class Results:
    """Everything that the final panel, the report and a comparison need.

    Args:
        blocks: Block name ("a" is source domains, held-out samples) to task to result.
    """

    paradigm: str
    seed: int
    tasks: tuple[str, ...]
    blocks: Mapping[str, Mapping[str, TaskResult]]
    cost: Cost
    notes: tuple[str, ...] = field(default_factory=tuple)

    def write(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_text(path, json.dumps(asdict(self), indent=1))

    @staticmethod
    def read(path: Path) -> Results:
        """Inverse of `write`."""
        raw: dict[str, Any] = json.loads(path.read_text())
        blocks = {
            block: {
                name: TaskResult(**{**task, "scores": {m: Score(**s) for m, s in task["scores"].items()}}) for name, task in tasks.items()
            }
            for block, tasks in raw["blocks"].items()
        }
        return Results(
            paradigm=raw["paradigm"],
            seed=raw["seed"],
            tasks=tuple(raw["tasks"]),
            blocks=blocks,
            cost=Cost(**raw["cost"]),
            notes=tuple(raw["notes"]),
        )


def write_text(path: Path, text: str) -> None:
    """Replace a file's content in one step: a reader sees the old text or the new, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
