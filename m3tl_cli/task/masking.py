"""What all task kinds do about labels that are missing, outputs that are constant and numbers of low precision."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from m3tl_cli.core.contracts import Task

_NO_SPREAD = 1e-6
"""Deviation over magnitude below which numbers in float32 count as equal."""


def as_float(x: Tensor) -> Tensor:
    """Float32, in which losses and metrics are computed; float64 stays as it is."""
    return x if x.dtype == torch.float64 else x.float()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Average where `mask` holds; exactly 0, with a gradient of exactly 0, where it holds nowhere.

    Free of Python branches on data, so that it runs under `vmap`. `values` must be finite where the mask does not hold: put a
    constant there BEFORE the operation that would make NaN of it, since the derivative of that operation poisons the gradient.

    Args:
        values: Any shape.
        mask: The same shape, bool.

    Returns:
        Scalar, attached to the graph.
    """
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def per_sample(labelled: Tensor, like: Tensor) -> Tensor:
    """View `labelled` [B] as [B, 1, ...], with as many dimensions as `like`."""
    return labelled.reshape(-1, *[1] * (like.ndim - 1))


def repeat_constant(output: Tensor, target: Tensor) -> Tensor:
    """Expand a constant output, a batch of 1, to the batch of `target`; any other output is returned as it is."""
    return output.expand(len(target), *output.shape[1:]) if len(output) == 1 else output


def log_frequencies(counts: Tensor) -> Tensor:
    """Logits that predict how often each class occurred: the constant of the least cross-entropy, its maximum the majority class.

    One more of each class is counted, so that a class that never occurred keeps a finite logit. The first class wins a tie.

    Args:
        counts: [C, ...] occurrences.

    Returns:
        [C, ...] natural logarithms of relative frequencies, float32.
    """
    more = counts.double() if counts.device.type != "mps" else counts.float()
    return ((more + 1) / (more + 1).sum(0)).log().float()


def with_statistics(task: Task, values: Tensor, known: Tensor) -> Task:
    """The task with the mean and the standard deviation of these values, for each output.

    Where they are too few or too much alike for a deviation, the task's own stays; a task without one takes the mean's magnitude, or 1
    where the mean is 0. Where none is known, the task's own mean stays, else 0.

    Args:
        task: Of C outputs.
        values: [N, C] in the unit of the targets.
        known: [N, C] bool.
    """
    means, stds = [], []
    for c in range(values.shape[1]):
        column = values[known[:, c], c].detach().cpu().double()
        mean = float(column.mean()) if len(column) else (task.mean[c] if task.mean else 0.0)
        std = float(column.std(correction=0)) if len(column) > 1 else 0.0
        if std <= _NO_SPREAD * abs(mean):
            std = task.std[c] if task.std else abs(mean) or 1.0
        means.append(mean)
        stds.append(std)
    return replace(task, mean=tuple(means), std=tuple(stds))


def yes_or_no_loss(output: Tensor, target: Tensor, labelled: Tensor, pos_weight: float) -> Tensor:
    """Mean binary cross-entropy in nats where there is a label.

    Args:
        output: [B, 1, ...] logits of yes.
        target: [B, ...] 1 for yes, 0 for no, -1 for none.
        labelled: [B] bool.
        pos_weight: Times that a yes weighs.
    """
    mask = per_sample(labelled, target) & (target >= 0)
    logits = torch.where(mask, as_float(output)[:, 0], 0.0)
    # Of two log-sigmoids neither is infinite, at any logit.
    losses = torch.where(target > 0, -pos_weight * F.logsigmoid(logits), -F.logsigmoid(-logits))
    return masked_mean(losses, mask)


def yes_or_no_signs(target: Tensor, labelled: Tensor) -> tuple[Tensor, Tensor]:
    """+1 for yes and -1 for no, [B, 1, ...] float32, 0 where there is no label; and where there is one, the same shape.

    Args:
        target: [B, ...] 1 for yes, 0 for no, -1 for none.
        labelled: [B] bool.
    """
    known = (per_sample(labelled, target) & (target >= 0))[:, None]
    return torch.where(known, torch.where(target[:, None] > 0, 1.0, -1.0), 0.0), known


def one_hot_signs(target: Tensor, known: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """+1 at the class and -1 at the others, [B, C, ...] float32, 0 where unknown; and where it is known, the same shape.

    Args:
        target: [B, ...] class indices.
        known: [B, ...] bool.
        num_classes: C.
    """
    classes = torch.arange(num_classes, device=target.device).reshape(1, -1, *[1] * (target.ndim - 1))
    everywhere = known[:, None].expand(-1, num_classes, *known.shape[1:])
    signs = torch.where(target[:, None] == classes, 1.0, -1.0)
    return torch.where(everywhere, signs, 0.0), everywhere
