"""How a run stands, told from its `status.json` and from whether its process still lives.

Imports nothing heavy.
"""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

State = Literal["RUNNING", "FINISHED", "FAILED", "KILLED", "UNKNOWN"]

STATES: tuple[State, ...] = ("RUNNING", "FINISHED", "FAILED", "KILLED")

# Seconds. A process id may be given to another process; the start time tells them apart. It is computed from the boot time,
# which moves by milliseconds when the clock is set.
TOLERANCE = 2.0


@dataclass(frozen=True)
class Status:
    """What `status.json` says, corrected.

    Args:
        state: RUNNING only while the process lives, or where that cannot be seen from here because it is another machine's;
            a run that died without a word is KILLED; UNKNOWN where there is no readable file.
        pid: Of the run's process; 0 where unknown. host: its machine. process_start: Unix seconds.
        seconds: How long the run took; None where it did not say.
        error: What stopped it; empty where nothing did.
    """

    state: State
    pid: int = 0
    host: str = ""
    process_start: float = 0.0
    seconds: float | None = None
    error: str = ""


@dataclass(frozen=True)
class Process:
    """One process, so that it can be told from a later one with the same number."""

    host: str
    pid: int
    start: float

    @staticmethod
    def this() -> Process:
        """The calling process."""
        own = psutil.Process()
        return Process(socket.gethostname(), own.pid, own.create_time())

    def is_gone(self) -> bool:
        """Whether it has ended; False for another machine's, which cannot be seen from here."""
        if self.host != socket.gethostname():
            return False
        try:
            found = psutil.Process(self.pid)
            return found.status() == psutil.STATUS_ZOMBIE or abs(found.create_time() - self.start) > TOLERANCE
        except psutil.NoSuchProcess:
            return True
        except psutil.AccessDenied:
            return False


def read_status(folder: Path) -> Status:
    """The true state of a run folder.

    Args:
        folder: The run folder; `status.json` in it may be absent or damaged.
    """
    try:
        raw = json.loads((folder / "status.json").read_text())
        state = raw["state"]
        if state not in STATES:
            return Status("UNKNOWN")
        seconds = raw.get("seconds")
        status = Status(
            state=state,
            pid=int(raw.get("pid") or 0),
            host=str(raw.get("host") or ""),
            process_start=float(raw.get("process_start") or 0.0),
            seconds=None if seconds is None else float(seconds),
            error=str(raw.get("error") or ""),
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return Status("UNKNOWN")
    if status.state == "RUNNING" and Process(status.host, status.pid, status.process_start).is_gone():
        return Status("KILLED", status.pid, status.host, status.process_start, status.seconds, status.error)
    return status
