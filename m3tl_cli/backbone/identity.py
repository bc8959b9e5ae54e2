"""No backbone."""

from __future__ import annotations

from torch import nn

from m3tl_cli.backbone.base import Backbone
from m3tl_cli.core.contracts import Signature


class Identity(Backbone):
    """Hand the fused features on to the heads as they are.

    It has no stage and no parameter. The network is then encoders, fusion and heads: an inner loop whose scope names the backbone adapts
    nothing in it, and a sharing that mixes backbones after each stage has nothing to mix.

    Args:
        inputs: Vector or map that the fusion gives, and that comes out.
    """

    def __init__(self, *, inputs: Signature) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        self.signature = inputs
