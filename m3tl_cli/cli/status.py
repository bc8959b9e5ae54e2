"""`status.json`: how far a job is. Written by the job itself, so that a sweep or a resumed run knows without asking a process."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from m3tl_cli.cli.sink import duration
from m3tl_cli.core.results import write_text

EVERY = 5.0  # seconds between a running job's signs of life
SILENCE = 180.0  # seconds without one after which a job on another machine is taken for dead; network file systems show times a minute late
State = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
FILE = "status.json"


@dataclass(frozen=True)
class Status:
    """State of one job.

    Args:
        pid: Of the process that runs or ran it. process_start: when that process began, seconds since 1970, so that a
            reused pid is not taken for it. host: its machine.
        overrides: What was typed.
        value: What the job returns to a sweeper; None until it is finished.
        error: Why it ended, one line; empty unless it failed or was stopped.
        seconds: How long it has run, all resumptions together.
        batch: Name of the multirun that launched it; empty outside one.
        seen: When its process last gave a sign of life, the time of the file; not part of it.
    """

    state: State
    pid: int
    host: str
    process_start: float
    overrides: tuple[str, ...]
    value: float | None = None
    error: str = ""
    seconds: float = 0.0
    started: float = field(default_factory=time.time)
    batch: str = ""
    seen: float = field(default_factory=time.time, compare=False)

    @staticmethod
    def begin(overrides: Sequence[str], seconds: float = 0.0, batch: str = "") -> Status:
        """Of a job that this process starts now."""
        import psutil

        born = psutil.Process().create_time()
        return Status("RUNNING", os.getpid(), socket.gethostname(), born, tuple(overrides), seconds=seconds, batch=batch)

    def end(self, state: State, *, value: float | None = None, error: str = "") -> Status:
        """The same job, ended now."""
        return replace(self, state=state, value=value, error=error, seconds=self.seconds + time.time() - self.started)

    def write(self, folder: Path) -> None:
        """Write atomically."""
        write_text(folder / FILE, json.dumps({k: v for k, v in asdict(self).items() if k != "seen"}, indent=1))

    @staticmethod
    def read(folder: Path) -> Status | None:
        """Of the job in this folder; None where there is none that can be read."""
        try:
            raw: dict[str, Any] = json.loads((folder / FILE).read_text())
            return Status(**{**raw, "overrides": tuple(raw["overrides"]), "seen": (folder / FILE).stat().st_mtime})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    @property
    def elsewhere(self) -> bool:
        """Whether another machine ran it, whose processes cannot be seen from here."""
        return self.host != socket.gethostname()

    @property
    def silent(self) -> float:
        """Seconds since its last sign of life."""
        return max(0.0, time.time() - self.seen)

    @property
    def whereabouts(self) -> str:
        """Its process in words, and where that cannot be asked, how long ago it was seen."""
        place = f"process {self.pid}"
        return f"{place} on {self.host}, which gave a sign of life {duration(self.silent)} ago" if self.elsewhere else place

    @property
    def ending(self) -> str:
        """How a job that is not finished ended, in words; one that is alive has not."""
        if self.state != "RUNNING":
            return f"{self.state}: {self.error}"
        return f"is still running, as {self.whereabouts}" if self.alive else f"KILLED: without a word of {self.whereabouts}"

    @property
    def alive(self) -> bool:
        """Whether its process still works on it. Of another machine's process all that can be seen is its last sign of life."""
        if self.state != "RUNNING":
            return False
        if self.elsewhere:
            return self.silent < SILENCE
        from m3tl_cli.tracking.status import Process

        return not Process(self.host, self.pid, self.process_start).is_gone()
