"""Signals: the first one ends the run after its step, with a checkpoint; the second one at once."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_USER = (signal.SIGUSR1, signal.SIGUSR2)  # what schedulers send a while before a job's time is over
SAME = 0.3  # seconds within which a second signal is the first one once more: a terminal and a launcher may both pass it on


class Interrupt:
    """Catch SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 while a run trains.

    Outside the main thread, where Python allows no handlers, it does nothing. A user signal that was ignored stays so.
    """

    def __init__(self) -> None:
        self.number = 0
        self._when = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            caught = (*_SIGNALS, *(s for s in _USER if signal.getsignal(s) not in (None, signal.SIG_IGN)))
            self._before = {s: signal.signal(s, self._caught) for s in caught}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def leave(self) -> NoReturn:
        """End the run, once its checkpoint is written; after a user signal as who waits for it wants: a launcher may requeue the job.

        Raises:
            SystemExit: With 128 + n after signal n, where nobody else waited for it.
        """
        handler = self._before.get(self.number)
        if self.number in _USER and callable(handler):
            handler(self.number, None)
        raise SystemExit(128 + self.number)

    def _caught(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.number and now - self._when > SAME:
            raise SystemExit(128 + number)
        if not self.number:
            self.number, self._when = number, now
