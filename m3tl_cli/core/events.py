"""What a running experiment tells whoever listens: the terminal, the log, MLflow. The trainer prints nothing itself.

Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class StageStarted:
    """A stage begins, or is skipped for the reason that `skipped` gives."""

    stage: str
    updates: int
    tasks: tuple[str, ...]
    skipped: str = ""


@dataclass(frozen=True)
class Advanced:
    """Work that takes more than a second has gone on. `done` of `total` in `unit`s; `info` is shown beside the bar."""

    what: str
    done: int
    total: int
    unit: str = "step"
    info: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """Numbers for the record. Keys are `train/<task>/loss`, `val/<task>/<metric>`, `balancing/<task>/weight`, `optimizer/lr` ..."""

    step: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class Said:
    """A sentence for the log."""

    text: str
    level: Literal["info", "warning"] = "info"


@dataclass(frozen=True)
class Wrote:
    """A file or folder of the run folder is complete and may be copied."""

    path: Path


Event = StageStarted | Advanced | Measured | Said | Wrote
Emit = Callable[[Event], None]


def silent(event: Event) -> None:
    """An `Emit` that nobody listens to."""
