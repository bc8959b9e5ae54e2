"""Weights chosen by hand."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Annotated

from annotated_types import Ge
from torch import Tensor

from m3tl_cli.balancing.base import Balancer
from m3tl_cli.core.contracts import TaskName
from m3tl_cli.core.errors import ConfigError


class Static(Balancer):
    """Add the losses with fixed weights: L = sum over tasks of w_i L_i.

    Cost: nothing to run; the weights are hyper-parameters to search.

    Args:
        weights: w_i by name of the task, 0 or more; a task that is not named counts 1.
    """

    needs = "nothing"

    def __init__(self, *, weights: dict[str, Annotated[float, Ge(0)]]) -> None:
        self._weights: Mapping[TaskName, float] = dict(weights)

    def reset(self, tasks: Sequence[TaskName]) -> None:
        """Check the names against the tasks of the stage.

        Raises:
            ConfigError: A weight is for no task of the stage, or every task of the stage weighs 0.
        """
        for name in self._weights:
            if name not in tasks:
                near = difflib.get_close_matches(name, tasks, n=1) or list(tasks[:1])
                raise ConfigError(
                    f"`balancing.weights` must name tasks of the stage ({', '.join(tasks)}); found {name!r}.",
                    hint="".join(f"type '+balancing.weights.{task}={self._weights[name]}'" for task in near),
                    place="balancing.weights",
                )
        if tasks and not any(self._weights.get(task, 1.0) for task in tasks):
            raise ConfigError(
                f"`balancing.weights` must be above 0 for one task at least; found 0 for {', '.join(tasks)}.",
                hint=f"type '+balancing.weights.{tasks[0]}=1'",
                place="balancing.weights",
            )

    def weights(self, losses_T: Tensor, tasks: Sequence[TaskName]) -> Tensor:
        """The fixed weights of `tasks`, [T]; `losses_T` gives only the type and the device."""
        return losses_T.new_tensor([self._weights.get(task, 1.0) for task in tasks])
