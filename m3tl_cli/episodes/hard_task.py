"""Tasks that do badly more often."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Le, Lt
from torch import Tensor

from m3tl_cli.core.contracts import Pool, Task, TaskName
from m3tl_cli.episodes.base import AnchoredSampler


class HardTask(AnchoredSampler):
    """Resample the task whose last query loss is worst relative to its own running mean.

    An episode's anchor is that task with probability `hard`, else any task alike; tasks that tie share it, so that equal tasks stay
    uniform. Relative to its mean, because the losses of different kinds of task have no common scale. A task without a loss so far, or
    with a running mean that is not positive, counts as one that does as usual.

    Source: "Meta-Transfer Learning Through Hard Tasks" (Sun, Liu, Chen, Chua, Schiele; PAMI 2020), https://arxiv.org/abs/1910.03648.
    Differs from the paper, whose code never had it: there the classes of one kind of task are resampled by query accuracy, after every
    meta-batch; here heterogeneous tasks, by loss.

    Args:
        hard: Share of episodes whose anchor is the worst task, in [0, 1).
        decay: Of the running mean, in [0, 1); it covers about 1 / (1 - decay) steps.
        correct: Weigh episodes by the target law's probability over this one's; off, it is a curriculum, as in the paper.
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
        hard: Annotated[float, Ge(0), Lt(1)],
        decay: Annotated[float, Ge(0), Lt(1)],
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
        self.hard, self.decay = hard, decay
        self._last: dict[TaskName, float] = {}
        self._mean: dict[TaskName, float] = {}

    def anchors(self) -> Tensor:
        """A uniform share, and `hard` for the worst."""
        scores_T = torch.tensor([self._score(t.name) for t in self.tasks], dtype=torch.float64)
        worst_T = (scores_T == scores_T.max()).double()
        return (1 - self.hard) / len(self.tasks) + self.hard * worst_T / worst_T.sum()

    def update(self, losses: Mapping[TaskName, float]) -> None:
        """Take the query losses of the tasks that were present; one that is not finite teaches nothing."""
        for task, loss in losses.items():
            if math.isfinite(loss):
                self._last[task] = loss
                self._mean[task] = self.decay * self._mean[task] + (1 - self.decay) * loss if task in self._mean else loss

    def state_dict(self) -> dict[str, Any]:
        """Last losses and running means by task; a float survives JSON to the bit."""
        return {"last": dict(self._last), "mean": dict(self._mean)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue bit for bit from `state_dict`."""
        self._last, self._mean = dict(state["last"]), dict(state["mean"])

    def _score(self, task: TaskName) -> float:
        mean = self._mean.get(task, 0.0)
        return self._last[task] / mean if mean > 0 else 1.0
