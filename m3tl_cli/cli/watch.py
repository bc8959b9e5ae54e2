"""How far the runs of an ablation are, read from each one's `status.json`, so that it works with any launcher."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from m3tl_cli.cli.sink import duration
from m3tl_cli.cli.status import Status

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

    from m3tl_cli.cli.design import Planned

EVERY = 1.0  # seconds between looks at the files: 160 of them take some 20 ms
State = Literal["waiting", "running", "finished", "failed", "stopped"]
MARKS: Mapping[State, tuple[str, str]] = {
    "waiting": ("·", "dim"),
    "running": ("▸", "cyan"),
    "finished": ("✓", "green"),
    "failed": ("✗", "red"),
    "stopped": ("-", "yellow"),
}
"""Sign and colour of each state."""

WIDE = 24  # seeds up to which a grid in 80 columns has room for spaces between its marks


def state(status: Status | None) -> State:
    """Of a run, from its file; one whose process is gone without a word is stopped."""
    if status is None:
        return "waiting"
    if status.state == "RUNNING":
        return "running" if status.alive else "stopped"
    return {"FINISHED": "finished", "FAILED": "failed", "KILLED": "stopped"}[status.state]  # type: ignore[return-value]


class Watch:
    """While it is entered, a live table on a terminal, else a line whenever a run starts or ends; on standard error.

    Args:
        folder: The ablation's.
        cells: All of its runs, in order.
        live: Whether standard error is a terminal.
        every: Seconds between looks.
    """

    def __init__(self, folder: Path, cells: Sequence[Planned], *, live: bool, every: float = EVERY) -> None:
        self.folder, self.cells, self.live, self.every = folder, cells, live, every
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._live: Live | None = None
        self._states: dict[str, State] = {}

    def __enter__(self) -> Watch:
        self._states = {name: state(s) for name, s in self.look().items()}
        if self.live:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(self.table(), console=Console(stderr=True), auto_refresh=False, transient=True)
            self._live.start()
        self._thread = threading.Thread(target=self._work, name="m3tl-watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.tell()
        if self._live is not None:
            self._live.stop()

    def look(self) -> dict[str, Status | None]:
        """Status of every run by the name of its folder; None where it has not begun."""
        return {cell.name: Status.read(self.folder / cell.name) for cell in self.cells}

    def tell(self) -> None:
        """Look, and show what is new."""
        found = self.look()
        if self._live is not None:
            self._live.update(self.table(found), refresh=True)
            return
        for name, status in found.items():
            now = state(status)
            if now != self._states.get(name):
                self._states[name] = now
                sys.stderr.write(f"{time.strftime('%H:%M:%S')} {self.line(name, found)}\n")
                sys.stderr.flush()

    def line(self, name: str, found: Mapping[str, Status | None]) -> str:
        """What has become of one run, how many are done and how long the rest will take."""
        status = found[name]
        now = state(status)
        words = name
        if now == "running":
            words += " started"
        elif status is not None:
            words += f" {now}" + (f" after {duration(status.seconds)}" if status.seconds >= 1 else "")
            words += f": {status.error}" if status.error else ""
        return " · ".join(filter(None, (words, self.summary(found))))

    def summary(self, found: Mapping[str, Status | None]) -> str:
        """`7 of 16 done, 2 running, 1 failed · 12 min left`."""
        states = Counter(state(s) for s in found.values())
        told = [f"{states['finished']} of {len(self.cells)} done"]
        told += [f"{states[what]} {what}" for what in ("running", "failed", "stopped") if states[what]]
        left = self.left(found)
        return ", ".join(told) + (f" · {duration(left)} left" if math.isfinite(left) and left >= 1 else "")

    def left(self, found: Mapping[str, Status | None]) -> float:
        """Seconds until all is done: each run takes as long as finished ones of its arm, else as long as finished ones of any."""
        by_arm: dict[str, list[float]] = {}
        for cell in self.cells:
            status = found[cell.name]
            if status is not None and status.state == "FINISHED":
                by_arm.setdefault(f"{cell.arm.label} {cell.budget}", []).append(status.seconds)
        every = [s for seconds in by_arm.values() for s in seconds]
        if not every:
            return math.nan
        usual = math.fsum(every) / len(every)
        total, lanes = 0.0, 0
        for cell in self.cells:
            status = found[cell.name]
            own = by_arm.get(f"{cell.arm.label} {cell.budget}")
            seconds = math.fsum(own) / len(own) if own else usual
            now = state(status)
            if now == "running" and status is not None:
                lanes += 1
                total += max(0.0, seconds - status.seconds - (time.time() - status.started))
            elif now in ("waiting", "stopped"):
                total += seconds
        return total / max(1, lanes)

    def table(self, found: Mapping[str, Status | None] | None = None) -> RenderableType:
        """Arms are rows, seeds are columns, a mark each."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        found = self.look() if found is None else found
        seeds = list(dict.fromkeys(cell.seed for cell in self.cells))
        budgets = list(dict.fromkeys(cell.budget for cell in self.cells))
        gap = " " if len(seeds) <= WIDE else ""
        grid = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        grid.add_column(style="bold", max_width=40)
        grid.add_column(no_wrap=True)
        rows: dict[str, dict[int, Text]] = {}
        for cell in self.cells:
            sign, colour = MARKS[state(found[cell.name])]
            label = cell.arm.label + (f", {cell.budget}" if len(budgets) > 1 else "")
            rows.setdefault(label, {})[cell.seed] = Text(sign, colour)
        for label, marks in rows.items():
            grid.add_row(Text(label), Text(gap).join(marks.get(seed, Text(" ")) for seed in seeds))
        running = [
            f"{cell.name} {duration(status.seconds + time.time() - status.started)}"
            for cell in self.cells
            if (status := found[cell.name]) is not None and state(status) == "running"
        ]
        legend = Text("  ".join(f"{sign} {what}" for what, (sign, _) in MARKS.items()), "dim")
        return Group(grid, Text(self.summary(found)), *(Text(line, "cyan") for line in running[:4]), legend)

    def _work(self) -> None:
        while not self._stop.wait(self.every):
            self.tell()
