"""PointNet: one small network for every point, and the maximum over all points."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from m3tl_cli.core.contracts import ModalityInfo, Signature
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.core.widths import Width
from m3tl_cli.encoder.base import Encoder


class PointNet(Encoder):
    """Turn every point into a token that also knows the whole cloud.

    f_n = local(p_n), g = max over the valid points of f_n, token_n = merge([f_n, g]).
    Tokens of invalid points are 0, whatever these points hold; so is everything of a cloud without a valid point.
    Tokens follow the order of the points: permuting the points permutes the tokens.

    Source: "PointNet: Deep Learning on Point Sets for 3D Classification and Segmentation" (Qi et al., CVPR 2017), segmentation
    network, https://arxiv.org/abs/1612.00593.
    Differs from the paper: no transformation nets; two layers before the maximum and one after; normalised over the channels of
    each point (GroupNorm with one group) instead of over the batch, so that no point sees another but through g.

    Args:
        width: D of the tokens.
        stride: Pixels of the image per cell of the map that the tokens would fill, along each side.
        scale: Metres that become 1 at the input.
        modality: Gives the columns of a point and the size of the image that the calibration projects on, if any.

    Raises:
        ConfigError: If a point has fewer than the columns x, y, z and valid.
    """

    def __init__(
        self,
        *,
        width: Annotated[int, Ge(2), Width()],
        stride: Annotated[int, Ge(1)],
        scale: Annotated[float, Gt(0)],
        modality: ModalityInfo,
    ) -> None:
        super().__init__()
        if modality.channels < 4:
            raise ConfigError(
                f"`channels` of points must be at least 4 (x, y, z, ..., valid); found {modality.channels}.",
                hint="append a column that is 1 where the ray returned",
                place=modality.name,
            )
        self.scale = scale
        self.local = nn.Sequential(
            nn.Linear(modality.channels - 1, width),
            nn.ReLU(),  # not normalised before: that would hide how far a point is
            nn.Linear(width, width),
            nn.GroupNorm(1, width),
            nn.ReLU(),
        )
        self.merge = nn.Sequential(nn.Linear(2 * width, width), nn.GroupNorm(1, width), nn.ReLU())
        grid = (-(-modality.size[0] // stride), -(-modality.size[1] // stride)) if modality.size else (1, 1)
        self.signature = Signature("tokens", width, grid)

    def forward(self, x: Tensor) -> Tensor:
        """Encode points [B, N, C] (x, y, z in metres, any other columns, valid in {0, 1}) to tokens [B, N, width]."""
        batch, points = x.shape[:2]
        valid = x[..., -1:] > 0.5
        zero = x.new_zeros(())
        x = torch.where(valid, torch.cat((x[..., :3] / self.scale, x[..., 3:-1]), -1), zero).flatten(0, 1)
        local = torch.where(valid, self.local(x).unflatten(0, (batch, points)), zero)
        # ReLU makes every feature >= 0, so the zeros of invalid points never win over a valid one.
        cloud = local.amax(1, keepdim=True).expand(batch, points, local.shape[-1])
        merged = self.merge(torch.cat((local, cloud), -1).flatten(0, 1)).unflatten(0, (batch, points))
        return torch.where(valid, merged, zero)
