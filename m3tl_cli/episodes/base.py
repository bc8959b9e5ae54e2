"""Contract of episode samplers, and the draws that they share."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Le, Lt
from torch import Tensor

from m3tl_cli.core.contracts import Batch, Episode, Part, Pool, Task, TaskName, generator
from m3tl_cli.core.draws import read_parts
from m3tl_cli.episodes.rows import DomainRows


class EpisodeSampler(ABC):
    """Draw the episodes of a step: support and query, disjoint, of some tasks.

    Pure in (seed, step): drawing the same step twice gives the same episodes, so that resuming needs the step and the scores only.
    A subclass takes its hyper-parameters, and the runtime arguments below, as keywords.

    Args:
        num_episodes: Episodes of a step.
        reduce: Weight of an episode: 1 ("sum") or 1 / num_episodes ("mean").
        fresh: Probability that one task of the episode, any of them alike, gets a head that is built inside the episode.
        modality_dropout: Probability that a modality that a sample has is taken from it; the last one never is, so that in a run of one
            modality nothing happens. Source: Neverova et al., "ModDrop: Adaptive Multi-Modal Gesture Recognition", PAMI 2016.
        pool: Where the samples come from.
        tasks: At least one.
        seed: Of every draw.
        single: Every episode holds exactly one task; else at least two, where there are two.
    """

    def __init__(
        self,
        *,
        num_episodes: int,
        reduce: Literal["sum", "mean"],
        fresh: float,
        modality_dropout: float,
        pool: Pool,
        tasks: Sequence[Task],
        seed: int,
        single: bool,
    ) -> None:
        self.num_episodes, self.fresh, self.modality_dropout = num_episodes, fresh, modality_dropout
        self.weight = 1.0 if reduce == "sum" else 1.0 / num_episodes
        self.pool, self.tasks, self.seed, self.single = pool, tuple(tasks), seed, single
        self.num_samples = 0

    @abstractmethod
    def draw(self, step: int) -> Sequence[Episode]:
        """Episodes of optimiser step `step`, counted from 0; each is one accumulation."""

    @property
    def samples_per_step(self) -> int:
        """Training samples that a step reads: those of the last draw; before it, of a step whose samples label all its tasks."""
        return self.num_samples

    def update(self, losses: Mapping[TaskName, float]) -> None:  # noqa: B027 (most samplers learn nothing)
        """Learn from the query losses of the last step, by task that was present."""

    def state_dict(self) -> dict[str, Any]:
        """Scores, where it has any."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Inverse of `state_dict`."""

    def _random(self, what: str, *where: int) -> torch.Generator:
        return generator(self.seed, "episodes", what, *where)

    def _episode(
        self, step: int, number: int, support: tuple[Part, ...], query: tuple[Part, ...], tasks: tuple[Task, ...], ratio: float
    ) -> Episode:
        """An episode of a step, its weight and its fresh task."""
        chance = self._random("fresh", step, number)
        fresh: frozenset[TaskName] = frozenset()
        if self.fresh and float(torch.rand((), generator=chance)) < self.fresh:
            fresh = frozenset({tasks[int(torch.randint(len(tasks), (), generator=chance))].name})
        uid = step * self.num_episodes + number
        return Episode(uid=uid, support=support, query=query, tasks=tasks, fresh=fresh, weight=self.weight * ratio)

    def _dropped(self, parts: tuple[Part, ...], dropout: torch.Generator) -> tuple[Part, ...]:
        """The parts without the modalities that fall."""
        if self.modality_dropout == 0:
            return parts
        return tuple(replace(part, batch=_drop_modalities(part.batch, self.modality_dropout, dropout)) for part in parts)


@dataclass(frozen=True)
class Choice:
    """What an episode is about.

    Args:
        subset: Its tasks, ascending indices.
        ratio: Importance: probability under the target law over that under which it was drawn.
        domain: Of the support, an index of `DomainRows`; None: any that suits.
    """

    subset: tuple[int, ...]
    ratio: float = 1.0
    domain: int | None = None


