"""Contract of task kinds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from m3tl_cli.core.contracts import Task

Picture = npt.NDArray[np.uint8]
"""[H, W, 3]."""


@dataclass(frozen=True)
class MetricInfo:
    """What a metric's number means.

    Args:
        direction: Which way is better.
        perfect: The best possible value.
        unit: For people; empty where the metric has none.
        about: One line.
    """

    direction: Literal["higher", "lower"]
    perfect: float
    unit: str
    about: str


class Meter(ABC):
    """Running metrics of one task over many batches; nothing of a batch is kept beyond what its metrics need."""

    @abstractmethod
    def update(self, output: Tensor, target: Tensor, labelled: Tensor) -> None:
        """Count one batch: `output` as a head gives it (or broadcastable, batch of 1), `target` [B, ...], `labelled` [B] bool."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Every metric by name; NaN where nothing was labelled."""


class TaskKind(ABC):
    """What one does with the outputs of a task.

    A subclass takes its hyper-parameters and `task: Task` as keywords, and names its metrics.

    Attributes:
        metrics: Information per metric, in the order in which tables show them.
        primary: The metric that comparisons use.
    """

    metrics: dict[str, MetricInfo]
    primary: str

    def __init__(self, *, task: Task) -> None:
        self.task = task

    @abstractmethod
    def loss(self, output: Tensor, target: Tensor, labelled: Tensor) -> Tensor:
        """Mean loss over the labelled samples.

        Args:
            output: As the head gives it.
            target: [B] (classes, int64), [B, num_outputs] (regression), [B, H, W] (maps of classes, int64; of numbers), [B, 3, H, W]
                (normals).
            labelled: [B] bool. Pixels without a label are marked inside the target (NaN; -1 among classes).

        Returns:
            Scalar, attached to the graph; exactly 0 with exactly zero gradient where nothing is labelled.
        """

    @abstractmethod
    def meter(self) -> Meter:
        """A fresh meter."""

    @abstractmethod
    def trivial(self, target: Tensor, labelled: Tensor) -> Tensor:
        """The constant output, batch of 1, that scores best without looking at the input: majority class, mean or median, constant normal.

        Args:
            target: [N, ...] training targets.
            labelled: [N] bool.
        """

    @abstractmethod
    def decode(self, output: Tensor) -> Tensor:
        """Turn raw output into what a person calls the prediction: class indices, values in the target's unit, unit normals."""

    @abstractmethod
    def draw(self, value: Tensor) -> Picture | str:
        """Show one decoded prediction or one target (without batch dimension): a picture for a dense task, words for a vector task."""
