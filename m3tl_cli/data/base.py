"""Contract of data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal

from m3tl_cli.core.contracts import Modality, ModalityInfo, Pool, Progress, Task, TaskName, quiet

SplitName = Literal["train", "val", "test"]
Block = Literal["source", "target"]


class Data(ABC):
    """What a run learns from.

    Constructing it is cheap and reads nothing. `prepare` makes the store; before it `tasks` lack their statistics and `pool` refuses.
    """

    @abstractmethod
    def prepare(self, progress: Progress = quiet) -> bool:
        """Make the store unless it is there; True where it had to be made."""

    @property
    @abstractmethod
    def modalities(self) -> Mapping[Modality, ModalityInfo]:
        """Modalities of the run, in config order."""

    @property
    @abstractmethod
    def tasks(self) -> Mapping[TaskName, Task]:
        """Every task that the data can label; once prepared, with the statistics of the source training split."""

    @property
    @abstractmethod
    def domains(self) -> Sequence[str]:
        """Names of the domains; `Batch.domain` indexes them."""

    @abstractmethod
    def pool(self, split: SplitName, at: Block = "source") -> Pool:
        """Samples of a split; no sample (and, where the data has groups, no group) is in two splits."""
