"""A multi-layer perceptron for the rows of a table."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from m3tl_cli.core.contracts import ModalityInfo, Signature
from m3tl_cli.core.widths import Width
from m3tl_cli.encoder.base import Encoder


class MLP(Encoder):
    """Turn a row of numbers, some of which may be missing, into a vector.

    A missing cell is NaN: it is read as 0, and a second column per column says that it was missing (the missing-indicator method).
    Linear layers with ReLU; the last is normalised over its channels (GroupNorm with one group), so that tables arrive at the
    fusion at the scale of the other modalities.

    Args:
        width: D of the output and of every hidden layer.
        num_layers: Linear layers.
        modality: Gives the number of columns.
    """

    def __init__(self, *, width: Annotated[int, Ge(2), Width()], num_layers: Annotated[int, Ge(1)], modality: ModalityInfo) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(num_layers):
            layers += [nn.Linear(width if index else 2 * modality.channels, width)]
            layers += [nn.GroupNorm(1, width)] if index == num_layers - 1 else []
            layers += [nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.signature = Signature("vector", width)

    def forward(self, x: Tensor) -> Tensor:
        """Encode rows [B, C], standardised, NaN where missing, to vectors [B, width]."""
        missing = x.isnan()
        return self.layers(torch.cat((torch.where(missing, x.new_zeros(()), x), missing.to(x.dtype)), -1))
