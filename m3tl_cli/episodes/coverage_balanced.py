"""Every task equally often in every step."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from m3tl_cli.episodes.base import Choice, SubsetSampler


class CoverageBalanced(SubsetSampler):
    """Cut random permutations of the tasks into blocks: every task is in equally many episodes of a step, at least one.

    A permutation gives at most T/2 (rounded down) blocks, whose sizes differ by at most 1. More episodes than that take several
    permutations, of which each is cut into as many blocks as the others, or one less. One episode holds all tasks.
    With one task an episode (`single`) blocks hold 1: as many episodes as tasks, or more, are permutations of which the last may be cut
    short; with fewer, permutations run on from step to step. Lower variance than independent subsets; the law of sizes is another, and
    no weights mend that.
    """

    def largest(self) -> int:
        """Most tasks of a block."""
        return -(-len(self.tasks) // min(self._blocks()))

    def choose(self, step: int, random: torch.Generator) -> Sequence[Choice]:
        """Blocks of permutations."""
        total = len(self.tasks)
        if self.sizes[-1] == 1 and self.num_episodes < total:
            places = [divmod(step * self.num_episodes + e, total) for e in range(self.num_episodes)]
            rounds = {r: torch.randperm(total, generator=self._random("round", r)).tolist() for r, _ in places}
            return [Choice((rounds[r][place],)) for r, place in places]
        chosen = []
        for number in self._blocks():
            order = torch.randperm(total, generator=random)
            chosen += [Choice(tuple(sorted(block.tolist()))) for block in order.tensor_split(number)]
        return chosen[: self.num_episodes]

    def _blocks(self) -> list[int]:
        """Number of blocks of each permutation of a step."""
        most = len(self.tasks) // self.sizes[0]
        rounds = -(-self.num_episodes // most)
        if self.sizes[-1] == 1:
            return [most] * rounds
        return [self.num_episodes // rounds + (r < self.num_episodes % rounds) for r in range(rounds)]
