"""Show on the terminal what a running experiment tells."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

from m3tl_cli.core.events import Advanced, Event, Said, StageStarted

if TYPE_CHECKING:
    from rich.progress import Progress

EVERY = 10.0  # seconds between lines where there is no live display
SHOWN = 3  # numbers beside the bar, so that a line fits 80 columns

log = logging.getLogger("m3tl")


@dataclass
class Sink:
    """An `Emit`: one live bar that log lines scroll above, or a plain line now and then where nobody watches.

    Args:
        live: Whether there is a terminal that this job has to itself.
        every: Seconds between plain lines.
    """

    live: bool
    every: float = EVERY
    _bar: Progress | None = field(default=None, init=False)
    _shown: str = field(default="", init=False)
    _paces: dict[str, Pace] = field(default_factory=dict, init=False)
    _said: float = field(default=0.0, init=False)

    @staticmethod
    def on_terminal(*, alone: bool) -> Sink:
        """Live where standard error is a terminal and no other job writes to it."""
        return Sink(live=alone and sys.stderr.isatty())

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()

    def __call__(self, event: Event) -> None:
        """Take one event. Numbers for the record are not shown: a file has them."""
        if isinstance(event, Advanced):
            self._advance(event)
        elif isinstance(event, StageStarted):
            self._close()
            self._paces.clear()
            log.info("%s", staged(event))
        elif isinstance(event, Said):
            log.log(logging.WARNING if event.level == "warning" else logging.INFO, "%s", event.text)

    def _advance(self, event: Advanced) -> None:
        now = time.monotonic()
        if event.what not in self._paces:
            # Work that others interrupt, as validation does training, keeps its pace: their time is part of what is left.
            self._paces[event.what] = Pace(event.what, event.done, now)
            self._said = self._said or now
        if self._shown != event.what:
            self._close()
            self._shown = event.what
        pace = self._paces[event.what]
        if self.live:
            self._draw(event, pace.words(event, now))
        elif now - self._said >= self.every:
            self._said = now
            log.info(
                "%s", " · ".join(w for w in (f"{event.what} {event.done}/{event.total}", pace.words(event, now), numbers(event.info)) if w)
            )
        if event.done >= event.total:
            seconds = now - pace.began
            self._close()
            del self._paces[event.what]
            if seconds >= 1:
                log.info("%s: %d %ss in %s", event.what, event.done - pace.start, event.unit, duration(seconds))

    def _draw(self, event: Advanced, pace: str) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=16),
                TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[pace]}"),
                TextColumn("[dim]{task.fields[info]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
        if not self._bar.tasks:
            self._bar.add_task(event.what, total=event.total, completed=event.done, pace=pace, info="")
        self._bar.update(self._bar.tasks[0].id, completed=event.done, total=event.total, pace=pace, info=numbers(event.info))

    def _close(self) -> None:
        self._shown = ""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


@dataclass(frozen=True)
class Pace:
    """How fast one piece of work goes on.

    Args:
        what: Its name.
        start: What was done when it was first heard of: a resumed run does not begin at 0.
        began: When, seconds of a monotonic clock.
    """

    what: str
    start: int
    began: float

    def words(self, event: Advanced, now: float) -> str:
        """Rate and time left; empty as long as nothing can be said."""
        done, seconds = event.done - self.start, now - self.began
        if done <= 0 or seconds <= 0:
            return ""
        rate = done / seconds
        speed = f"{rate:.3g} {event.unit}s/s" if rate >= 1 else f"{1 / rate:.3g} s/{event.unit}"
        return f"{speed} · {duration((event.total - event.done) / rate)} left"


def staged(event: StageStarted) -> str:
    """One line about a stage."""
    if event.skipped:
        return f"stage {event.stage}: skipped, {event.skipped}"
    updates = f", {event.updates} updates" if event.updates else ""
    return f"stage {event.stage}: {', '.join(event.tasks)}{updates}"


def numbers(info: Mapping[str, float]) -> str:
    """A few numbers, short."""
    return " ".join(f"{name} {value:.3g}" for name, value in list(info.items())[:SHOWN])


def duration(seconds: float) -> str:
    """Seconds in words: `42 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
