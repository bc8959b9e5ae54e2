"""Yes or no per pixel."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from annotated_types import Gt, Lt
from torch import Tensor

from m3tl_cli.core.contracts import Task
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.task.base import Meter, MetricInfo, Picture, TaskKind
from m3tl_cli.task.masking import as_float, per_sample, repeat_constant, yes_or_no_loss, yes_or_no_signs
from m3tl_cli.task.palette import UNLABELLED


class BinaryMap(TaskKind):
    """Predict for every pixel whether it belongs to something, for example to an edge.

    Output [B, 1, H, W] logits of yes; target [B, H, W] int64, 1 for yes, 0 for no, -1 where a pixel has no label. Loss: binary
    cross-entropy in nats, averaged over the labelled pixels.
    The primary metric is the average precision: it judges the order of all pixels of all samples, so that neither a rare yes nor the
    scale of the outputs, as of a ridge regression on labels of +-1, makes it blind, which both do to a metric with a threshold.
    Trivial predictor: the share of yes AT EACH PIXEL POSITION of the training labels: it knows the camera and not the image. It is the
    best constant for cross-entropy and, where all positions have as many labels, up to ties for average precision. A position
    that was never labelled takes the share of all pixels.

    Args:
        task: Dense, one output.
        pos_weight: Times that a yes weighs in the loss, above 0. Other values than 1 shift all logits by its logarithm, which the
            order of the pixels does not show, and the metrics at a threshold do.
        threshold: Probability above which a pixel is called a yes, for `iou` and `f1`, in (0, 1).

    Raises:
        ConfigError: If the task has more than one output.
    """

    primary = "average_precision"
    activation = "sigmoid"

    def __init__(self, *, task: Task, pos_weight: Annotated[float, Gt(0)], threshold: Annotated[float, Gt(0), Lt(1)]) -> None:
        super().__init__(task=task)
        if task.num_outputs != 1:
            raise ConfigError(
                f"`num_outputs` of a binary map must be 1; found {task.num_outputs}.",
                place=f"task.{task.name}",
                hint="choose another kind for this task, such as segmentation",
            )
        self.pos_weight = pos_weight
        self.threshold = threshold
        at = f"where the probability is above {threshold:g}"
        self.metrics = {
            "average_precision": MetricInfo("higher", 1.0, "", "area under the curve of precision over recall, over all pixels"),
            "iou": MetricInfo("higher", 1.0, "", f"intersection over union of yes, {at}"),
            "f1": MetricInfo("higher", 1.0, "", f"harmonic mean of precision and recall, {at}"),
        }

    def loss(self, output: Tensor, target: Tensor, labelled: Tensor) -> Tensor:
        """Mean binary cross-entropy in nats over the labelled pixels; see `TaskKind.loss`."""
        return yes_or_no_loss(output, target, labelled, self.pos_weight)

    def meter(self) -> Meter:
        """A fresh meter, which keeps the probability of every labelled pixel; loads torchmetrics, which takes seconds the first time."""
        return _BinaryMeter(self)

    def trivial(self, target: Tensor, labelled: Tensor) -> Tensor:
        """Logits of the share of yes at each position, [1, 1, H, W]; see `TaskKind.trivial`."""
        known = per_sample(labelled, target) & (target >= 0)
        yes_HW, all_HW = (known & (target > 0)).sum(0), known.sum(0)
        everywhere = yes_HW.sum() / all_HW.sum().clamp(min=1) if bool(known.any()) else torch.tensor(0.5, device=target.device)
        share_HW = torch.where(all_HW > 0, yes_HW / all_HW.clamp(min=1), everywhere)
        # Not smoothed by counts, which would change the order; a share of 0 or 1 becomes one in a million from it.
        return torch.logit(share_HW.float(), eps=1e-6)[None, None]

    def ideal_output(self, target: Tensor, labelled: Tensor) -> tuple[Tensor, Tensor]:
        """+1 for yes and -1 for no, [B, 1, H, W]; see `TaskKind.ideal_output`."""
        return yes_or_no_signs(target, labelled)

    def decode(self, output: Tensor) -> Tensor:
        """Probabilities of yes [B, H, W]."""
        return as_float(output)[:, 0].sigmoid()

    def draw(self, value: Tensor) -> Picture | str:
        """No is dark, yes is bright (matplotlib's magma), pixels without a label in grey, [H, W, 3]."""
        from matplotlib import colormaps

        shown = value.detach().float().cpu().numpy()
        picture: Picture = (colormaps["magma"](shown.clip(0, 1))[..., :3] * 255).round().astype(np.uint8)
        picture[shown < 0] = UNLABELLED
        return picture


class _BinaryMeter(Meter):
    def __init__(self, kind: BinaryMap) -> None:
        from torchmetrics.classification import BinaryAveragePrecision

        self._kind = kind
        self._average = BinaryAveragePrecision(validate_args=False, sync_on_compute=False)
        self._true = self._called = self._both = torch.zeros((), dtype=torch.int64)
        self._empty = True

    @torch.no_grad()
    def update(self, output: Tensor, target: Tensor, labelled: Tensor) -> None:
        mask = per_sample(labelled, target) & (target >= 0)
        truth = target[mask] > 0
        if len(truth) == 0:
            return
        # Probabilities: torchmetrics would take logits for them wherever all of a batch happen to lie in [0, 1].
        probability = repeat_constant(self._kind.decode(output), target)[mask]
        self._average.to(probability.device).update(probability, truth.to(torch.int64))
        called = probability > self._kind.threshold
        self._true = self._true.to(truth.device) + truth.sum()
        self._called = self._called.to(truth.device) + called.sum()
        self._both = self._both.to(truth.device) + (truth & called).sum()
        self._empty = False

    def compute(self) -> dict[str, float]:
        if self._empty:
            return dict.fromkeys(self._kind.metrics, float("nan"))
        true, called, both = int(self._true), int(self._called), int(self._both)
        either = true + called - both
        return {
            # Without a yes in the labels there is nothing to recall.
            "average_precision": float(self._average.compute()) if true else float("nan"),
            "iou": both / either if either else float("nan"),
            "f1": 2 * both / (true + called) if either else float("nan"),
        }
