"""No tracking: the run folder is all there is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from m3tl_cli.tracking.base import Ending, RunInfo, Tracker


class Off(Tracker):
    """Do nothing."""

    def start(self, run: RunInfo) -> None:
        """Do nothing."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Do nothing."""

    def artifact(self, path: Path) -> None:
        """Do nothing."""

    def finish(self, ending: Ending) -> None:
        """Do nothing."""
