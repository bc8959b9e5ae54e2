"""Subsets of tasks by their size first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le, Lt

from m3tl_cli.core.contracts import Pool, Task
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.episodes.base import Choice, SubsetSampler, draw_sizes, draw_subset, uniform_size_law


class SizeFirst(SubsetSampler):
    """Draw the number of tasks k by p(k) proportional to k^power, then any k of the tasks alike.

    A task is in an episode with probability E[k] / T. `max_size` bounds the memory of an episode; T alone gives episodes of all tasks.
    Where an episode holds one task (`single`), sizes have no say.

    Args:
        min_size: Fewest tasks of an episode, at least 2; at most T counts.
        max_size: Most tasks of an episode; None, or more than T: T.
        power: Of the size in its probability, in [-20, 20]; 0: every size alike.
        correct: Weigh episodes by the target law's probability over this one's, so that the expected gradient is that of all subsets
            alike; else drop it.
        num_episodes: Episodes of a step.
        num_shots: Support samples of an episode.
        num_query: Query samples of an episode.
        reduce: Weight of an episode: 1 ("sum") or 1 / num_episodes ("mean").
        cross_domain: Support and query come from two domains.
        fresh: Probability that one task of the episode gets a head that is built inside it.
        modality_dropout: Probability that a modality that a sample has is taken from it.
        pool: Where the samples come from.
        tasks: At least one.
        seed: Of every draw.
        single: Every episode holds exactly one task.

    Raises:
        ConfigError: If `min_size` is above `max_size`, or `correct` is on and a size between 2 and T is never drawn.
        DataError: If no domain has enough samples for a subset that may be drawn.
    """

    def __init__(
        self,
        *,
        min_size: Annotated[int, Ge(2)],
        max_size: Annotated[int, Ge(2)] | None,
        power: Annotated[float, Ge(-20), Le(20)],
        correct: bool,
        num_episodes: Annotated[int, Ge(1)],
        num_shots: Annotated[int, Ge(1)],
        num_query: Annotated[int, Ge(1)],
        reduce: Literal["sum", "mean"],
        cross_domain: bool,
        fresh: Annotated[float, Ge(0), Le(1)],
        modality_dropout: Annotated[float, Ge(0), Lt(1)],
        pool: Pool,
        tasks: Sequence[Task],
        seed: int,
        single: bool,
    ) -> None:
        total = len(tasks)
        first, last = min(min_size, total), min(max_size or total, total)
        if max_size is not None and min_size > max_size:
            raise ConfigError(
                f"`min_size` must be at most `max_size`; found {min_size} above {max_size}.",
                hint=f"episodes.min_size={max_size}",
                place="episodes.min_size",
            )
        if correct and not single and (first > 2 or last < total):
            raise ConfigError(
                f"`correct` must be off where sizes between 2 and {total} are never drawn; found sizes {first} to {last}.",
                hint="episodes.correct=false, or episodes.min_size=2 episodes.max_size=null",
                place="episodes.correct",
            )
        self.correct = correct
        self.drawn_sizes = range(1, 2) if single else range(first, last + 1)
        # Relative to the largest size: 10,000 tasks to the power of 20 are still a finite number.
        weights = [(k / self.drawn_sizes[-1]) ** power for k in self.drawn_sizes]
        self.law = [w / sum(weights) for w in weights]
        super().__init__(
            num_episodes=num_episodes,
            num_shots=num_shots,
            num_query=num_query,
            reduce=reduce,
            cross_domain=cross_domain,
            fresh=fresh,
            modality_dropout=modality_dropout,
            pool=pool,
            tasks=tasks,
            seed=seed,
            single=single,
        )

    def largest(self) -> int:
        """Most tasks that an episode may hold."""
        return self.drawn_sizes[-1]

    def choose(self, step: int, random: torch.Generator) -> Sequence[Choice]:  # noqa: ARG002
        """Sizes by their law, then subsets of that size."""
        total = len(self.tasks)
        target = dict(zip(self.sizes, uniform_size_law(total, self.sizes), strict=True))
        drawn = dict(zip(self.drawn_sizes, self.law, strict=True))
        sizes = draw_sizes(self.drawn_sizes, self.law, self.num_episodes, random)
        return [Choice(draw_subset(total, k, random), target[k] / drawn[k] if self.correct else 1.0) for k in sizes]
