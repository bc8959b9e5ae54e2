"""Adam with decoupled weight decay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from m3tl_cli.core.contracts import Name
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.optimizer.base import OptimizerBuilder, Rate, same_rate


class AdamW(OptimizerBuilder):
    """Build Adam with decoupled weight decay.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, algorithm 2; torch's implementation.
    Differs from the paper: parameters of fewer than two dimensions (biases, gains and shifts of normalisation) do not decay, nor do
    learned rates of an inner loop (`inner. ...`).

    Args:
        lr: Peak learning rate, above 0.
        betas: Decay rates of the running means of gradient and squared gradient, each in [0, 1).
        eps: Added to the root of the mean squared gradient, at least 0.
        weight_decay: Share of a weight that is taken away per update and unit of learning rate, at least 0.
    """

    def __init__(
        self,
        *,
        lr: Annotated[float, Gt(0)],
        betas: tuple[Annotated[float, Ge(0), Lt(1)], Annotated[float, Ge(0), Lt(1)]],
        eps: Annotated[float, Ge(0)],
        weight_decay: Annotated[float, Ge(0)],
    ) -> None:
        self.lr = lr
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay

    def build(self, params: Mapping[Name, Tensor], rate: Rate = same_rate) -> torch.optim.Optimizer:
        """AdamW over `params`.

        Args:
            params: Leaves by name, at least one.
            rate: Factor of the learning rate by name.

        Returns:
            An optimiser with a group per factor and of those that decay and those that do not, the decaying ones first; each holds its
            names in the order of `params` under `names`, and its peak learning rate under `initial_lr`.

        Raises:
            ConfigError: If `params` is empty.
        """
        if not params:
            raise ConfigError("`params` must hold at least one parameter to train; found none.", place="optimizer")
        groups = []
        rates = {name: rate(name) for name in params}
        for decays in (True, False):
            for factor in dict.fromkeys(rates.values()):
                names = [n for n, p in params.items() if (p.ndim >= 2 and not n.startswith("inner.")) == decays and rates[n] == factor]
                if names:
                    decay, lr = self.weight_decay if decays else 0.0, self.lr * factor
                    leaves = [params[n] for n in names]
                    groups.append({"params": leaves, "names": names, "weight_decay": decay, "lr": lr, "initial_lr": lr})
        return torch.optim.AdamW(groups, lr=self.lr, betas=(self.betas[0], self.betas[1]), eps=self.eps)
