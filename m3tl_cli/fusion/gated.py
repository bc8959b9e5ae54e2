"""Gated fusion: every modality is trusted as far as the others suggest."""

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


class Gated(Fusion):
    """Add up the modalities with weights that depend on all of them.

    h_m = tanh(norm(P_m x_m)) and g = softmax over the present m of W [h_1, ..., h_M]; output sum_m g_m h_m, with one weight per
    modality and location. An absent modality weighs exactly 0, and W sees it as a learned constant; so is the output where all
    are absent.

    Source: the gated multimodal unit of "Gated Multimodal Units for Information Fusion" (Arevalo et al., ICLR workshop 2017),
    https://arxiv.org/abs/1702.01992, section 3.1.
    Differs from the paper: a softmax over the present modalities instead of z and 1 - z, which is the same for two; gates read h
    instead of x, as features of unlike widths are projected first; one weight per location instead of one per channel (at 48
    channels and two modalities these would double the cost of the fusion); GroupNorm before tanh, as encoders differ in scale;
    1x1 convolutions on maps, on which vectors are broadcast.

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
                    nn.Tanh(),
                )
                for m, channels in self.align.channels.items()
            }
        )
        self.gate = nn.Conv2d(len(inputs) * width, len(inputs), 1)
        self.signature = Signature(self.align.kind, width, self.align.grid)

    def forward(self, features: Mapping[Modality, Tensor], present: Mapping[Modality, Tensor], geometry: Mapping[str, Tensor]) -> Tensor:
        """Merge to a map [B, width, h, w], or to a vector [B, width] where no input has a place in an image."""
        aligned = self.align(features, present, geometry)
        projected = [project(aligned[m]).expand(-1, -1, *self.align.grid) for m, project in self.project.items()]
        logits = self.gate(torch.cat(projected, 1))
        there = torch.stack([present[m] for m in self.project], 1)[..., None, None]
        # The lowest finite number instead of -inf: a sample without any modality must not become NaN.
        gates = torch.where(there, logits, torch.finfo(logits.dtype).min).softmax(1)
        weighted = [gate * x for gate, x in zip(gates.split(1, 1), projected, strict=True)]
        merged = sum(weighted[1:], weighted[0])
        return merged.flatten(1) if self.signature.kind == "vector" else merged
