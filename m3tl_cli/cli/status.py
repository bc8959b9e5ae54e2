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

from m3tl_cli.core.results import write_text

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

    @staticmethod
    def begin(overrides: Sequence[str], seconds: float = 0.0) -> Status:
        """Of a job that this process starts now."""
        import psutil

        return Status("RUNNING", os.getpid(), socket.gethostname(), psutil.Process().create_time(), tuple(overrides), seconds=seconds)

    def end(self, state: State, *, value: float | None = None, error: str = "") -> Status:
        """The same job, ended now."""
        return replace(self, state=state, value=value, error=error, seconds=self.seconds + time.time() - self.started)

    def write(self, folder: Path) -> None:
        """Write atomically."""
        write_text(folder / FILE, json.dumps(asdict(self), indent=1))

    @staticmethod
    def read(folder: Path) -> Status | None:
        """Of the job in this folder; None where there is none that can be read."""
        try:
            raw: dict[str, Any] = json.loads((folder / FILE).read_text())
            return Status(**{**raw, "overrides": tuple(raw["overrides"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    @property
    def elsewhere(self) -> bool:
        """Whether another machine ran it, whose processes cannot be seen from here."""
        return self.host != socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether its process still works on it, as far as this machine can see."""
        if self.state != "RUNNING" or self.elsewhere:
            return False
        from m3tl_cli.tracking.status import Process

        return not Process(self.host, self.pid, self.process_start).is_gone()