class SubsetSampler(EpisodeSampler):
    """Episodes of one domain and a subset of the tasks. A subclass chooses the subsets.

    Which samples of a domain an episode gets is said by `DomainRows`; in the common case one batch of support and one of query that
    label all its tasks. The domain is any that suits the subset, all alike.

    The target law of subsets, for which a sampler is unbiased or to which its weights correct, is that of the enumeration: every subset
    of at least min(2, T) tasks alike; under `single` every task alike. Source of the enumeration: "Multi-Task Meta Learning: learn how
    to adapt to unseen tasks" (Upadhyay et al., 2022), https://arxiv.org/abs/2210.06989.

    Args:
        num_episodes: Episodes of a step, at least 1.
        num_shots: Support samples of an episode, at least 1.
        num_query: Query samples of an episode, at least 1.
        reduce: Weight of an episode: 1 ("sum") or 1 / num_episodes ("mean").
        cross_domain: Support and query come from two domains, as in MLDG (Li et al., "Learning to Generalize", AAAI 2018).
        fresh: Probability in [0, 1] that one task of the episode gets a head that is built inside it.
        modality_dropout: Probability in [0, 1) that a modality that a sample has is taken from it; the last one never is.
        pool: Where the samples come from.
        tasks: At least one.
        seed: Of every draw.
        single: Every episode holds exactly one task.

    Attributes:
        sizes: Numbers of tasks that an episode may hold, ascending.
        rows: Domains and their samples.

    Raises:
        DataError: If a task has no labels in the pool, or no domain has enough samples for a subset that may be drawn.
    """

    def __init__(
        self,
        *,
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
        names = [t.name for t in self.tasks]
        self.rows = DomainRows(pool=pool, tasks=names, num_shots=num_shots, num_query=num_query, cross_domain=cross_domain)
        self.sizes = range(1, 2) if single else range(min(2, len(names)), len(names) + 1)
        self.num_samples = num_episodes * (num_shots + num_query)
        everything = tuple(range(len(names)))
        # A domain that suits a set of tasks suits its subsets, so that in the common case one look is enough.
        largest = self.largest()
        if len(self.rows.domains(everything)) == 0:
            for subset in itertools.combinations(everything, largest):
                if len(self.rows.domains(subset)) == 0:
                    raise self.rows.refuse(subset)

    @abstractmethod
    def choose(self, step: int, random: torch.Generator) -> Sequence[Choice]:
        """What the episodes of a step are about, drawn with a generator that is seeded by the step."""

    def largest(self) -> int:
        """Most tasks that an episode may hold; asked for once, while the sampler is made."""
        return self.sizes[-1]

    def draw(self, step: int) -> Sequence[Episode]:
        """The chosen episodes, read; see `EpisodeSampler.draw`."""
        dropout = self._random("modality", step)
        episodes = []
        for number, choice in enumerate(self.choose(step, self._random("tasks", step))):
            support, query = self._read(choice, self._random("rows", step, number), dropout)
            tasks = tuple(self.tasks[i] for i in choice.subset)
            episodes.append(self._episode(step, number, support, query, tasks, choice.ratio))
        self.num_samples = sum(len(part.batch) for e in episodes for part in (*e.support, *e.query))
        return episodes

    def _read(self, choice: Choice, random: torch.Generator, dropout: torch.Generator) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
        support, query = self.rows.draw(choice.subset, random, choice.domain)
        return self._dropped(read_parts(self.pool, support), dropout), self._dropped(read_parts(self.pool, query), dropout)


class AnchoredSampler(SubsetSampler):
    """Subsets about an anchor: a task, or a task and a domain, that is drawn by a law of its own.

    Draw the size k as under the target law, the anchor i by its probability p_i, and k - 1 of the other tasks, all alike. A subset S of
    size k then has p(S) / C(T-1, k-1) times the probability of its size, p(S) being the sum of p_i over S (the design of Midzuno, "On
    the sampling system with probability proportionate to sum of sizes", 1952). With p_i = 1/T that is the target law itself, and the
    ratio of the two laws is (k/T) / p(S): the factor that `correct` puts on an episode's weight.

    Args:
        correct: Weigh episodes by that ratio, so that the expected gradient is the target law's; else drop it (a curriculum).
        num_episodes: See `SubsetSampler`, as all below.
        num_shots: Support samples.
        num_query: Query samples.
        reduce: Weight of an episode.
        cross_domain: Support and query come from two domains.
        fresh: Probability of a fresh head.
        modality_dropout: Probability of losing a modality.
        pool: Where the samples come from.
        tasks: At least one.
        seed: Of every draw.
        single: Every episode holds exactly one task.
    """

    def __init__(
        self,
        *,
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
        self.correct = correct
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

    @abstractmethod
    def anchors(self) -> Tensor:
        """Probability of an anchor: [T] by task; or [T, D] by task and domain, 0 where the domain does not suit the task alone."""

    def choose(self, step: int, random: torch.Generator) -> Sequence[Choice]:  # noqa: ARG002
        """Sizes, anchors, company; see the class."""
        anchors = self.anchors().double()
        anchors_T = anchors if anchors.ndim == 1 else anchors.sum(1)
        total = len(self.tasks)
        choices = []
        for k in draw_sizes(self.sizes, uniform_size_law(total, self.sizes), self.num_episodes, random):
            anchor = int(torch.multinomial(anchors_T, 1, generator=random))
            others = [i for i in range(total) if i != anchor]
            subset = tuple(sorted([anchor, *(others[i] for i in torch.randperm(total - 1, generator=random)[: k - 1].tolist())]))
            domain = None
            share = float(anchors_T[list(subset)].sum())
            if anchors.ndim == 2:
                suited = self.rows.domains(subset)
                conditional_KD = anchors[list(subset)][:, suited]
                conditional_KD = conditional_KD / conditional_KD.sum(1, keepdim=True)
                place = int(torch.multinomial(conditional_KD[subset.index(anchor)], 1, generator=random))
                domain = int(suited[place])
                # The target law takes any suited domain: its probability is 1 / len(suited).
                share = len(suited) * float(anchors_T[list(subset)] @ conditional_KD[:, place])
            choices.append(Choice(subset, k / total / share if self.correct else 1.0, domain))
        return choices


def uniform_size_law(total: int, sizes: Sequence[int]) -> list[float]:
    """Probability of each size when every subset of these sizes of `total` tasks is equally likely."""
    numbers = [math.comb(total, k) for k in sizes]
    return [n / sum(numbers) for n in numbers]


def draw_sizes(sizes: Sequence[int], law: Sequence[float], number: int, random: torch.Generator) -> list[int]:
    """Draw `number` sizes, independent of one another, by their probabilities."""
    drawn = torch.multinomial(torch.tensor(law, dtype=torch.float64), number, replacement=True, generator=random)
    return [sizes[i] for i in drawn.tolist()]


def draw_subset(total: int, size: int, random: torch.Generator) -> tuple[int, ...]:
    """Draw `size` of `total` tasks, every subset of that size alike."""
    return tuple(sorted(torch.randperm(total, generator=random)[:size].tolist()))


def _drop_modalities(batch: Batch, probability: float, dropout: torch.Generator) -> Batch:
    if len(batch.present) < 2:
        return batch
    present_MB = torch.stack(list(batch.present.values()))
    chance_MB = torch.rand(present_MB.shape, generator=dropout).to(present_MB.device)
    # Of a sample whose every modality fell, the one that was the least likely to fall stays; an absent one is never made present.
    last_MB = chance_MB.where(present_MB, -1.0)
    stays_MB = (chance_MB >= probability) | (last_MB == last_MB.max(0).values)
    return replace(batch, present=dict(zip(batch.present, present_MB & stays_MB, strict=True)))
