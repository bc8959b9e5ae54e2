"""Real numbers per sample."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from annotated_types import Gt
from torch import Tensor
from torch.nn import functional as F

from m3tl_cli.core.contracts import Task
from m3tl_cli.core.errors import ConfigError, DataError
from m3tl_cli.task.base import Meter, MetricInfo, Picture, TaskKind
from m3tl_cli.task.masking import as_float, masked_mean, per_sample, repeat_constant, with_statistics


class Regression(TaskKind):
    """Predict C real numbers, for example a distance.

    Output [B, C] in standard deviations from the mean of the training targets (`Task.mean`, `Task.std`); target [B, C] in its own unit,
    NaN where one of the C numbers is unknown. The loss is on standardised values, so that tasks of any unit start at losses of about 1.
    Trivial predictor: the median, which is the best constant for the primary metric, the mean absolute error.

    Args:
        task: With `mean` and `std`, which the data has once it is prepared.
        loss: `mse` (e^2), `l1` (|e|) or `huber` (e^2 / 2 up to `delta`, then delta (|e| - delta / 2)), e the standardised error.
            Source of the last: Huber, "Robust Estimation of a Location Parameter", Annals of Mathematical Statistics 1964.
        delta: Where `huber` turns from a parabola into a line, in standard deviations, above 0; the other losses do not read it.

    Raises:
        ConfigError: If the task has another number of means or deviations than of outputs.
    """

    primary = "mae"

    def __init__(self, *, task: Task, loss: Literal["mse", "l1", "huber"], delta: Annotated[float, Gt(0)]) -> None:
        super().__init__(task=task)
        if task.mean and not len(task.mean) == len(task.std) == task.num_outputs:
            raise ConfigError(
                f"`mean` and `std` must be {task.num_outputs} numbers each; found {len(task.mean)} and {len(task.std)}.",
                place=f"task.{task.name}",
            )
        self.loss_name = loss
        self.delta = delta
        self.metrics = {
            "mae": MetricInfo("lower", 0.0, task.unit, "mean absolute error"),
            "rmse": MetricInfo("lower", 0.0, task.unit, "root of the mean squared error"),
            "r_squared": MetricInfo("higher", 1.0, "", "share of the target's variance that is explained, averaged over the outputs"),
        }

    def loss(self, output: Tensor, target: Tensor, labelled: Tensor) -> Tensor:
        """Mean loss of the standardised values over the labelled numbers; see `TaskKind.loss`."""
        output = as_float(output)
        mask = per_sample(labelled, target) & ~target.isnan()
        # The derivative of a difference is finite even where the difference is NaN.
        error = torch.where(mask, output - self._standardised(target.to(output.dtype)), 0.0)
        if self.loss_name == "mse":
            losses = error.square()
        elif self.loss_name == "l1":
            losses = error.abs()
        else:
            losses = F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=self.delta)
        return masked_mean(losses, mask)

    def meter(self) -> Meter:
        """A fresh meter; loads torchmetrics, which takes seconds the first time."""
        return _RegressionMeter(self)

    def trivial(self, target: Tensor, labelled: Tensor) -> Tensor:
        """Median of each output, standardised, [1, C]; the mean where nothing is labelled; see `TaskKind.trivial`."""
        known = torch.where(per_sample(labelled, target), as_float(target), float("nan"))
        median = self._standardised(torch.nanquantile(known, 0.5, dim=0, keepdim=True))
        return torch.where(median.isnan(), 0.0, median)

    def ideal_output(self, target: Tensor, labelled: Tensor) -> tuple[Tensor, Tensor]:
        """The standardised values, [B, C]; see `TaskKind.ideal_output`."""
        known = per_sample(labelled, target) & ~target.isnan()
        return torch.where(known, self._standardised(as_float(target)), 0.0), known

    def standardised(self, target: Tensor, labelled: Tensor) -> Task:
        """The task with mean and deviation of these targets, for each output; see `with_statistics`."""
        return with_statistics(self.task, target, per_sample(labelled, target) & ~target.isnan())

    def decode(self, output: Tensor) -> Tensor:
        """Values [B, C] in the target's unit."""
        mean, std = self._statistics(as_float(output))
        return as_float(output) * std + mean

    def draw(self, value: Tensor) -> Picture | str:
        """The numbers with their unit, to about a hundredth of a standard deviation: "14.2 m"."""
        words = [
            "no label" if math.isnan(number) else f"{number:.{max(0, 2 - math.floor(math.log10(std)))}f} {self.task.unit}".strip()
            for number, std in zip(value.reshape(-1).tolist(), self._known_statistics()[1], strict=True)
        ]
        return ", ".join(words)

    def _standardised(self, value: Tensor) -> Tensor:
        mean, std = self._statistics(value)
        return (value - mean) / std

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(numbers, dtype=like.dtype, device=like.device) for numbers in self._known_statistics())
        return mean, std

    def _known_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        if not self.task.mean:
            raise DataError(
                "`mean` and `std` must be known before a regression task is used; found none.",
                place=f"task.{self.task.name}",
                hint="prepare the data first, and label at least two training samples",
            )
        return self.task.mean, self.task.std


class _RegressionMeter(Meter):
    def __init__(self, kind: Regression) -> None:
        from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError, R2Score

        self._kind = kind
        self._mae = MeanAbsoluteError(sync_on_compute=False)
        self._rmse = MeanSquaredError(squared=False, sync_on_compute=False)
        self._r_squared = [R2Score(sync_on_compute=False) for _ in range(kind.task.num_outputs)]
        self._counts = [0] * kind.task.num_outputs

    @torch.no_grad()
    def update(self, output: Tensor, target: Tensor, labelled: Tensor) -> None:
        output = as_float(repeat_constant(output, target))
        target = target.to(output.dtype)
        mask = per_sample(labelled, target) & ~target.isnan()
        if not bool(mask.any()):
            return
        decoded = self._kind.decode(output)
        for metric in (self._mae, self._rmse):
            metric.to(output.device).update(decoded[mask], target[mask])
        # R squared does not depend on the unit; of standardised values it loses no digits and keeps clear of torchmetrics' absolute
        # tolerances (1e-4 on sums of squares), which would call small units constant.
        truth = self._kind._standardised(target)
        for column, r_squared in enumerate(self._r_squared):
            known = mask[:, column]
            if number := int(known.sum()):
                r_squared.to(output.device).update(output[known, column], truth[known, column])
                self._counts[column] += number

    def compute(self) -> dict[str, float]:
        if not any(self._counts):
            return dict.fromkeys(self._kind.metrics, float("nan"))
        # The variance of a single number is unknown.
        explained = [float(metric.compute()) for metric, count in zip(self._r_squared, self._counts, strict=True) if count > 1]
        return {
            "mae": float(self._mae.compute()),
            "rmse": float(self._rmse.compute()),
            "r_squared": sum(explained) / len(explained) if explained else float("nan"),
        }
