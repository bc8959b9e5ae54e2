"""Equal weighting of the mean."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from m3tl_cli.balancing.base import Balancer
from m3tl_cli.core.contracts import TaskName


class Mean(Balancer):
    """Average the losses: every task counts 1 / T of the T tasks of the stage.

    Joint training minimises L = (1 / T) sum over tasks of L_i. Under plain gradient descent that is `sum` at 1 / T of its rate and T
    times its weight decay; so rates and decay that suit one task suit any number of them. T is that of the stage, also in a step
    where some tasks are absent: a task does not count more for the company it keeps.

    Cost: nothing.
    """

    needs = "nothing"

    def __init__(self) -> None:
        self._num_tasks = 0

    def reset(self, tasks: Sequence[TaskName]) -> None:
        """Note how many tasks the stage has."""
        self._num_tasks = len(tasks)

    def weights(self, losses_T: Tensor, tasks: Sequence[TaskName]) -> Tensor:
        """1 / T each, [T]; `losses_T` gives only the type and the device."""
        return losses_T.new_full((len(tasks),), 1 / (self._num_tasks or len(tasks)))
