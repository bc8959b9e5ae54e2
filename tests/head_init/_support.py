"""Supports in float64 for the tests of head initialisations."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from m3tl_cli.core.contracts import generator
from m3tl_cli.head_init.base import Support


def normal(*shape: int, seed: object = 0) -> Tensor:
    return torch.randn(shape, generator=generator("support", seed, shape), dtype=torch.float64)


def of_numbers(features_ND: Tensor, ideal_NO: Tensor, known_NO: Tensor | None = None) -> Support:
    known_NO = torch.ones_like(ideal_NO, dtype=torch.bool) if known_NO is None else known_NO
    prior_O = torch.where(known_NO, ideal_NO, 0.0).sum(0) / known_NO.sum(0).clamp(min=1)
    return Support(prior_O, features_ND, ideal_NO, known_NO, "identity", ideal_NO.shape[1])


def of_classes(features_ND: Tensor, class_NR: Tensor, num_classes: int) -> Support:
    """Class per row and pixel of its cell; -1 unknown."""
    known_NCR = (class_NR >= 0)[:, None].expand(-1, num_classes, -1)
    ideal_NCR = torch.where(class_NR[:, None] == torch.arange(num_classes)[:, None], 1.0, -1.0).double()
    count_C = torch.stack([(class_NR == c).sum() for c in range(num_classes)]).double() + 1
    prior_O = (count_C / count_C.sum()).log().repeat_interleave(class_NR.shape[1])
    activation: Literal["softmax"] = "softmax"
    return Support(prior_O, features_ND, ideal_NCR.flatten(1), known_NCR.flatten(1), activation, num_classes)


def of_yes_or_no(features_ND: Tensor, yes_N: Tensor) -> Support:
    ideal_N1 = torch.where(yes_N, 1.0, -1.0).double()[:, None]
    odds = (yes_N.sum() + 1) / ((~yes_N).sum() + 1)
    return Support(odds.double().log()[None], features_ND, ideal_N1, torch.ones_like(ideal_N1, dtype=torch.bool), "sigmoid", 1)
