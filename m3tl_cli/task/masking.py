"""What all task kinds do about labels that are missing, outputs that are constant and numbers of low precision."""

from __future__ import annotations

import torch
from torch import Tensor


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
