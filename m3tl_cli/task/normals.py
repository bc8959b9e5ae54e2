"""Unit surface normals per pixel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from m3tl_cli.core.contracts import Task
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.task.base import Meter, MetricInfo, Picture, TaskKind
from m3tl_cli.task.masking import as_float, masked_mean, per_sample, repeat_constant
from m3tl_cli.task.palette import UNLABELLED

_UP = (0.0, -1.0, 0.0)
"""The prior normal: up, in camera axes (x right, y down, z forward)."""

_EPSILON = 1e-12
"""Added to a squared length; what is normalised has a length of about 1, so this only keeps second derivatives finite at 0."""

_THRESHOLDS = {"within_11": 11.25, "within_22": 22.5, "within_30": 30.0}
"""Degrees, as in Fouhey et al., "Data-Driven 3D Primitives", ICCV 2013."""

_RESOLUTION = 0.01
"""Degrees between the bins of which the median angle is read."""

_ITERATIONS = 25
"""Of Weiszfeld's algorithm; from the mean direction 25 reach about 0.01 degrees unless two directions are equally frequent."""


class Normals(TaskKind):
    """Predict the unit normal of the surface at every pixel.

    Output [B, 3, H, W]; the normal is n = (output + up) / |output + up| in camera axes (x right, y down, z forward; up is (0, -1, 0)),
    so that an output of 0, as of a head that starts at zero, is a normal and has a gradient. Target [B, 3, H, W], a NaN or a vector of
    zeros where a pixel has no label. Loss: 1 - cosine of the angle, averaged over the labelled pixels, in [0, 2].
    Trivial predictor: AT EACH PIXEL POSITION the direction of the least mean angle (the median on the sphere, started from the
    normalised mean and never worse): it knows the camera and not the image. A position that was never labelled takes that of all pixels.

    Args:
        task: Dense, three outputs.

    Raises:
        ConfigError: If the task has not three outputs.
    """

    primary = "mean_angle"

    def __init__(self, *, task: Task) -> None:
        super().__init__(task=task)
        if task.num_outputs != 3:
            raise ConfigError(f"`num_outputs` of a normals task must be 3; found {task.num_outputs}.", place=f"task.{task.name}")
        self.metrics = {
            "mean_angle": MetricInfo("lower", 0.0, "deg", "mean angle between predicted and true normal"),
            "median_angle": MetricInfo("lower", 0.0, "deg", f"median of the angle, to {_RESOLUTION / 2} degrees"),
            **{
                name: MetricInfo("higher", 1.0, "", f"share of pixels whose normal is off by less than {degrees:g} degrees")
                for name, degrees in _THRESHOLDS.items()
            },
        }

    def loss(self, output: Tensor, target: Tensor, labelled: Tensor) -> Tensor:
        """Mean of 1 - cosine over the labelled pixels; see `TaskKind.loss`."""
        mask = _mask(target, labelled)
        raw = torch.where(mask[:, None], as_float(output), 0.0)
        truth = _normalised(torch.where(mask[:, None], target.to(raw.dtype), 1.0))
        return masked_mean(1 - (self.decode(raw) * truth).sum(1), mask)

    def meter(self) -> Meter:
        """A fresh meter."""
        return _NormalsMeter(self)

    def trivial(self, target: Tensor, labelled: Tensor) -> Tensor:
        """Median direction at each position, as an output, [1, 3, H, W]; see `TaskKind.trivial`."""
        mask = _mask(target, labelled)
        truth = _normalised(torch.where(mask[:, None], as_float(target), 1.0))
        up_311 = _up(truth)[0]
        best_3HW = _median_direction(truth.flatten(2), mask.flatten(1)).reshape(truth.shape[1:])
        if not bool(mask.any(0).all()):
            everywhere_31 = _median_direction(truth.movedim(1, -1).reshape(-1, 3, 1), mask.reshape(-1, 1))
            best_3HW = torch.where(mask.any(0), best_3HW, everywhere_31[..., None])
        return (best_3HW - up_311)[None]

    def ideal_output(self, target: Tensor, labelled: Tensor) -> tuple[Tensor, Tensor]:
        """The unit normal minus up, [B, 3, H, W]; see `TaskKind.ideal_output`.

        So its mean, plus up, has the mean direction, which is the constant of the least 1 - cosine.
        """
        known = _mask(target, labelled)[:, None].expand_as(target)
        truth = _normalised(torch.where(known, as_float(target), 1.0))
        return torch.where(known, truth - _up(truth), 0.0), known

    def decode(self, output: Tensor) -> Tensor:
        """Unit normals [B, 3, H, W]."""
        raw = as_float(output)
        return _normalised(raw + _up(raw))

    def combine(self, outputs: Sequence[Tensor]) -> Tensor:
        """Mean of the unit normals, as an output: `decode` brings it back to length 1; see `TaskKind.combine`."""
        mean = torch.stack([self.decode(output) for output in outputs]).mean(0)
        return mean - _up(mean)

    def draw(self, value: Tensor) -> Picture | str:
        """The normal (x, y, z) as the colour (n + 1) / 2, pixels without a label in grey, [H, W, 3]."""
        normal = value.detach().float().cpu().movedim(0, -1).numpy()
        known = np.square(normal).sum(-1) > 0
        picture: Picture = ((np.where(known[..., None], normal, 0.0).clip(-1, 1) + 1) / 2 * 255).round().astype(np.uint8)
        picture[~known] = UNLABELLED
        return picture


