"""A linear head, after pooling where the input is a map."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor, nn

from m3tl_cli.core.contracts import Signature, Task
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.core.widths import Width
from m3tl_cli.heads.base import Head


class Linear(Head):
    """Predict one vector per sample.

    A map is pooled to its mean and its maximum over all cells, concatenated: the mean serves what fills the scene (light, weather),
    the maximum what is somewhere in it (the nearest vehicle).

    Args:
        hidden: Widths of hidden layers with ReLU between the pooled features and `out`; empty for none.
        task: Gives the number of outputs.
        inputs: Vector or map that the backbone gives.

    Raises:
        ConfigError: If a hidden layer has no unit.
    """

    def __init__(self, *, hidden: list[Annotated[int, Width()]], task: Task, inputs: Signature) -> None:
        super().__init__()
        if any(width < 1 for width in hidden):
            raise ConfigError(
                f"`hidden` must be a list of widths of at least 1; found {list(hidden)}.", hint="hidden=[64]", place=task.name
            )
        widths = [2 * inputs.dim if inputs.kind == "map" else inputs.dim, *hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.hidden = nn.Sequential(*layers)
        self.out = nn.Linear(widths[-1], task.num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Predict [B, num_outputs] from a vector [B, D] or a map [B, D, h, w]."""
        return self.out(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """What `out` reads, [B, width]."""
        pooled = torch.cat((x.mean((-2, -1)), x.amax((-2, -1))), 1) if x.dim() == 4 else x
        return self.hidden(pooled)

    def rows(self, y: Tensor) -> Tensor:
        """`y` [B, num_outputs] itself."""
        return y
