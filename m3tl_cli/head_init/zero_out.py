"""A last layer of zeros."""

from __future__ import annotations

import torch
from torch import Tensor

from m3tl_cli.head_init.base import HeadInit, Support


class ZeroOut(HeadInit):
    """Start the last layer at a weight of 0 and the support's prior as the bias: the first prediction is the prior.

    The first gradient step on the cross-entropy of C classes is one towards class means: the weight of class c moves by
    rate n_c / N (mean of c's rows - mean of all), where the bias holds the exact frequencies n_c / N.
    """

    needs_features = False

    def out(self, weight_OD: Tensor, bias_O: Tensor | None, support: Support) -> tuple[Tensor, Tensor | None]:
        """Zeros, and the prior."""
        return torch.zeros_like(weight_OD), None if bias_O is None else support.prior_O
