"""Episodes of N classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le, Lt
from torch import Tensor

from m3tl_cli.core.contracts import Episode, Part, Pool, Task
from m3tl_cli.core.errors import ConfigError, DataError
from m3tl_cli.episodes.base import EpisodeSampler


class NWay(EpisodeSampler):
    """Draw N-way episodes: N classes, in random order called 0 ... N - 1, with shots and queries of each.

    Support is [N * num_shots] samples, query [N * num_query], both class by class; no sample is in both. The pool says the class of its
    rows: an attribute `classes`, [N] int64. Classes with fewer than num_shots + num_query samples are never drawn.

    Source: "Matching Networks for One Shot Learning" (Vinyals et al., NIPS 2016), https://arxiv.org/abs/1606.04080.

    Args:
        num_ways: Classes of an episode, at least 2.
        within_domain: All classes of an episode are of one domain (an alphabet, a speaker), any that has enough alike, and so are their
            samples; else classes of any domain, and their samples from all domains.
        num_episodes: Episodes of a step.
        num_shots: Support samples of a class.
        num_query: Query samples of a class.
        reduce: Weight of an episode: 1 ("sum") or 1 / num_episodes ("mean").
        fresh: Probability that the head is built inside the episode: 1 for closed-form heads such as prototypes, 0 where the start of
            the head is learnt too (MAML).
        modality_dropout: Probability that a modality that a sample has is taken from it.
        pool: Where the samples come from.
        tasks: One, of kind `multiclass`, with `num_ways` outputs.
        seed: Of every draw.
        single: Changes nothing: every episode holds the one task.

    Raises:
        ConfigError: If the task is not one with `num_ways` classes.
        DataError: If the pool has no classes, or too few with enough samples.
    """

    def __init__(
        self,
        *,
        num_ways: Annotated[int, Ge(2)],
        within_domain: bool,
        num_episodes: Annotated[int, Ge(1)],
        num_shots: Annotated[int, Ge(1)],
        num_query: Annotated[int, Ge(1)],
        reduce: Literal["sum", "mean"],
        fresh: Annotated[float, Ge(0), Le(1)],
        modality_dropout: Annotated[float, Ge(0), Lt(1)],
        pool: Pool,
        tasks: Sequence[Task],
        seed: int,
        single: bool,
    ) -> None:
        super().__init__(
            num_episodes=num_episodes,
            reduce=reduce,
            fresh=fresh,
            modality_dropout=modality_dropout,
            pool=pool,
            tasks=tasks,
            seed=seed,
            single=single,
        )
        if len(self.tasks) != 1 or self.tasks[0].kind != "multiclass":
            found = ", ".join(f"`{t.name}` ({t.kind})" for t in self.tasks)
            raise ConfigError(
                f"`tasks` must be one task of kind multiclass for episodes of {num_ways} classes; found {found}.",
                hint="tasks=[NAME], or episodes=uniform_subset",
                place="tasks",
            )
        if self.tasks[0].num_outputs != num_ways:
            outputs = self.tasks[0].num_outputs
            raise ConfigError(
                f"`num_ways` must be the number of outputs of `{self.tasks[0].name}`, {outputs}; found {num_ways}.",
                hint=f"episodes.num_ways={outputs}",
                place="episodes.num_ways",
            )
        classes = getattr(pool, "classes", None)
        if not isinstance(classes, Tensor):
            raise DataError(
                "`data` must be one that says the class of every sample, such as image_classes; found none.",
                hint="data=image_classes, or episodes=uniform_subset",
                place="data",
            )
        self.num_ways, self.num_shots, self.num_query = num_ways, num_shots, num_query
        self.num_samples = num_episodes * num_ways * (num_shots + num_query)
        # A way is a class, or a class within a domain; its rows are _order[_start : _start + _count].
        groups = [pool.domain.cpu()] if within_domain else []
        ways_WG, way_N = torch.unique(torch.stack([*groups, classes.cpu()], 1), dim=0, return_inverse=True)
        self._order_N = way_N.argsort(stable=True)
        self._count_W = torch.bincount(way_N)
        self._start_W = self._count_W.cumsum(0) - self._count_W
        enough_W = self._count_W >= num_shots + num_query
        place_W = ways_WG[:, 0] if within_domain else torch.zeros(len(ways_WG), dtype=torch.int64)
        candidates = [(enough_W & (place_W == p)).nonzero()[:, 0] for p in place_W.unique()]
        self._candidates = [ways for ways in candidates if len(ways) >= num_ways]
        if not self._candidates:
            where = f"any of {len(candidates)} domains" if within_domain else f"{len(ways_WG)} classes"
            raise DataError(
                f"{'a domain' if within_domain else 'the data'} must have {num_ways} classes with {num_shots} support and "
                f"{num_query} query samples each; found {max(map(len, candidates))} in {where}.",
                hint="lower episodes.num_shots and episodes.num_query" + (", or episodes.within_domain=false" if within_domain else ""),
                place="episodes.num_ways",
            )

    def draw(self, step: int) -> Sequence[Episode]:
        """The episodes of a step; see `EpisodeSampler.draw`."""
        dropout = self._random("modality", step)
        episodes = []
        for number in range(self.num_episodes):
            support, query = self._rows(self._random("rows", step, number))
            parts = [self._dropped((self._part(rows),), dropout) for rows in (support, query)]
            episodes.append(self._episode(step, number, parts[0], parts[1], self.tasks, 1.0))
        return episodes

    def _rows(self, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Rows of support [ways, shots] and query [ways, queries]."""
        ways = self._candidates[int(torch.randint(len(self._candidates), (), generator=random))]
        ways = ways[torch.randperm(len(ways), generator=random)[: self.num_ways]]
        # A random number for every sample of every way; the smallest ones are drawn, and places beyond a way's end never.
        count = self._count_W[ways][:, None]
        places = torch.arange(int(count.max()))
        chance = torch.rand((self.num_ways, len(places)), generator=random, dtype=torch.float64).where(places < count, 2.0)
        drawn = chance.topk(self.num_shots + self.num_query, largest=False).indices
        rows = self._order_N[self._start_W[ways][:, None] + drawn]
        return rows[:, : self.num_shots], rows[:, self.num_shots :]

    def _part(self, rows: Tensor) -> Part:
        batch = self.pool.read(rows.flatten(), ())
        name = self.tasks[0].name
        target = torch.arange(self.num_ways).repeat_interleave(rows.shape[1]).to(batch.index.device)
        return Part(replace(batch, targets={name: target}, labelled={name: torch.ones_like(target, dtype=torch.bool)}), (name,))
