"""Every subset of tasks in every step."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le, Lt

from m3tl_cli.core.contracts import Episode, Part, Pool, Task
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.episodes.base import Choice, SubsetSampler


class Enumerate(SubsetSampler):
    """Take all 2^T - T - 1 subsets of at least two tasks in every step, on one support and one query of one domain.

    With one task an episode (`single`) there are T episodes, each on samples of its own.

    Source: "Multi-Task Meta Learning: learn how to adapt to unseen tasks" (Upadhyay et al., 2022), https://arxiv.org/abs/2210.06989.
    Cost: one read; T (2^(T-1) - 1) passes through heads, and one through the trunk for every subset.

    Args:
        max_episodes: Most episodes that a step may have unless `force`, at least 1.
        force: Run whatever the number of episodes.
        num_shots: Support samples, the same for all subsets.
        num_query: Query samples, the same for all subsets.
        reduce: Weight of an episode: 1 ("sum") or 1 over their number ("mean").
        cross_domain: Support and query come from two domains.
        fresh: Probability that one task of the episode gets a head that is built inside it.
        modality_dropout: Probability that a modality that a sample has is taken from it.
        pool: Where the samples come from.
        tasks: At least one.
        seed: Of every draw.
        single: Every episode holds exactly one task.

    Raises:
        ConfigError: If there are more than `max_episodes` without `force`.
        DataError: If no domain has enough samples for all tasks.
    """

    def __init__(
        self,
        *,
        max_episodes: Annotated[int, Ge(1)],
        force: bool,
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
        number = total if single or total == 1 else 2**total - total - 1
        if number > max_episodes and not force:
            raise ConfigError(
                f"`max_episodes` must be at least the {number:,} episodes that {total} tasks have a step; found {max_episodes}.",
                hint="episodes=uniform_subset samples them at a constant cost; episodes.force=true runs them all",
                place="episodes.max_episodes",
            )
        super().__init__(
            num_episodes=number,
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
        if not single:
            self.num_samples = num_shots + num_query

    def choose(self, step: int, random: torch.Generator) -> Sequence[Choice]:  # noqa: ARG002
        """All subsets, small ones first."""
        return [Choice(subset) for k in self.sizes for subset in itertools.combinations(range(len(self.tasks)), k)]

    def draw(self, step: int) -> Sequence[Episode]:
        """The episodes of all subsets on one read; see `EpisodeSampler.draw`."""
        if self.single:
            return super().draw(step)
        everything = Choice(tuple(range(len(self.tasks))))
        support, query = self._read(everything, self._random("rows", step), self._random("modality", step))
        self.num_samples = sum(len(part.batch) for part in (*support, *query))
        episodes = []
        for number, choice in enumerate(self.choose(step, self._random("tasks", step))):
            tasks = tuple(self.tasks[i] for i in choice.subset)
            episodes.append(self._episode(step, number, _only(support, tasks), _only(query, tasks), tasks, choice.ratio))
        return episodes


def _only(parts: tuple[Part, ...], tasks: tuple[Task, ...]) -> tuple[Part, ...]:
    """The parts that these tasks read, for them alone."""
    names = {t.name for t in tasks}
    kept = [Part(part.batch, tuple(t for t in part.tasks if t in names)) for part in parts]
    return tuple(part for part in kept if part.tasks)
