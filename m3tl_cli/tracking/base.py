"""Contract of trackers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class RunInfo:
    """What a tracker is told at the start.

    Args:
        name: The run folder's name. folder: its path.
        experiment: Name of the group of runs that belong together.
        params: Resolved config, flattened to dotted keys and strings.
        tags: For finding the run again: paradigm, seed, data, host, pid, process start time ...
        group: Name that the runs of one sweep share; empty outside a sweep. They become children of one parent run.
        resumed: The folder holds an earlier part of this run.
        step: When resumed, the checkpoint's step: what was logged after it is logged again.
    """

    name: str
    folder: Path
    experiment: str
    params: Mapping[str, str]
    tags: Mapping[str, str] = field(default_factory=dict)
    group: str = ""
    resumed: bool = False
    step: int = 0


Ending = Literal["FINISHED", "FAILED", "KILLED"]


class Tracker(ABC):
    """Copy a run's record to a server. It never stops a run: what goes wrong is kept in `trouble` and said once at the end.

    Calls come from one thread and return at once; the work is done elsewhere.
    """

    trouble: str = ""

    @abstractmethod
    def start(self, run: RunInfo) -> None:
        """Open the run."""

    @abstractmethod
    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Take numbers of a step."""

    @abstractmethod
    def artifact(self, path: Path) -> None:
        """Take a file or folder inside the run folder that is complete."""

    @abstractmethod
    def finish(self, ending: Ending) -> None:
        """Send what is left, within seconds, and close the run."""

    @property
    def where(self) -> str:
        """What a person opens to see the run; one line."""
        return ""
