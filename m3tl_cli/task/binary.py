"""Yes or no per sample."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

from m3tl_cli.core.contracts import Task
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.task.base import Meter, MetricInfo, Picture, TaskKind
from m3tl_cli.task.masking import as_float, repeat_constant, yes_or_no_loss, yes_or_no_signs


class Binary(TaskKind):
    """Predict yes or no, for example whether there is a mine.

    Output [B, 1] logits of yes; target [B] int64, 1 for yes, 0 for no, -1 for none. Loss: binary cross-entropy in nats.
    The primary metric is the area under the ROC curve: the probability that a yes stands before a no, ties counting half. It judges the
    order alone, so that neither a rare yes nor the scale of the outputs makes it blind. A set whose labels are all alike has no pair to
    judge; it scores .5, as guessing does, and is counted: left out, it would make the mean over tasks one over fewer and easier tasks.
    Trivial predictor: the share of yes among the training labels.

    Args:
        task: Vector, one output; `classes` are the names of no and yes, or empty.
        pos_weight: Times that a yes weighs in the loss, above 0; 1: outputs are calibrated probabilities.

    Raises:
        ConfigError: If the task has more than one output.
    """

    primary = "auroc"
    activation = "sigmoid"

    def __init__(self, *, task: Task, pos_weight: Annotated[float, Gt(0)]) -> None:
        super().__init__(task=task)
        if task.num_outputs != 1:
            raise ConfigError(
                f"`num_outputs` of a binary task must be 1; found {task.num_outputs}.",
                place=f"task.{task.name}",
                hint=f"+task@task.{task.name}=multiclass, or say in data.kinds that it is binary",
            )
        self.pos_weight = pos_weight
        self.metrics = {
            "auroc": MetricInfo("higher", 1.0, "", "area under the ROC curve; .5 where all labels are alike"),
            "average_precision": MetricInfo("higher", 1.0, "", "area under the curve of precision over recall"),
            "accuracy": MetricInfo("higher", 1.0, "", "share of samples on the right side of probability .5"),
        }

    def loss(self, output: Tensor, target: Tensor, labelled: Tensor) -> Tensor:
        """Mean binary cross-entropy in nats over the labelled samples; see `TaskKind.loss`."""
        return yes_or_no_loss(output, target, labelled, self.pos_weight)

    def meter(self) -> Meter:
        """A fresh meter, which keeps the output of every labelled sample; loads torchmetrics, which takes seconds the first time."""
        return _BinaryMeter(self)

    def trivial(self, target: Tensor, labelled: Tensor) -> Tensor:
        """Logit of the share of yes, [1, 1], one more of each counted; see `TaskKind.trivial`."""
        return self.prior(target, labelled)[None]

    def ideal_output(self, target: Tensor, labelled: Tensor) -> tuple[Tensor, Tensor]:
        """+1 for yes and -1 for no, [B, 1]; see `TaskKind.ideal_output`."""
        return yes_or_no_signs(target, labelled)

    def decode(self, output: Tensor) -> Tensor:
        """Probabilities of yes [B]."""
        return as_float(output)[:, 0].sigmoid()

    def draw(self, value: Tensor) -> Picture | str:
        """Yes or no by name, a prediction with its probability: "yes (0.93)"."""
        number = float(value)
        if number < 0:
            return "no label"
        word = (self.task.classes or ("no", "yes"))[number > 0.5]
        return f"{word} ({number:.2f})" if value.is_floating_point() else word


class _BinaryMeter(Meter):
    def __init__(self, kind: Binary) -> None:
        self._kind = kind
        self._logits: list[Tensor] = []
        self._truth: list[Tensor] = []

    @torch.no_grad()
    def update(self, output: Tensor, target: Tensor, labelled: Tensor) -> None:
        mask = labelled & (target >= 0)
        self._logits.append(as_float(repeat_constant(output, target))[:, 0][mask].cpu())
        self._truth.append(target[mask].cpu() > 0)

    def compute(self) -> dict[str, float]:
        from torchmetrics.functional.classification import binary_auroc, binary_average_precision

        truth = torch.cat(self._truth) if self._truth else torch.zeros(0, dtype=torch.bool)
        if len(truth) == 0:
            return dict.fromkeys(self._kind.metrics, float("nan"))
        logits, yes = torch.cat(self._logits), int(truth.sum())
        # Ranks in (0, 1), equal for equal logits: far from 0 two logits may have one and the same probability.
        order = (torch.unique(logits, return_inverse=True)[1].double() + 1) / (len(logits) + 1)
        return {
            "auroc": float(binary_auroc(order, truth.long(), validate_args=False)) if 0 < yes < len(truth) else 0.5,
            # Without a yes in the labels there is nothing to recall.
            "average_precision": float(binary_average_precision(order, truth.long(), validate_args=False)) if yes else float("nan"),
            "accuracy": float(((logits > 0) == truth).double().mean()),
        }
