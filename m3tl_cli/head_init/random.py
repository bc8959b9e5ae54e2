"""A new head as its constructor made it."""

from __future__ import annotations

from torch import Tensor

from m3tl_cli.head_init.base import HeadInit, Support


class Random(HeadInit):
    """Keep the start that the head's constructor drew; the baseline.

    Source: what the code of "Multi-Task Meta Learning: learn how to adapt to unseen tasks" (Upadhyay et al., IJCNN 2023),
    https://arxiv.org/abs/2210.06989, does for a new task.
    """

    needs_features = False

    def out(self, weight_OD: Tensor, bias_O: Tensor | None, support: Support) -> tuple[Tensor, Tensor | None]:  # noqa: ARG002
        """As constructed."""
        return weight_OD, bias_O
