"""One class per pixel."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge, Lt
from torch import Tensor
from torch.nn import functional as F

from m3tl_cli.core.contracts import Task
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.task.base import Meter, MetricInfo, Picture, TaskKind
from m3tl_cli.task.masking import as_float, log_frequencies, masked_mean, one_hot_signs, per_sample, repeat_constant
from m3tl_cli.task.palette import UNLABELLED, class_colours


class Segmentation(TaskKind):
    """Predict the class of every pixel.

    Output [B, C, H, W] logits; target [B, H, W] int64, -1 where a pixel has no label. Loss: cross-entropy in nats, averaged over the
    labelled pixels of the batch.
    Trivial predictor: the training labels' class frequencies AT EACH PIXEL POSITION, whose maximum is the majority class there: it
    knows the camera and not the image, and is far stronger than one class everywhere (sky is above). It is the best constant for pixel
    accuracy and for cross-entropy. A position that was never labelled takes the frequencies of all pixels.

    Args:
        task: Dense, with `classes`, as many as `num_outputs`.
        label_smoothing: Share of the target's probability that is spread evenly over all classes, in [0, 1).

    Raises:
        ConfigError: If the task has another number of classes than of outputs.
    """

    primary = "miou"
    activation = "softmax"

    def __init__(self, *, task: Task, label_smoothing: Annotated[float, Ge(0), Lt(1)]) -> None:
        super().__init__(task=task)
        if len(task.classes) != task.num_outputs or task.num_outputs < 2:
            raise ConfigError(
                f"`classes` must be two or more, one for each of the {task.num_outputs} outputs; found {len(task.classes)}.",
                place=f"task.{task.name}",
                hint="choose another kind for this task, such as depth",
            )
        self.label_smoothing = label_smoothing
        self.metrics = {
            "miou": MetricInfo("higher", 1.0, "", "intersection over union, averaged over the classes that occur in the labels"),
            "pixel_accuracy": MetricInfo("higher", 1.0, "", "share of pixels whose class is right"),
        }

    def loss(self, output: Tensor, target: Tensor, labelled: Tensor) -> Tensor:
        """Mean cross-entropy in nats over the labelled pixels; see `TaskKind.loss`."""
        mask = per_sample(labelled, target) & (target >= 0)
        logits = torch.where(mask[:, None], as_float(output), 0.0)
        losses = F.cross_entropy(logits, torch.where(mask, target, 0).long(), reduction="none", label_smoothing=self.label_smoothing)
        return masked_mean(losses, mask)

    def meter(self) -> Meter:
        """A fresh meter; loads torchmetrics, which takes seconds the first time."""
        return _SegmentationMeter(self.task.num_outputs)

    def trivial(self, target: Tensor, labelled: Tensor) -> Tensor:
        """Logarithms of the class frequencies at each position, [1, C, H, W]; see `TaskKind.trivial`."""
        counts_CHW = torch.stack([((target == c) & per_sample(labelled, target)).sum(0) for c in range(self.task.num_outputs)])
        everywhere_C11 = log_frequencies(counts_CHW.sum((1, 2)))[:, None, None]
        return torch.where(counts_CHW.sum(0) > 0, log_frequencies(counts_CHW), everywhere_C11)[None]

    def ideal_output(self, target: Tensor, labelled: Tensor) -> tuple[Tensor, Tensor]:
        """+1 at the class and -1 at the others, [B, C, H, W]; see `TaskKind.ideal_output`."""
        return one_hot_signs(target, per_sample(labelled, target) & (target >= 0), self.task.num_outputs)

    def decode(self, output: Tensor) -> Tensor:
        """Class indices [B, H, W], int64."""
        return output.argmax(1)

    def draw(self, value: Tensor) -> Picture | str:
        """Each class in its colour, pixels without a label in grey, [H, W, 3]."""
        colours = class_colours(self.task.classes)
        index = value.cpu().long().numpy()
        picture: Picture = colours[index.clip(0)]
        picture[index < 0] = UNLABELLED
        return picture


class _SegmentationMeter(Meter):
    def __init__(self, num_classes: int) -> None:
        from torchmetrics.classification import MulticlassJaccardIndex

        self._jaccard = MulticlassJaccardIndex(num_classes, average="none", validate_args=False, sync_on_compute=False)
        self._empty = True

    @torch.no_grad()
    def update(self, output: Tensor, target: Tensor, labelled: Tensor) -> None:
        mask = per_sample(labelled, target) & (target >= 0)
        truth = target[mask].long()
        if len(truth) == 0:
            return
        predicted = repeat_constant(output.argmax(1), target)[mask]
        self._jaccard.to(output.device).update(predicted, truth)
        self._empty = False

    def compute(self) -> dict[str, float]:
        if self._empty:
            return {"miou": float("nan"), "pixel_accuracy": float("nan")}
        confusion_CC = self._jaccard.confmat  # rows are labels
        # torchmetrics' own macro average also counts classes that were only predicted, as 0: one wrong pixel would cost 1 / C.
        present_C = confusion_CC.sum(1) > 0
        return {
            "miou": float(self._jaccard.compute()[present_C].mean()),
            "pixel_accuracy": int(confusion_CC.diagonal().sum()) / int(confusion_CC.sum()),
        }
