"""A real number per pixel."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Gt
from torch import Tensor

from m3tl_cli.core.contracts import Task
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.task.base import Meter, Picture
from m3tl_cli.task.masking import as_float, per_sample, repeat_constant
from m3tl_cli.task.palette import UNLABELLED
from m3tl_cli.task.regression import Regression

_DRAWN = 2.0
"""Standard deviations to each side of the mean that the colours span."""


class RegressionMap(Regression):
    """Predict a real number for every pixel, for example a height.

    `Regression` of every pixel by itself, all with one mean and one deviation: output [B, 1, H, W] in standard deviations from the
    mean of the training targets, target [B, H, W] in its own unit, NaN where a pixel has no label.
    Trivial predictor: the median AT EACH PIXEL POSITION, which is the best constant for the primary metric, the mean absolute error:
    it knows the camera and not the image. A position that was never labelled takes the median of all pixels.
    Differs from `Depth`, whose errors count by their ratio: here a metre is a metre, 0 and negative numbers are numbers.

    Args:
        task: Dense, one output, with one `mean` and one `std`, which the data has once it is prepared.
        loss: As for `Regression`.
        delta: As for `Regression`.

    Raises:
        ConfigError: If the task has more than one output, or another number of means or deviations.
    """

    def __init__(self, *, task: Task, loss: Literal["mse", "l1", "huber"], delta: Annotated[float, Gt(0)]) -> None:
        if task.num_outputs != 1:
            raise ConfigError(f"`num_outputs` of a map of numbers must be 1; found {task.num_outputs}.", place=f"task.{task.name}")
        super().__init__(task=task, loss=loss, delta=delta)

    def loss(self, output: Tensor, target: Tensor, labelled: Tensor) -> Tensor:
        """Mean loss of the standardised values over the labelled pixels; see `TaskKind.loss`."""
        return super().loss(output[:, 0], target, labelled)

    def meter(self) -> Meter:
        """A fresh meter; loads torchmetrics, which takes seconds the first time."""
        pixel = Regression(task=self.task, loss=self.loss_name, delta=self.delta)
        return _PixelMeter(pixel.meter())

    def trivial(self, target: Tensor, labelled: Tensor) -> Tensor:
        """Median at each position, standardised, [1, 1, H, W]; the mean where nothing is labelled; see `TaskKind.trivial`."""
        known_NHW = torch.where(per_sample(labelled, target), as_float(target), float("nan"))
        median_HW = known_NHW.nanmedian(dim=0).values
        output_HW = self._standardised(torch.where(median_HW.isnan(), known_NHW.nanmedian(), median_HW))
        return torch.where(output_HW.isnan(), 0.0, output_HW)[None, None]

    def ideal_output(self, target: Tensor, labelled: Tensor) -> tuple[Tensor, Tensor]:
        """The standardised values, [B, 1, H, W]; see `TaskKind.ideal_output`."""
        ideal, known = super().ideal_output(target, labelled)
        return ideal[:, None], known[:, None]

    def standardised(self, target: Tensor, labelled: Tensor) -> Task:
        """The task with mean and deviation of all these pixels; see `with_statistics`."""
        pixels = per_sample(labelled, target).expand_as(target).reshape(-1)
        return super().standardised(target.reshape(-1, 1), pixels)

    def decode(self, output: Tensor) -> Tensor:
        """Values [B, H, W] in the target's unit."""
        return super().decode(output[:, 0])

    def draw(self, value: Tensor) -> Picture | str:
        """Low is dark, high is bright (matplotlib's viridis, the same range in every picture of the task), [H, W, 3].

        The range is two standard deviations to each side of the mean; pixels without a label are grey.
        """
        from matplotlib import colormaps

        share = ((self._standardised(as_float(value.detach())) + _DRAWN) / (2 * _DRAWN)).cpu().numpy()
        picture: Picture = (colormaps["viridis"](np.nan_to_num(share.clip(0, 1)))[..., :3] * 255).round().astype(np.uint8)
        picture[np.isnan(share)] = UNLABELLED
        return picture


class _PixelMeter(Meter):
    """A meter of numbers, given every pixel as a sample."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    @torch.no_grad()
    def update(self, output: Tensor, target: Tensor, labelled: Tensor) -> None:
        pixels = per_sample(labelled, target).expand_as(target).reshape(-1)
        self._meter.update(repeat_constant(output, target).reshape(-1, 1), target.reshape(-1, 1), pixels)

    def compute(self) -> dict[str, float]:
        return self._meter.compute()
