"""Fusion by concatenation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from m3tl_cli.core.contracts import Modality, Signature
from m3tl_cli.core.widths import Width
from m3tl_cli.fusion.align import Alignment
from m3tl_cli.fusion.base import Fusion


class Concat(Fusion):
    """Project every modality to the same width, concatenate, and mix linearly.

    h_m = ReLU(norm(P_m x_m)) where m is present, else a learned token e_m; output W [h_1, ..., h_M]. On maps P_m and W are 1x1
    convolutions, and vectors are broadcast.

    Args:
        width: D of each projection and of the output.
        groups: Most groups of a GroupNorm; taken is the greatest common divisor with the width. Vectors have one group.
        spread: Reach of a point on the image's grid: standard deviation as a share of the image's side.
        inputs: What the encoders give.
    """

    def __init__(
        self,
        *,
        width: Annotated[int, Ge(2), Width()],
        groups: Annotated[int, Ge(1)],
        spread: Annotated[float, Gt(0)],
        inputs: Mapping[Modality, Signature],
    ) -> None:
        super().__init__()
        self.align = Alignment(inputs, spread)
        self.project = nn.ModuleDict(
            {
                m: nn.Sequential(
                    nn.Conv2d(channels, width, 1, bias=False),
                    nn.GroupNorm(1 if m in self.align.flat else math.gcd(groups, width), width),
                    nn.ReLU(),
                )
                for m, channels in self.align.channels.items()
            }
        )
        self.absent = nn.ParameterDict({m: nn.Parameter(torch.zeros(width)) for m in inputs})
        self.merge = nn.Conv2d(len(inputs) * width, width, 1)
        self.signature = Signature(self.align.kind, width, self.align.grid)

    def forward(self, features: Mapping[Modality, Tensor], present: Mapping[Modality, Tensor], geometry: Mapping[str, Tensor]) -> Tensor:
        """Merge to a map [B, width, h, w], or to a vector [B, width] where no input has a place in an image."""
        aligned = self.align(features, present, geometry)
        projected = [
            torch.where(present[m].view(-1, 1, 1, 1), project(aligned[m]), self.absent[m].view(1, -1, 1, 1)).expand(
                -1, -1, *self.align.grid
            )
            for m, project in self.project.items()
        ]
        merged = self.merge(torch.cat(projected, 1))
        return merged.flatten(1) if self.signature.kind == "vector" else merged
