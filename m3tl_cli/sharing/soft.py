"""Soft parameter sharing."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from m3tl_cli.core.contracts import Name, Params, TaskName
from m3tl_cli.sharing.base import Column, Sharing


class Soft(Sharing):
    """Give every task a network of its own, and pull the networks towards their mean.

    The objective gains strength / 2 * sum over tasks t of |theta_t - mean of theta|^2, which belongs to no task and is not balanced. It
    equals strength / (2 T) * sum over pairs i < j of |theta_i - theta_j|^2, so that a form by pairs needs no option of its own. At 0
    these are separate networks, to the bit; as it grows they become one.

    Between linear models on heads of one shape this is mean-regularised multi-task learning: w_t = w_0 + v_t, of which the strength
    shrinks v_t and the optimiser's weight decay shrinks both.

    Source: "Regularized Multi-Task Learning" (Evgeniou and Pontil, KDD 2004), after elimination of w_0; for networks "Low Resource
    Dependency Parsing: Cross-lingual Parameter Sharing in a Neural Network Parser" (Duong et al., ACL 2015).
    Differs from the first: shrinking all weights is left to the optimiser's weight decay; from the second: the pull is to the mean of all
    tasks, not to the network of one.

    Full-batch descent of rate r is stable where r (strength + curvature of the loss) is below 2; with a momentum of m below 2 (1 + m), with
    Nesterov's below 2 (1 + m) / (1 + 2 m), which is 1.36 at .9.

    Args:
        strength: Factor of the penalty, at least 0.
        heads: Whether heads whose parameters have the same names and shapes are pulled, too; of use only where tasks mean the same by
            their outputs, as in one task observed in many places.
        num_stages: Stages of the backbone.
    """

    def __init__(self, *, strength: Annotated[float, Ge(0)], heads: bool, num_stages: int) -> None:
        super().__init__(num_stages=num_stages)
        self.strength, self.heads = strength, heads

    def input_column(self, task: TaskName) -> Column:
        """The task's own."""
        return task

    def backbone_column(self, task: TaskName) -> Column:
        """The task's own."""
        return task

    def penalty(self, params: Params) -> Tensor | None:
        """Half the strength times the squared distances to the mean; None where nothing is pulled.

        Tensors are partners where their names differ in the column alone and their shapes are equal.
        """
        if self.strength == 0:
            return None
        families = ("encoder", "fusion", "backbone", "head") if self.heads else ("encoder", "fusion", "backbone")
        partners: dict[tuple[str, str, torch.Size], list[Tensor]] = {}
        for name, value in params.items():
            family, rest = _without_column(name)
            if family in families:
                partners.setdefault((family, rest, value.shape), []).append(value)
        stacked = [torch.stack(found) for found in partners.values() if len(found) > 1]
        if not stacked:
            return None
        distances = torch.stack([(x - x.mean(0)).square().sum() for x in stacked])
        return self.strength / 2 * distances.sum()


def _without_column(name: Name) -> tuple[str, str]:
    """Family of a parameter and what follows its column: `head.depth.out.weight` is (head, out.weight)."""
    family, _, rest = name.partition(".")
    return family, rest.partition(".")[2]
