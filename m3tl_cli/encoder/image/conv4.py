"""The four-block convolutional network of the few-shot papers."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Literal

from annotated_types import Ge
from torch import Tensor, nn

from m3tl_cli.core.contracts import ModalityInfo, Signature
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.core.widths import Width
from m3tl_cli.encoder.base import Encoder

BLOCKS = 4
SMALLEST = 2**BLOCKS  # pixels; each block halves the image


class Conv4(Encoder):
    """Turn an image into a vector by four blocks of convolution, norm, ReLU and pooling.

    Block: 3x3 convolution with `width` filters and padding 1, norm, ReLU, 2x2 maximum pooling that rounds down. The last map is
    flattened: a 28 x 28 image gives `width` features, 84 x 84 gives 25 times as many.

    Norm `batch` takes mean and variance from the batch at hand, in training and in evaluation alike, and keeps no running ones: a
    sample's output depends on the others in its batch, so that scores of a query batch are TRANSDUCTIVE, as in the code of Finn et al.,
    and do not compare with `group`, under which every sample stands alone.

    Source: "Matching Networks for One Shot Learning" (Vinyals et al., NeurIPS 2016), https://arxiv.org/abs/1606.04080, section 4.1.1,
    and "Prototypical Networks for Few-shot Learning" (Snell et al., NeurIPS 2017), https://arxiv.org/abs/1703.05175, section 3.1;
    "Group Normalization" (Wu and He, ECCV 2018), https://arxiv.org/abs/1803.08494.
    Differs from the papers: GroupNorm by default. Differs from MAML's Omniglot net (Finn et al., ICML 2017), which halves by strides.

    Args:
        width: Filters of each block.
        norm: `group`, or `batch`: statistics of the batch, never running ones.
        groups: Most groups of a GroupNorm; taken is the greatest common divisor with the width.
        modality: Gives the channels and the size, 16 pixels or more each way.

    Raises:
        ConfigError: If the image is too small to be halved four times.
    """

    def __init__(
        self,
        *,
        width: Annotated[int, Ge(1), Width()],
        norm: Literal["group", "batch"],
        groups: Annotated[int, Ge(1)],
        modality: ModalityInfo,
    ) -> None:
        super().__init__()
        rows, columns = modality.size
        if min(rows, columns) < SMALLEST:
            raise ConfigError(
                f"`size` of `{modality.name}` must be at least {SMALLEST} pixels each way, to be halved {BLOCKS} times; "
                f"found {rows} x {columns}.",
                hint="data.size=28, or encoder/image=conv",
                place="data.size",
            )
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((modality.channels, *[width] * BLOCKS)):
            normalise = (
                nn.BatchNorm2d(outputs, track_running_stats=False) if norm == "batch" else nn.GroupNorm(math.gcd(groups, outputs), outputs)
            )
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), normalise, nn.ReLU(), nn.MaxPool2d(2)]
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.signature = Signature("vector", width * (rows // SMALLEST) * (columns // SMALLEST))

    def forward(self, x: Tensor) -> Tensor:
        """Encode an image [B, C, H, W] of the modality's size, in [0, 1], to a vector [B, D]."""
        return self.layers(x)
