"""Subsets of tasks, all alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from m3tl_cli.episodes.base import Choice, SubsetSampler, draw_sizes, draw_subset, uniform_size_law


class UniformSubset(SubsetSampler):
    """Draw subsets of at least two tasks, each as likely as any other, independently.

    The mean gradient of its episodes has the expectation of the mean over all subsets, at a cost that does not grow with the number of
    tasks. A task is in an episode with probability (2^(T-1) - 1) / (2^T - T - 1).
    """

    def choose(self, step: int, random: torch.Generator) -> Sequence[Choice]:  # noqa: ARG002
        """Sizes in proportion to the number of subsets that have them, then subsets of that size."""
        total = len(self.tasks)
        sizes = draw_sizes(self.sizes, uniform_size_law(total, self.sizes), self.num_episodes, random)
        return [Choice(draw_subset(total, k, random)) for k in sizes]
