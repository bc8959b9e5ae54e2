"""A residual network that keeps its resolution."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from m3tl_cli.backbone.base import Backbone
from m3tl_cli.core.contracts import Signature
from m3tl_cli.core.widths import Width


class ResNet(Backbone):
    """Refine a map, or a vector, by residual blocks.

    Block: ReLU(x + norm(conv(ReLU(norm(conv(x)))))). Every stage keeps the grid and looks twice as far as the one before: the
    convolutions of stage s are dilated by 2^s. On a vector the same network is a residual perceptron: 1x1 convolutions on one cell.

    Source: basic block of "Deep Residual Learning for Image Recognition" (He et al., CVPR 2016), https://arxiv.org/abs/1512.03385;
    dilation for resolution from "Dilated Residual Networks" (Yu et al., CVPR 2017), https://arxiv.org/abs/1705.09914.
    Differs from the papers: GroupNorm; one width throughout.

    Args:
        width: Channels of every stage.
        num_stages: Stages; a sharing may exchange features after each.
        blocks_per_stage: Residual blocks of a stage.
        groups: Most groups of a GroupNorm; taken is the greatest common divisor with the width. Vectors have one group.
        inputs: Vector or map that the fusion gives; brought to `width` by a 1x1 convolution where its dim differs.
    """

    def __init__(
        self,
        *,
        width: Annotated[int, Ge(2), Width()],
        num_stages: Annotated[int, Ge(1)],
        blocks_per_stage: Annotated[int, Ge(1)],
        groups: Annotated[int, Ge(1)],
        inputs: Signature,
    ) -> None:
        super().__init__()
        kernel, groups = (1, 1) if inputs.kind == "vector" else (3, math.gcd(groups, width))
        self.stages = nn.ModuleList()
        for stage in range(num_stages):
            blocks: list[nn.Module] = [_Block(width, kernel, 2**stage, groups) for _ in range(blocks_per_stage)]
            if stage == 0 and inputs.dim != width:
                blocks.insert(0, _Bring(inputs.dim, width))
            self.stages.append(nn.Sequential(*blocks))
        self.signature = Signature(inputs.kind, width, inputs.grid)


class _Bring(nn.Module):
    """Change the number of channels."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(inputs, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.dim() == 4 else self.layer(x[..., None, None]).flatten(1)


class _Block(nn.Module):
    """Two convolutions and the way around them."""

    def __init__(self, width: int, kernel: int, dilation: int, groups: int) -> None:
        super().__init__()

        def layer() -> list[nn.Module]:
            convolution = nn.Conv2d(width, width, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=False)
            return [convolution, nn.GroupNorm(groups, width)]

        self.layers = nn.Sequential(*layer(), nn.ReLU(), *layer())

    def forward(self, x: Tensor) -> Tensor:
        change = self.layers(x) if x.dim() == 4 else self.layers(x[..., None, None]).flatten(1)
        return torch.relu(x + change)
