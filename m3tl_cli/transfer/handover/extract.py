"""Feature extraction: what was learnt is read, not changed."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from m3tl_cli.core.contracts import Name, Params
from m3tl_cli.transfer.base import HandOver, hold, is_head, parts


class Extract(HandOver):
    """Freeze everything handed over below the heads; train heads and whatever is new.

    Frozen networks run in evaluation mode: their normalisation keeps the statistics that it came with, and they drop nothing out, so
    that a sample always has the same features.

    Source: "literal transfer", as "How transferable are features in deep neural networks?" (Yosinski et al., NeurIPS 2014),
    https://arxiv.org/abs/1411.1792, freezes the copied layers.
    """

    def prepare(self, model: nn.Module, handed: Collection[Name], seed: int) -> frozenset[Name]:  # noqa: ARG002
        """Put the handed-over networks into evaluation mode for good; adds no name."""
        for part in parts(model, handed).values():
            for module in part.modules():
                hold(module)
        return frozenset()

    def trainable(self, params: Params, fresh: frozenset[Name], step: int, steps: int) -> frozenset[Name]:  # noqa: ARG002
        """Fresh names and heads, at every step."""
        return frozenset(n for n in params if n in fresh or is_head(n))
