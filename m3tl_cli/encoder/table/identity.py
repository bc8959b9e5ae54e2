"""No encoder."""

from __future__ import annotations

import torch
from torch import Tensor

from m3tl_cli.core.contracts import ModalityInfo, Signature
from m3tl_cli.encoder.base import Encoder


class Identity(Encoder):
    """Hand the standardised columns on as they are; a missing cell is 0, the column's mean.

    It has no parameters: followed by no fusion, no backbone and a linear head, the network is a linear model.

    Args:
        modality: Gives the number of columns.
    """

    def __init__(self, *, modality: ModalityInfo) -> None:
        super().__init__()
        self.signature = Signature("vector", modality.channels)

    def forward(self, x: Tensor) -> Tensor:
        """The rows [B, C], 0 where NaN."""
        return torch.where(x.isnan(), x.new_zeros(()), x)
