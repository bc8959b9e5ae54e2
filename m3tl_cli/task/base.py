"""Contract of task kinds."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from m3tl_cli.core.contracts import Task
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.task.masking import as_float, log_frequencies

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
        activation: What turns raw outputs into predictions: `softmax` over classes, `sigmoid` of yes or no; `identity`: neither.
    """

    metrics: dict[str, MetricInfo]
    primary: str
    activation: ClassVar[Literal["identity", "softmax", "sigmoid"]] = "identity"

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

    def ideal_output(self, target: Tensor, labelled: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """The raw output that a closed form regresses onto.

        Args:
            target: As for `loss`.
            labelled: [B] bool.

        Returns:
            [B, num_outputs, *task.size], float: standardised values; +-1 for classes and for yes or no; 0 where unknown. And where it is
            known, bool of the same shape.

        Raises:
            ConfigError: If the kind has none.
        """
        raise ConfigError(
            f"`kind` of a task with a new head must have an ideal output; found {type(self).__name__}.",
            place=f"task.{self.task.name}",
            hint="give the class a method `ideal_output`",
        )

    def prior(self, target: Tensor, labelled: Tensor) -> Tensor:
        """The constant raw output that fits best without looking at input or position.

        Mean of the ideal output; for classes the logarithms of their frequencies, for yes or no the logarithm of the odds, both with one
        more of each counted. Of standardised values 0 where nothing is known.
        Differs from `trivial`, which may know the pixel's position and is the best for the primary metric: this one is the best for
        squared error, cosine or cross-entropy, and is what the bias of a last layer can hold.

        Args:
            target: As for `loss`.
            labelled: [B] bool.

        Returns:
            [num_outputs].
        """
        ideal, known = (x.movedim(1, 0).flatten(1) for x in self.ideal_output(target, labelled))
        if self.activation == "identity":
            return torch.where(known, ideal, 0.0).sum(1) / known.sum(1).clamp(min=1)
        yes_C = (known & (ideal > 0)).sum(1)
        if self.activation == "softmax":
            return log_frequencies(yes_C)
        frequencies_2C = log_frequencies(torch.stack([known.sum(1) - yes_C, yes_C]))
        return frequencies_2C[1] - frequencies_2C[0]

    def standardised(self, target: Tensor, labelled: Tensor) -> Task:  # noqa: ARG002
        """The task with mean and deviation of these targets, by which adaptation starts at losses of about 1; itself for classes.

        Args:
            target: As for `loss`.
            labelled: [B] bool.
        """
        return self.task

    def combine(self, outputs: Sequence[Tensor]) -> Tensor:
        """The raw output that stands for the mean prediction of several networks.

        Of classes the logarithms of the mean probabilities, of yes or no the logit of the mean probability; else the mean of the raw
        outputs: standardised values, of depths their logarithms.

        Source: "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles" (Lakshminarayanan et al., NeurIPS 2017),
        section 2.4.

        Args:
            outputs: One or more, [B, num_outputs, ...] each.

        Returns:
            The same shape.
        """
        stacked = torch.stack([as_float(output) for output in outputs])
        if self.activation == "identity":
            return stacked.mean(0)
        if self.activation == "softmax":
            return stacked.log_softmax(2).logsumexp(0) - math.log(len(outputs))
        # Of two log-sigmoids neither is infinite, at any logit; the number of networks cancels out.
        return F.logsigmoid(stacked).logsumexp(0) - F.logsigmoid(-stacked).logsumexp(0)

    @abstractmethod
    def decode(self, output: Tensor) -> Tensor:
        """Turn raw output into what a person calls the prediction: class indices, values in the target's unit, unit normals."""

    @abstractmethod
    def draw(self, value: Tensor) -> Picture | str:
        """Show one decoded prediction or one target (without batch dimension): a picture for a dense task, words for a vector task."""
