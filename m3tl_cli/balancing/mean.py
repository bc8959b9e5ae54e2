"""Equal weighting of the mean."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from m3tl_cli.balancing.base import Balancer
from m3tl_cli.core.contracts import TaskName


class Mean(Balancer):
    """Average the losses: each of the T tasks of a step counts 1 / T.

    Joint training minimises L = (1 / T) sum over tasks of L_i. Under plain gradient descent that is `sum` at 1 / T of its rate and T
    times its weight decay; so rates and decay that suit one task suit any number of them. What only one task reads is weighed
    alike, so that tasks which share nothing learn 1 / T as fast under plain descent.

    Cost: nothing.
    """

    needs = "nothing"

    def weights(self, losses_T: Tensor, tasks: Sequence[TaskName]) -> Tensor:
        """1 / T each, [T]; `losses_T` gives only the type and the device."""
        return losses_T.new_full((len(tasks),), 1 / max(1, len(tasks)))
