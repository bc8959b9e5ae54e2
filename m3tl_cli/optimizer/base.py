"""Contract of optimiser options."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from m3tl_cli.core.contracts import Name


class OptimizerBuilder(ABC):
    """Hyper-parameters of an optimiser; a stage builds the optimiser itself after the model has grown.

    Attributes:
        lr: Peak learning rate; a scheduler multiplies it.
    """

    lr: float

    @abstractmethod
    def build(self, params: Mapping[Name, Tensor]) -> torch.optim.Optimizer:
        """An optimiser over `params`, whose groups keep the order of the names."""
