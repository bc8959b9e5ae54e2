"""One task after the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from m3tl_cli.episodes.base import Choice, SubsetSampler


class Alternating(SubsetSampler):
    """Give every step to one task, in the order of the tasks; its episodes differ in their domains and samples.

    The classical way of training several tasks in turn, instead of on a summed loss. An episode holds one task in every paradigm.
    """

    def largest(self) -> int:
        """One task."""
        return 1

    def choose(self, step: int, random: torch.Generator) -> Sequence[Choice]:  # noqa: ARG002
        """The step's task."""
        return [Choice((step % len(self.tasks),))] * self.num_episodes
