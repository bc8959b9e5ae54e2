"""Tasks in proportion to their number of samples, tempered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from m3tl_cli.core.contracts import Pool, Task
from m3tl_cli.episodes.base import AnchoredSampler


class Temperature(AnchoredSampler):
    """Draw an episode's anchor by p proportional to n^(1 / temperature), n being the number of labelled samples.

    Temperature 1 draws in proportion to size; a large one all alike, which is the law of `uniform_subset`. With one task an episode the
    anchor is the episode; else others join it, see `AnchoredSampler`.

    Source: "Meta-Learning for Effective Multi-task and Multilingual Modelling" (Tarunesh, Khyalia, Kumar, Ramakrishnan, Jyothi; EACL
    2021), https://arxiv.org/abs/2101.10368, whose episode is one task in one language.

    Args:
        temperature: Above 0.
        over: What is drawn by size: a "task", in any domain that suits; or a "task_domain": a task and a domain together.
        correct: Weigh episodes by the target law's probability over this one's, so that the expected gradient is that of all subsets
            (and suited domains) alike; else drop it.
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
        DataError: If no domain has enough samples for a subset that may be drawn.
    """

    def __init__(
        self,
        *,
        temperature: Annotated[float, Gt(0)],
        over: Literal["task", "task_domain"],
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
        super().__init__(
            correct=correct,
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
        suited_TD = torch.zeros_like(self.rows.counts_TD, dtype=torch.bool)
        for task in range(len(self.tasks)):
            suited_TD[task, self.rows.domains((task,))] = True
        counts = torch.where(suited_TD, self.rows.counts_TD, 0)
        numbers = counts.double() if over == "task_domain" else counts.sum(1).double()
        # exp(log n / temperature), relative to the largest: no temperature overflows.
        powers = ((numbers / numbers.max()).log() / temperature).exp()
        self._anchors = powers / powers.sum()

    def anchors(self) -> Tensor:
        """Tempered shares of the labelled samples in domains that suit the task."""
        return self._anchors
