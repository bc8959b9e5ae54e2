"""Contract of backbones."""

from __future__ import annotations

from abc import ABC

from torch import Tensor, nn

from m3tl_cli.core.contracts import Signature


class Backbone(nn.Module, ABC):
    """A chain of stages, applied in order.

    A subclass takes its hyper-parameters and `inputs: Signature` (vector or map) as keywords and sets both fields.
    """

    signature: Signature
    stages: nn.ModuleList

    def forward(self, x: Tensor) -> Tensor:
        """Apply every stage to a vector [B, D] or map [B, D, H, W]."""
        for stage in self.stages:
            x = stage(x)
        return x
