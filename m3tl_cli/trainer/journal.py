"""metrics.jsonl: the truth about a run's numbers. One line a measurement; servers only get copies."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from m3tl_cli.core.results import write_text


class Journal:
    """Append measurements to a run folder.

    Args:
        folder: Run folder.
        step: When a run is resumed, the step of its checkpoint: later lines are dropped, because they will be measured again.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        path = folder / "metrics.jsonl"
        if path.is_file():
            write_text(path, "".join(line + "\n" for line in path.read_text().splitlines() if _step(line) <= step))
        self._file = path.open("a", buffering=1)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line; a value that is not finite is written as null, which JSON has a word for."""
        clean = {k: v if math.isfinite(v) else None for k, v in values.items()}
        self._file.write(json.dumps({"step": step, "time": time.time(), "values": clean}) + "\n")


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf  # a line that a kill cut short
