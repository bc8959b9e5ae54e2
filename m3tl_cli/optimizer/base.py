"""Contract of optimiser options."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from m3tl_cli.core.contracts import Name

Rate = Callable[[Name], float]
"""Factor of the learning rate of one parameter."""


def same_rate(name: Name) -> float:  # noqa: ARG001 (a `Rate`)
    """The optimiser's own rate for every parameter."""
    return 1.0


class OptimizerBuilder(ABC):
    """Hyper-parameters of an optimiser; a stage builds the optimiser itself after the model has grown.

    Attributes:
        lr: Peak learning rate; a scheduler multiplies it.
    """

    lr: float

    @abstractmethod
    def build(self, params: Mapping[Name, Tensor], rate: Rate = same_rate) -> torch.optim.Optimizer:
        """An optimiser over `params`, whose groups keep the order of the names; each name learns at `rate(name)` times `lr`."""
