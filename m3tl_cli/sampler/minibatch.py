"""Ordinary mini-batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import torch
from annotated_types import Ge, Lt
from torch import Tensor

from m3tl_cli.core.contracts import Batch, Episode, Part, Pool, Task, TaskName, generator
from m3tl_cli.core.errors import DataError
from m3tl_cli.sampler.base import Sampler


class MiniBatch(Sampler):
    """Draw one mini-batch a step, from a new permutation of the samples in every epoch.

    An epoch leaves out the rest that does not fill a batch. Each step is one episode without support.

    Args:
        batch_size: Samples that a step reads, at least 1.
        per_task: False: one batch that all tasks read, drawn from the samples that any task of the data labels. True: a batch of
            batch_size / T samples (rounded down, at least 1) for each of the T tasks, drawn from the samples that this task labels;
            a task with few samples is at a later epoch than the others.
        modality_dropout: Probability in [0, 1) that a modality that a sample has is taken from it; the last one never is, so that in
            a run of one modality nothing happens. Source: Neverova et al., "ModDrop: Adaptive Multi-Modal Gesture Recognition", PAMI
            2016. Differs from the paper: it drops whole modalities from the first step, without pretraining each.
        pool: Where the samples come from.
        tasks: At least one.
        seed: Of the permutations, and of the dropped modalities.

    Raises:
        DataError: If a task has no labels in the pool, or the pool has fewer samples than a batch.
    """

    def __init__(
        self,
        *,
        batch_size: Annotated[int, Ge(1)],
        per_task: bool,
        modality_dropout: Annotated[float, Ge(0), Lt(1)],
        pool: Pool,
        tasks: Sequence[Task],
        seed: int,
    ) -> None:
        self.pool = pool
        self.tasks = tuple(tasks)
        self.seed = seed
        self.modality_dropout = modality_dropout
        self.size = max(1, batch_size // len(self.tasks)) if per_task else batch_size
        names = tuple(t.name for t in self.tasks)
        for name in names:
            if name not in pool.labelled or not bool(pool.labelled[name].any()):
                raise DataError(
                    f"`{name}` must have at least one labelled training sample; found none among {len(pool)} samples.",
                    place="tasks",
                    hint="leave the task out with tasks=[...], or label some samples",
                )
        # Key of a permutation's seed (the task, or nothing), tasks that read its batch, rows that it permutes.
        self._streams: list[tuple[tuple[TaskName, ...], tuple[TaskName, ...], Tensor]]
        if per_task:
            self._streams = [((name,), (name,), pool.labelled[name].nonzero()[:, 0]) for name in names]
        else:
            # Any task of the data, not of the run: what a task's network sees must not depend on which others are trained beside it.
            some = torch.stack(list(pool.labelled.values())).any(0)
            self._streams = [((), names, some.nonzero()[:, 0])]
        for key, _, rows in self._streams:
            if len(rows) < self.size:
                what = f"labelled samples of `{key[0]}`" if key else "labelled samples"
                raise DataError(
                    f"`batch_size` must be at most the number of {what} that it is drawn from; found {self.size} for {len(rows)}.",
                    place="sampler.batch_size",
                    hint=f"sampler.batch_size={len(rows) * (len(self.tasks) if per_task else 1)}",
                )
        self._permutations: dict[tuple[TaskName, ...], tuple[int, Tensor]] = {}

    @property
    def samples_per_step(self) -> int:
        """Training samples that a step reads."""
        return self.size * len(self._streams)

    def draw(self, step: int) -> Sequence[Episode]:
        """One episode; see `Sampler.draw`."""
        dropout = generator(self.seed, "modality", step)
        parts = []
        for key, names, rows in self._streams:
            epoch, batch = divmod(step, len(rows) // self.size)
            index = self._permuted(key, rows, epoch)[batch * self.size : (batch + 1) * self.size]
            parts.append(Part(self._dropped(self.pool.read(index, names), dropout), names))
        return [Episode(uid=step, support=(), query=tuple(parts), tasks=self.tasks)]

    def _permuted(self, key: tuple[TaskName, ...], rows: Tensor, epoch: int) -> Tensor:
        # The last epoch's permutation is kept: a permutation of millions at every step would cost more than reading the batch.
        known = self._permutations.get(key)
        if known is None or known[0] != epoch:
            known = (epoch, rows[torch.randperm(len(rows), generator=generator(self.seed, *key, epoch))])
            self._permutations[key] = known
        return known[1]

    def _dropped(self, batch: Batch, dropout: torch.Generator) -> Batch:
        if self.modality_dropout == 0 or len(batch.present) < 2:
            return batch
        present_MB = torch.stack(list(batch.present.values()))
        chance_MB = torch.rand(present_MB.shape, generator=dropout).to(present_MB.device)
        # Of a sample whose every modality fell, the one that was the least likely to fall stays; an absent one is never made present.
        last_MB = chance_MB.where(present_MB, -1.0)
        stays_MB = (chance_MB >= self.modality_dropout) | (last_MB == last_MB.max(0).values)
        return replace(batch, present=dict(zip(batch.present, present_MB & stays_MB, strict=True)))
