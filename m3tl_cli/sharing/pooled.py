"""One model for all tasks."""

from __future__ import annotations

from collections.abc import Sequence

from m3tl_cli.core.contracts import TaskName
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.sharing.base import Column, Sharing


class Pooled(Sharing):
    """Give all tasks one network and one head, as if they were one task; each is still scored by itself.

    The baseline of tasks that share their label space: one task observed in many places. The losses are still balanced by task: with
    their sum, tasks weigh alike whatever number of samples they have.

    Args:
        num_stages: Stages of the backbone.
    """

    def __init__(self, *, num_stages: int) -> None:
        super().__init__(num_stages=num_stages)
        self._together: frozenset[TaskName] = frozenset()

    def input_column(self, task: TaskName) -> Column:  # noqa: ARG002
        """`shared`."""
        return "shared"

    def backbone_column(self, task: TaskName) -> Column:  # noqa: ARG002
        """`shared`."""
        return "shared"

    def head_column(self, task: TaskName) -> Column:  # noqa: ARG002
        """`shared`."""
        return "shared"

    def start(self, tasks: Sequence[TaskName]) -> None:
        """Note the tasks that share the head."""
        self._together = frozenset(tasks)

    def grow(self, task: TaskName, like: TaskName | None = None) -> None:  # noqa: ARG002
        """Refuse tasks that come later: there is no head to build for them that the others would not lose.

        Raises:
            ConfigError: If the task was not there at the start.
        """
        if task not in self._together:
            raise ConfigError(
                f"tasks that share one head must all be there at the start; found `{task}`, which is new.",
                hint="new_tasks=[], or another sharing",
                place="sharing",
            )
