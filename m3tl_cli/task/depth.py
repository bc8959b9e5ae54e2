"""Metres per pixel."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from m3tl_cli.core.contracts import Task
from m3tl_cli.core.errors import ConfigError, DataError
from m3tl_cli.task.base import Meter, MetricInfo, Picture, TaskKind
from m3tl_cli.task.masking import as_float, masked_mean, per_sample, repeat_constant, with_statistics
from m3tl_cli.task.palette import UNLABELLED

_DECODED = 6.0
"""Standard deviations of log-depth to each side beyond which a prediction is clamped: no overflow at any output."""

_DRAWN = 2.0
"""Standard deviations of log-depth to each side that the colours span: 95 % of a log-normal distribution."""


class Depth(TaskKind):
    """Predict the distance of every pixel.

    Output [B, 1, H, W] is the standardised logarithm of depth, z = (ln d - mu) / sigma, where mu and sigma are those of the log-normal
    distribution that has the mean and deviation of the training targets: sigma^2 = ln(1 + (std / mean)^2), mu = ln(mean) - sigma^2 / 2.
    So an output of 0 is a typical depth, an error counts by its ratio, which is what the primary metric sees, and 2 m and 100 m weigh
    the same. Target [B, H, W] in metres; NaN, or a value that is not above 0, marks a pixel without a label.
    Trivial predictor: AT EACH PIXEL POSITION the depth c of the least mean |d - c| / d, which is the median weighted by 1 / d, exactly:
    it knows the camera and not the image. A position that was never labelled takes that of all pixels.

    Args:
        task: Dense, one output, with one `mean` and one `std` in metres, which the data has once it is prepared.
        loss: `log_l1` |z - z'|, to first order the relative error over sigma; `log_mse` (z - z')^2; `l1` |d - d'| / std. Source of the
            logarithm: Eigen, Puhrsch and Fergus, "Depth Map Prediction from a Single Image using a Multi-Scale Deep Network",
            NeurIPS 2014; theirs is also invariant to scale, which here, where LiDAR gives the scale, would throw information away.

    Raises:
        ConfigError: If the task has more than one output, or statistics that no depth can have.
    """

    primary = "abs_rel"

    def __init__(self, *, task: Task, loss: Literal["log_l1", "log_mse", "l1"]) -> None:
        super().__init__(task=task)
        if task.num_outputs != 1:
            raise ConfigError(f"`num_outputs` of a depth task must be 1; found {task.num_outputs}.", place=f"task.{task.name}")
        if task.mean and not (len(task.mean) == len(task.std) == 1 and task.mean[0] > 0 and task.std[0] > 0):
            raise ConfigError(
                f"`mean` and `std` of a depth task must be one number above 0 each; found {task.mean} and {task.std}.",
                place=f"task.{task.name}",
            )
        self.loss_name = loss
        unit = task.unit or "m"
        self.metrics = {
            "abs_rel": MetricInfo("lower", 0.0, "", "mean absolute error relative to the true depth"),
            "rmse": MetricInfo("lower", 0.0, unit, "root of the mean squared error"),
            "mae": MetricInfo("lower", 0.0, unit, "mean absolute error"),
            "delta_1": MetricInfo("higher", 1.0, "", "share of pixels within a factor of 1.25 of the true depth"),
        }

    def loss(self, output: Tensor, target: Tensor, labelled: Tensor) -> Tensor:
        """Mean loss over the labelled pixels; see `TaskKind.loss`."""
        mask = _mask(target, labelled)
        z = torch.where(mask, as_float(output)[:, 0], 0.0)
        depth = torch.where(mask, target.to(z.dtype), 1.0)
        if self.loss_name == "l1":
            losses = (self._metres(z) - depth).abs() / self.task.std[0]
        else:
            error = z - self._standardised(depth)
            losses = error.abs() if self.loss_name == "log_l1" else error.square()
        return masked_mean(losses, mask)

    def meter(self) -> Meter:
        """A fresh meter; loads torchmetrics, which takes seconds the first time."""
        return _DepthMeter(self)

    def trivial(self, target: Tensor, labelled: Tensor) -> Tensor:
        """Weighted median of depth at each position, as an output, [1, 1, H, W]; see `TaskKind.trivial`."""
        mask = _mask(target, labelled)
        depth_NHW = torch.where(mask, as_float(target), float("inf"))
        best_HW = _relative_median(depth_NHW)
        if not bool(mask.any(0).all()):
            best_HW = torch.where(mask.any(0), best_HW, _relative_median(depth_NHW.flatten()))
        output_HW = torch.where(best_HW.isfinite(), self._standardised(best_HW), 0.0)
        return output_HW[None, None]

    def ideal_output(self, target: Tensor, labelled: Tensor) -> tuple[Tensor, Tensor]:
        """The standardised logarithm of depth, [B, 1, H, W]; see `TaskKind.ideal_output`."""
        known = _mask(target, labelled)
        z = self._standardised(torch.where(known, as_float(target), 1.0))
        return torch.where(known, z, 0.0)[:, None], known[:, None]

    def standardised(self, target: Tensor, labelled: Tensor) -> Task:
        """The task with mean and deviation of these depths, in metres; see `with_statistics`."""
        return with_statistics(self.task, target.reshape(-1, 1), _mask(target, labelled).reshape(-1, 1))

    def decode(self, output: Tensor) -> Tensor:
        """Depth [B, H, W] in metres, above 0."""
        return self._metres(as_float(output)[:, 0])

    def draw(self, value: Tensor) -> Picture | str:
        """Near is bright, far is dark (matplotlib's viridis, by the logarithm, the same range in every picture of the task), [H, W, 3].

        The range is that of two standard deviations of log-depth to each side; pixels without a label are grey.
        """
        from matplotlib import colormaps

        mask = _mask(value[None], torch.ones(1, dtype=torch.bool, device=value.device))[0].cpu().numpy()
        depth = value.detach().float().cpu().numpy()
        mu, sigma = self._log_statistics()
        near, far = mu - _DRAWN * sigma, mu + _DRAWN * sigma
        share = (far - np.log(np.where(mask, depth, 1.0))) / (far - near)
        picture: Picture = (colormaps["viridis"](share.clip(0, 1))[..., :3] * 255).round().astype(np.uint8)
        picture[~mask] = UNLABELLED
        return picture

    def _metres(self, z: Tensor) -> Tensor:
        mu, sigma = self._log_statistics()
        return (z.clamp(-_DECODED, _DECODED) * sigma + mu).exp()

    def _standardised(self, depth: Tensor) -> Tensor:
        mu, sigma = self._log_statistics()
        return (depth.log() - mu) / sigma

    def _log_statistics(self) -> tuple[float, float]:
        if not self.task.mean:
            raise DataError(
                "`mean` and `std` must be known before a depth task is used; found none.",
                place=f"task.{self.task.name}",
                hint="prepare the data first, and label at least one training sample",
            )
        variance = math.log1p((self.task.std[0] / self.task.mean[0]) ** 2)
        return math.log(self.task.mean[0]) - variance / 2, math.sqrt(variance)


def _mask(target: Tensor, labelled: Tensor) -> Tensor:
    # A comparison with NaN is False.
    return per_sample(labelled, target) & (target > 0) & (target < float("inf"))


def _relative_median(depth: Tensor) -> Tensor:
    """The c of the least sum |d - c| / d along the first dimension; infinite depths count for nothing; infinite where all are."""
    ordered, _ = depth.sort(dim=0)
    weight = (1 / ordered).cumsum(0)
    middle = (weight < weight[-1:] / 2).sum(0, keepdim=True)
    return ordered.gather(0, middle)[0]


class _DepthMeter(Meter):
    def __init__(self, kind: Depth) -> None:
        from torchmetrics.regression import MeanAbsoluteError, MeanAbsolutePercentageError, MeanSquaredError

        self._kind = kind
        self._metrics = {
            "abs_rel": MeanAbsolutePercentageError(sync_on_compute=False),  # a fraction in spite of its name
            "rmse": MeanSquaredError(squared=False, sync_on_compute=False),
            "mae": MeanAbsoluteError(sync_on_compute=False),
        }
        self._close: Tensor | int = 0
        self._count = 0

    @torch.no_grad()
    def update(self, output: Tensor, target: Tensor, labelled: Tensor) -> None:
        predicted = repeat_constant(self._kind.decode(output), target)
        mask = _mask(target, labelled)
        predicted, truth = predicted[mask], target[mask].to(predicted.dtype)
        if len(truth) == 0:
            return
        for metric in self._metrics.values():
            metric.to(output.device).update(predicted, truth)
        self._close = self._close + (torch.maximum(predicted / truth, truth / predicted) < 1.25).sum()
        self._count += len(truth)

    def compute(self) -> dict[str, float]:
        if self._count == 0:
            return dict.fromkeys(self._kind.metrics, float("nan"))
        values = {name: float(metric.compute()) for name, metric in self._metrics.items()}
        return {**values, "delta_1": int(self._close) / self._count}
