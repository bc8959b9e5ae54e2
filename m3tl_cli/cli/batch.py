"""The jobs of one multirun, which a launcher may run in other processes and on other machines: stopping them, and signs of their life.

All that the processes have in common is the folder of the multirun. A file in it says whose jobs may run. A job that finds another word
there ends in order; one that still waits in a queue finds it when it starts, and does nothing.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from m3tl_cli.cli.status import EVERY, FILE, Status
from m3tl_cli.core.results import write_text

BATCH = "M3TL_BATCH"
"""Name of the batch in the environment of its jobs; Hydra carries it to the workers of any launcher."""

MARK = ".batch"
STOPPED = "stopped"
GRACE = 30.0  # seconds that a stopped batch waits for its jobs to write checkpoints
LINGER = 30.0  # seconds that a job may need from its place in a queue to its first word, where its launcher watches no longer


@dataclass(frozen=True)
class Batch:
    """Jobs that were launched together.

    Args:
        folder: Of all of them.
        name: Host, process and time of the launch.
    """

    folder: Path
    name: str

    @staticmethod
    def begin(folder: Path) -> Batch:
        """A new one of this process; from now on no job of an earlier one may run in its folder."""
        batch = Batch(folder, f"{socket.gethostname()}:{os.getpid()}:{time.time_ns()}")
        write_text(folder / MARK, batch.name)
        return batch

    @staticmethod
    def of_job(folder: Path) -> Batch | None:
        """The one that the job of this process belongs to; None outside a multirun."""
        name = os.environ.get(BATCH, "")
        return Batch(folder, name) if name else None

    @property
    def word(self) -> str:
        """Override that tells its jobs."""
        return f"+hydra.job.env_set.{BATCH}='{self.name}'"

    @property
    def is_own(self) -> bool:
        """Whether this very process launched it."""
        return self.name.startswith(f"{socket.gethostname()}:{os.getpid()}:")

    @property
    def is_distant(self) -> bool:
        """Whether another machine launched it, which can send no signals to this one."""
        return not self.name.startswith(f"{socket.gethostname()}:")

    @property
    def is_over(self) -> bool:
        """Whether its jobs may run no longer: it was stopped, or another one has taken its place."""
        try:
            return (self.folder / MARK).read_text() != self.name
        except OSError:
            return False

    def stop(self, look: Callable[[], Sequence[Status]]) -> None:
        """End its jobs, each with a checkpoint, and wait for them, at most `GRACE` seconds.

        Args:
            look: Reads the status of every job that has begun.
        """
        write_text(self.folder / MARK, STOPPED)
        told: set[int] = {os.getpid()}
        end = time.monotonic() + GRACE
        while (alive := _others(look())) and time.monotonic() < end:
            for status in alive:
                if not status.elsewhere and status.pid not in told:
                    told.add(status.pid)  # once: a second signal ends a job without a checkpoint
                    _signal(status.pid)
            time.sleep(0.1)


@contextmanager
def overseen(batch: Batch, look: Callable[[], Sequence[Status]]) -> Iterator[None]:
    """Launch inside. Jobs do not outlive a launch that is stopped, nor do they end because it gave up on one of them.

    SIGINT and SIGTERM stop the batch first, as does a launcher's own exit. Where a launcher raises, as some do at the first job that
    died without a word, the others are waited for; what does not begin soon is not begun at all.

    Args:
        batch: That is launched.
        look: Reads the status of every job that has begun.

    Raises:
        SystemExit: With 128 + n after signal n.
    """

    def stop() -> None:
        signal.alarm(0)  # a library's handler may have set one, to abort a process that a signal does not end within seconds
        if not batch.is_over:
            batch.stop(look)

    with _listening(stop) as heard:
        try:
            yield
        except (Exception, KeyboardInterrupt, SystemExit) as end:
            if number := heard():
                stop()
                raise SystemExit(128 + number) from None
            if isinstance(end, Exception):
                _wait(look)
                write_text(batch.folder / MARK, STOPPED)
            else:
                stop()
            raise


@contextmanager
def _listening(stop: Callable[[], None]) -> Iterator[Callable[[], int]]:
    """Call `stop` at SIGINT or SIGTERM and leave; yields what tells the first of them that came, 0 where none did.

    Told by the interpreter itself: a launcher may put handlers of its own in place of these, or make another exit of theirs.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    numbers = (signal.SIGINT, signal.SIGTERM)

    def leave(number: int, _frame: object) -> None:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)  # a second one ends at once
        stop()
        raise SystemExit(128 + number)

    def heard() -> int:
        try:
            return next((n for n in os.read(out, 4096) if n in numbers), 0)
        except BlockingIOError:
            return 0

    out, into = os.pipe()
    os.set_blocking(out, False)
    os.set_blocking(into, False)
    handlers = {number: signal.signal(number, leave) for number in numbers}
    told = signal.set_wakeup_fd(into, warn_on_full_buffer=False)
    try:
        yield heard
    finally:
        signal.set_wakeup_fd(told)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(out)
        os.close(into)


class Pulse:
    """While it is entered, the folder of this process's job shows that it lives, and the job ends where its batch is over.

    Args:
        folder: Of the job; holds its status.
        batch: Of the job, if it belongs to one.
        every: Seconds between signs.
    """

    def __init__(self, folder: Path, batch: Batch | None, every: float = EVERY) -> None:
        self.folder, self.every = folder, every
        self.watched = batch if batch is not None and batch.is_distant else None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, name="m3tl-pulse", daemon=True)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._end.wait(self.every):
            try:
                os.utime(self.folder / FILE)
            except OSError:
                continue
            if self.watched is not None and self.watched.is_over:
                self.watched = None  # once: a second signal ends a job without a checkpoint
                os.kill(os.getpid(), signal.SIGTERM)


def _others(found: Sequence[Status]) -> list[Status]:
    return [status for status in found if status.alive and (status.elsewhere or status.pid != os.getpid())]


def _wait(look: Callable[[], Sequence[Status]]) -> None:
    """Until no job has been running for a while."""
    end = time.monotonic() + (LINGER if _others(look()) else 0)
    told = False
    while time.monotonic() < end:
        if alive := _others(look()):
            end = time.monotonic() + LINGER
            if not told:
                told = True
                sys.stderr.write(f"the launcher gave up; {len(alive)} of its runs go on and are waited for\n")
                sys.stderr.flush()
        time.sleep(0.5)


def _signal(pid: int) -> None:
    """SIGTERM whatever was asked for: workers of some launchers have SIGINT blocked."""
    try:
        os.kill(pid, signal.SIGTERM)
    except OSError:
        return
