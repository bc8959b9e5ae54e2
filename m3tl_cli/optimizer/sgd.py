"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from m3tl_cli.core.contracts import Name
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.optimizer.base import OptimizerBuilder, Rate, same_rate


class SGD(OptimizerBuilder):
    """Build stochastic gradient descent with momentum: v <- momentum v + g + weight_decay p; p <- p - lr v.

    Source: Sutskever et al., "On the Importance of Initialization and Momentum in Deep Learning", ICML 2013; torch's implementation.
    Differs from the paper: the learning rate multiplies the velocity, not the gradient, so that a schedule acts at once.
    Weight decay is the gradient of an L2 penalty and acts on every parameter.

    Args:
        lr: Peak learning rate, above 0.
        momentum: Share of the velocity that is kept, in [0, 1); 0 is plain descent.
        nesterov: Look ahead along the velocity; needs momentum.
        weight_decay: Factor of the L2 penalty, at least 0.

    Raises:
        ConfigError: If `nesterov` is asked for without momentum.
    """

    def __init__(
        self,
        *,
        lr: Annotated[float, Gt(0)],
        momentum: Annotated[float, Ge(0), Lt(1)],
        nesterov: bool,
        weight_decay: Annotated[float, Ge(0)],
    ) -> None:
        if nesterov and momentum == 0:
            raise ConfigError(
                "`momentum` must be above 0 where `nesterov` is true; found 0.",
                place="optimizer.momentum",
                hint="optimizer.momentum=0.9 or optimizer.nesterov=false",
            )
        self.lr = lr
        self.momentum = momentum
        self.nesterov = nesterov
        self.weight_decay = weight_decay

    def build(self, params: Mapping[Name, Tensor], rate: Rate = same_rate) -> torch.optim.Optimizer:
        """SGD over `params`.

        Args:
            params: Leaves by name, at least one.
            rate: Factor of the learning rate by name.

        Returns:
            An optimiser with a group per factor, which holds its names in the order of `params` under `names`, and its peak learning
            rate under `initial_lr`.

        Raises:
            ConfigError: If `params` is empty.
        """
        if not params:
            raise ConfigError("`params` must hold at least one parameter to train; found none.", place="optimizer")
        rates = {name: rate(name) for name in params}
        groups = []
        for factor in dict.fromkeys(rates.values()):
            names = [n for n in params if rates[n] == factor]
            lr = self.lr * factor
            groups.append({"params": [params[n] for n in names], "names": names, "lr": lr, "initial_lr": lr})
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov, weight_decay=self.weight_decay)
