"""A small convolutional encoder of images."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from m3tl_cli.core.contracts import ModalityInfo, Signature
from m3tl_cli.core.widths import Width
from m3tl_cli.encoder.base import Encoder


class Conv(Encoder):
    """Turn an image and the coordinates of its pixels into a map at a fraction of its resolution.

    Three 3x3 convolutions, each with GroupNorm and ReLU, of width/2, width and width channels. The first halves the image and, at
    stride 4, so does the second; sizes that do not divide are rounded up. The coordinates let a dense task know where the horizon
    is, and keep the image's overall brightness, which normalisation would take away.

    Source: coordinate channels from "An intriguing failing of convolutional neural networks and the CoordConv solution"
    (Liu et al., NeurIPS 2018), https://arxiv.org/abs/1807.03247; "Group Normalization" (Wu and He, ECCV 2018),
    https://arxiv.org/abs/1803.08494.

    Args:
        width: Channels of the output; even.
        stride: Pixels of the image per cell of the map, along each side.
        groups: Most groups of a GroupNorm; taken is the greatest common divisor with the channels.
        modality: Gives the colour channels and the size in pixels.
    """

    def __init__(
        self,
        *,
        width: Annotated[int, Ge(2), Width()],
        stride: Literal[2, 4],
        groups: Annotated[int, Ge(1)],
        modality: ModalityInfo,
    ) -> None:
        super().__init__()
        half = width // 2
        self.layers = nn.Sequential(
            *_layer(modality.channels + 2, half, 2, groups),
            *_layer(half, width, stride // 2, groups),
            *_layer(width, width, 1, groups),
        )
        rows, columns = modality.size
        self.signature = Signature("map", width, (-(-rows // stride), -(-columns // stride)))

    def forward(self, x: Tensor) -> Tensor:
        """Encode an image [B, C, H, W] of any size, in [0, 1], to a map [B, width, ceil(H / stride), ceil(W / stride)]."""
        rows, columns = x.shape[-2:]
        vertical = torch.linspace(-1, 1, rows, dtype=x.dtype, device=x.device)[:, None].expand(rows, columns)
        horizontal = torch.linspace(-1, 1, columns, dtype=x.dtype, device=x.device).expand(rows, columns)
        place = torch.stack((horizontal, vertical)).expand(x.shape[0], 2, rows, columns)
        return self.layers(torch.cat((x - 0.5, place), 1))  # centred: the coordinates lie in [-1, 1]


def _layer(inputs: int, outputs: int, stride: int, groups: int) -> list[nn.Module]:
    # No bias: the norm would take it away again.
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return [convolution, nn.GroupNorm(math.gcd(groups, outputs), outputs), nn.ReLU()]
