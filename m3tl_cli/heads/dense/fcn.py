"""A fully convolutional head."""

from __future__ import annotations

import math
from typing import Annotated

from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional as F

from m3tl_cli.core.contracts import Signature, Task
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.core.widths import Width
from m3tl_cli.heads.base import Head


class FCN(Head):
    """Predict one vector per pixel.

    A convolution with GroupNorm and ReLU, then the 1x1 convolution `out`. Where the label is r times as fine as the map, `out` puts
    out r x r pixels per cell, which are shuffled into place; else its output is resized bilinearly.

    Source: "Fully Convolutional Networks for Semantic Segmentation" (Long et al., CVPR 2015), https://arxiv.org/abs/1411.4038; pixel
    shuffle from "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network"
    (Shi et al., CVPR 2016), https://arxiv.org/abs/1609.05158.
    Differs from the papers: no skip connections (the backbone keeps its resolution); no deconvolution.

    Args:
        width: Channels between the two convolutions.
        kernel: Side of the first convolution; odd.
        groups: Most groups of the GroupNorm; taken is the greatest common divisor with the width.
        task: Gives the number of outputs and the label's size.
        inputs: Map that the backbone gives.

    Raises:
        ConfigError: If the backbone gives a vector, or the kernel is even.
    """

    def __init__(
        self,
        *,
        width: Annotated[int, Ge(1), Width()],
        kernel: Annotated[int, Ge(1)],
        groups: Annotated[int, Ge(1)],
        task: Task,
        inputs: Signature,
    ) -> None:
        super().__init__()
        if inputs.kind != "map":
            raise ConfigError(
                f"`inputs` of a dense task must be a map; found a {inputs.kind}.",
                hint="give the run a modality with a place in an image, or leave the task out: tasks=[...]",
                place=task.name,
            )
        if kernel % 2 == 0:
            raise ConfigError(f"`kernel` must be odd; found {kernel}.", hint=f"kernel={kernel + 1}", place=task.name)
        rows, columns = task.size
        factor = rows // inputs.grid[0]
        fits = factor > 0 and (rows, columns) == (factor * inputs.grid[0], factor * inputs.grid[1])
        self.factor = factor if fits else 1
        self.size = (rows, columns)
        self.grid = inputs.grid
        self.hidden = nn.Sequential(
            nn.Conv2d(inputs.dim, width, kernel, padding=kernel // 2, bias=False),
            nn.GroupNorm(math.gcd(groups, width), width),
            nn.ReLU(),
        )
        self.out = nn.Conv2d(width, task.num_outputs * self.factor**2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Predict [B, num_outputs, *task.size] from a map [B, D, h, w]."""
        output = F.pixel_shuffle(self.out(self.hidden(x)), self.factor)
        return output if output.shape[-2:] == self.size else F.interpolate(output, self.size, mode="bilinear", align_corners=False)

    def features(self, x: Tensor) -> Tensor:
        """What `out` reads at each cell, [B h w, width]."""
        return _cells(self.hidden(x))

    def rows(self, y: Tensor) -> Tensor:
        """`y` [B, num_outputs, *task.size] as `out` puts it out, [B h w, num_outputs r^2].

        The pixels of a cell are gathered, exactly the inverse of `forward`; where `forward` resizes, `y` is resized bilinearly the other
        way, which is no exact inverse.
        """
        size = (self.grid[0] * self.factor, self.grid[1] * self.factor)
        if self.size != size:
            y = F.interpolate(y, size, mode="bilinear", align_corners=False)
        return _cells(F.pixel_unshuffle(y, self.factor))


def _cells(x: Tensor) -> Tensor:
    """[B, D, h, w] as rows [B h w, D]."""
    return x.movedim(1, -1).flatten(0, -2)
