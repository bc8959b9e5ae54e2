"""Contract of data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch

from m3tl_cli.core.contracts import Episode, Modality, ModalityInfo, Pool, Progress, Task, TaskName, generator, quiet, stable_seed
from m3tl_cli.core.draws import draw_episode

SplitName = Literal["train", "val", "test"]
Block = Literal["pretrain", "source", "validation", "target"]
BLOCKS: tuple[Block, ...] = get_args(Block)
"""In the order in which a run meets them: encoders learn on `pretrain`, tasks on `source`, choices are made on `validation`
(meta-validation: domains or classes that neither of its neighbours has), and `target` judges."""


class Data(ABC):
    """What a run learns from.

    Constructing it is cheap and reads nothing. `prepare` makes the store; before it `tasks` lack their statistics and `pool` refuses.
    """

    @abstractmethod
    def prepare(self, progress: Progress = quiet, *, pretrain: bool = False) -> bool:
        """Make what is not there yet; True where something had to be made.

        Args:
            progress: Told what is done.
            pretrain: Also what `pool(..., "pretrain")` reads, for which a run that does not pretrain need not pay.
        """

    @property
    @abstractmethod
    def modalities(self) -> Mapping[Modality, ModalityInfo]:
        """Modalities of the run, in config order."""

    @property
    @abstractmethod
    def tasks(self) -> Mapping[TaskName, Task]:
        """Every task that the data can label; once prepared, with the statistics of the source training split.

        `Task.at` lists the blocks that label it: a task at `source` is seen, another one is new.
        """

    @property
    def pretrain_tasks(self) -> Sequence[TaskName]:
        """Tasks that encoders can be pretrained on, the best first: those labelled at `pretrain`, in the order of `tasks`."""
        return tuple(name for name, task in self.tasks.items() if "pretrain" in task.at)

    @property
    @abstractmethod
    def domains(self) -> Sequence[str]:
        """Names of the domains; `Batch.domain` indexes them."""

    @property
    @abstractmethod
    def blocks(self) -> Mapping[Block, tuple[str, ...]]:
        """Domains of every block of `BLOCKS`; empty where there is none, and `pool` refuses."""

    @abstractmethod
    def pool(self, split: SplitName, at: Block = "source") -> Pool:
        """Samples of a split; no sample (and, where the data has groups, no group) is in two splits."""

    def episodes(
        self, at: Block, tasks: Sequence[Task], *, num_shots: int, num_query: int, number: int, per_class: bool, seed: int
    ) -> Sequence[Episode]:
        """Draw the episodes on which adaptation is judged.

        Each takes one domain: every domain of the block once, in a random order, before any comes again; what that domain labels too
        rarely for a task comes from the block's other domains. Support comes from the block's training split and query from its test
        split. Episode i of a seed is the same whatever `number` is; its query does not depend on `num_shots`, and its support holds that
        of fewer shots.

        Args:
            at: Block.
            tasks: Tasks of every episode, labelled there.
            num_shots: Labelled support samples of each task; of each class where `per_class`.
            num_query: Query samples of each task.
            number: Episodes.
            per_class: Draw support class by class, for the tasks that have classes and one label a sample.
            seed: Of domains and samples.

        Raises:
            DataError: The block is empty, or a task has too few labels in it.
        """
        support, query = self.pool("train", at), self.pool("test", at)
        here = [self.domains.index(name) for name in self.blocks[at]]
        drawn: list[Episode] = []
        for i in range(number):
            turn, place = divmod(i, len(here))
            order = torch.randperm(len(here), generator=generator("episodes", seed, at, turn))
            drawn.append(
                draw_episode(
                    support,
                    query,
                    domain=here[int(order[place])],
                    tasks=tasks,
                    num_shots=num_shots,
                    num_query=num_query,
                    per_class=per_class,
                    seed_parts=("episodes", seed, at, i),
                    uid=stable_seed("episodes", seed, at, i),
                    top_up=True,
                )
            )
        return drawn
