"""One class per sample."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge, Lt
from torch import Tensor
from torch.nn import functional as F

from m3tl_cli.core.contracts import Task
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.task.base import Meter, MetricInfo, Picture, TaskKind
from m3tl_cli.task.masking import as_float, log_frequencies, masked_mean, one_hot_signs, repeat_constant


class Multiclass(TaskKind):
    """Predict one of C classes that exclude one another.

    Output [B, C] logits; target [B] int64, the class's index, -1 for none. Loss: cross-entropy in nats.
    Trivial predictor: the training labels' class frequencies, whose maximum is the majority class: the best constant for accuracy and
    for cross-entropy alike.

    Args:
        task: With `classes`, as many as `num_outputs`.
        label_smoothing: Share of the target's probability that is spread evenly over all classes, in [0, 1). Source: Szegedy et al.,
            "Rethinking the Inception Architecture for Computer Vision", CVPR 2016, section 7.

    Raises:
        ConfigError: If the task has another number of classes than of outputs.
    """

    primary = "accuracy"
    activation = "softmax"

    def __init__(self, *, task: Task, label_smoothing: Annotated[float, Ge(0), Lt(1)]) -> None:
        super().__init__(task=task)
        if len(task.classes) != task.num_outputs or task.num_outputs < 2:
            raise ConfigError(
                f"`classes` must be two or more, one for each of the {task.num_outputs} outputs; found {len(task.classes)}.",
                place=f"task.{task.name}",
                hint="choose another kind for this task, such as regression",
            )
        self.label_smoothing = label_smoothing
        self.metrics = {
            "accuracy": MetricInfo("higher", 1.0, "", "share of samples whose class is right"),
            "macro_f1": MetricInfo("higher", 1.0, "", "F1 averaged over the classes that occur in labels or predictions"),
        }

    def loss(self, output: Tensor, target: Tensor, labelled: Tensor) -> Tensor:
        """Mean cross-entropy in nats over the labelled samples; see `TaskKind.loss`."""
        mask = labelled & (target >= 0)
        logits = torch.where(mask[:, None], as_float(output), 0.0)
        losses_B = F.cross_entropy(logits, torch.where(mask, target, 0).long(), reduction="none", label_smoothing=self.label_smoothing)
        return masked_mean(losses_B, mask)

    def meter(self) -> Meter:
        """A fresh meter; loads torchmetrics, which takes seconds the first time."""
        return _MulticlassMeter(self.task.num_outputs)

    def trivial(self, target: Tensor, labelled: Tensor) -> Tensor:
        """Logarithms of the class frequencies, [1, C]; see `TaskKind.trivial`."""
        known = target[labelled & (target >= 0)].long()
        return log_frequencies(torch.bincount(known, minlength=self.task.num_outputs))[None]

    def ideal_output(self, target: Tensor, labelled: Tensor) -> tuple[Tensor, Tensor]:
        """+1 at the class and -1 at the others, [B, C]; see `TaskKind.ideal_output`."""
        return one_hot_signs(target, labelled & (target >= 0), self.task.num_outputs)

    def decode(self, output: Tensor) -> Tensor:
        """Class indices [B], int64."""
        return output.argmax(1)

    def draw(self, value: Tensor) -> Picture | str:
        """The class's name."""
        index = int(value)
        return self.task.classes[index] if index >= 0 else "no label"


class _MulticlassMeter(Meter):
    def __init__(self, num_classes: int) -> None:
        from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

        # Ranks are averaged by the runtime and may evaluate alone: a metric that waited for the others would hang.
        self._metrics = {
            "accuracy": MulticlassAccuracy(num_classes, average="micro", validate_args=False, sync_on_compute=False),
            "macro_f1": MulticlassF1Score(num_classes, average="macro", validate_args=False, sync_on_compute=False),
        }
        self._empty = True

    @torch.no_grad()
    def update(self, output: Tensor, target: Tensor, labelled: Tensor) -> None:
        mask = labelled & (target >= 0)
        truth = target[mask].long()
        if len(truth) == 0:
            return
        predicted = repeat_constant(output, target)[mask].argmax(1)
        for metric in self._metrics.values():
            metric.to(output.device).update(predicted, truth)
        self._empty = False

    def compute(self) -> dict[str, float]:
        return {name: float("nan") if self._empty else float(metric.compute()) for name, metric in self._metrics.items()}
