"""Equal weighting."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from m3tl_cli.balancing.base import Balancer
from m3tl_cli.core.contracts import TaskName


class Sum(Balancer):
    """Add the losses as they are: every task counts 1.

    Under this balancer joint training minimises L = sum over tasks of L_i, so a task with a larger loss or a larger gradient has
    more say. It is the baseline that every other balancer must beat (Kurin et al., "In Defense of the Unitary Scalarization for
    Deep Multi-Task Learning", NeurIPS 2022, https://arxiv.org/abs/2201.04122).

    Differs from a mean: T times as large, so that a learning rate does not carry over between the two.

    Cost: nothing.
    """

    needs = "nothing"

    def weights(self, losses_T: Tensor, tasks: Sequence[TaskName]) -> Tensor:
        """Ones, [T]; `losses_T` gives only the type and the device."""
        return losses_T.new_ones(len(tasks))
