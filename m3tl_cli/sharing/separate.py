"""No sharing."""

from __future__ import annotations

from m3tl_cli.core.contracts import TaskName
from m3tl_cli.sharing.base import Column, Sharing


class Separate(Sharing):
    """Give every task a network of its own: T independent runs in one process."""

    def input_column(self, task: TaskName) -> Column:
        """The task's own."""
        return task

    def backbone_column(self, task: TaskName) -> Column:
        """The task's own."""
        return task
