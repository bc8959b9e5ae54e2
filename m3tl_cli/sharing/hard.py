"""Hard parameter sharing."""

from __future__ import annotations

from m3tl_cli.core.contracts import TaskName
from m3tl_cli.sharing.base import Column, Sharing


class Hard(Sharing):
    """Give all tasks one network up to their heads.

    Source: "Multitask Learning: A Knowledge-Based Source of Inductive Bias" (Caruana, ICML 1993).
    """

    def input_column(self, task: TaskName) -> Column:  # noqa: ARG002
        """`shared`."""
        return "shared"

    def backbone_column(self, task: TaskName) -> Column:  # noqa: ARG002
        """`shared`."""
        return "shared"