def _mask(target: Tensor, labelled: Tensor) -> Tensor:
    """[B, H, W]: a comparison with NaN is False."""
    return per_sample(labelled, target[:, 0]) & (target.square().sum(1) > 0)


def _up(like: Tensor) -> Tensor:
    return torch.tensor(_UP, dtype=like.dtype, device=like.device).reshape(1, 3, 1, 1)


def _normalised(vectors: Tensor) -> Tensor:
    return vectors / (vectors.square().sum(1, keepdim=True) + _EPSILON).sqrt()


def _median_direction(normals_N3S: Tensor, mask_NS: Tensor) -> Tensor:
    """Direction [3, S] of the least mean angle to the N unit normals of each position; up where none is known.

    Weiszfeld's algorithm in tangent planes: Fletcher, Venkatasubramanian and Joshi, "The Geometric Median on Riemannian Manifolds with
    Application to Robust Atlas Estimation", NeuroImage 2009, equation 13.
    """
    known_NS = mask_NS.to(normals_N3S.dtype)
    # By coordinate: products along a dimension of three are slow.
    axes_NS = [normals_N3S[:, axis].contiguous() for axis in range(3)]

    def cosines(direction_3S: Tensor) -> Tensor:
        return sum((x_NS * v_S for x_NS, v_S in zip(axes_NS, direction_3S, strict=True)), torch.zeros_like(known_NS)).clamp(-1, 1)

    def weighted_sum(weight_NS: Tensor) -> Tensor:
        return torch.stack([(x_NS * weight_NS).sum(0) for x_NS in axes_NS])

    start_3S = weighted_sum(known_NS)
    unclear_S = start_3S.norm(dim=0) < 1e-6 * known_NS.sum(0).clamp(min=1)
    start_3S = _normalised(torch.where(unclear_S, _up(start_3S)[0, :, 0], start_3S)[None])[0]
    found_3S = start_3S
    for _ in range(_ITERATIONS):
        cosine_NS = cosines(found_3S)
        # Clamped at 1e-3 rad: a normal on the very spot has no direction and, unclamped, an infinite weight.
        weight_NS = known_NS / cosine_NS.acos().clamp(min=1e-3)
        pull_NS = known_NS / (1 - cosine_NS.square()).sqrt().clamp(min=1e-3)
        toward_3S = weighted_sum(pull_NS) - found_3S * (pull_NS * cosine_NS).sum(0)
        step_3S = toward_3S / weight_NS.sum(0).clamp(min=1e-6)
        length_S = step_3S.norm(dim=0).clamp(min=1e-12)
        found_3S = _normalised((found_3S * length_S.cos() + step_3S / length_S * length_S.sin())[None])[0]
    better_S = (cosines(found_3S).acos() * known_NS).sum(0) < (cosines(start_3S).acos() * known_NS).sum(0)
    return torch.where(better_S, found_3S, start_3S)


class _NormalsMeter(Meter):
    def __init__(self, kind: Normals) -> None:
        self._kind = kind
        self._total: Tensor | float = 0.0
        self._close: dict[str, Tensor | int] = dict.fromkeys(_THRESHOLDS, 0)
        self._bins: Tensor | None = None
        self._count = 0

    @torch.no_grad()
    def update(self, output: Tensor, target: Tensor, labelled: Tensor) -> None:
        predicted = repeat_constant(self._kind.decode(output), target)
        mask = _mask(target, labelled)
        predicted = predicted.movedim(1, -1)[mask]
        truth = target.movedim(1, -1)[mask].to(predicted.dtype)
        if len(truth) == 0:
            return
        # The arc cosine of a float32 cannot tell angles below 0.03 degrees; the arc tangent can, and does not mind lengths.
        cross = torch.linalg.cross(predicted, truth).norm(dim=-1)
        angle = torch.atan2(cross, (predicted * truth).sum(-1)).rad2deg()
        bins = torch.bincount((angle / _RESOLUTION).round().long(), minlength=round(180 / _RESOLUTION) + 1)
        self._bins = bins if self._bins is None else self._bins + bins
        self._total = self._total + angle.sum()
        for name, degrees in _THRESHOLDS.items():
            self._close[name] = self._close[name] + (angle < degrees).sum()
        self._count += len(truth)

    def compute(self) -> dict[str, float]:
        if self._bins is None:
            return dict.fromkeys(self._kind.metrics, float("nan"))
        below = self._bins.cpu().cumsum(0)
        middle = torch.tensor([(self._count + 1) // 2, self._count // 2 + 1])
        return {
            "mean_angle": float(self._total) / self._count,
            "median_angle": float(torch.searchsorted(below, middle).double().mean()) * _RESOLUTION,
            **{name: int(close) / self._count for name, close in self._close.items()},
        }
