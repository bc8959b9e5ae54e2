"""MLflow, fed from a thread of its own: the training thread pays for a queue and nothing else."""

from __future__ import annotations

import os
import re
import shlex
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Annotated, Any

from annotated_types import Gt

from m3tl_cli.core.errors import ConfigError
from m3tl_cli.tracking.base import Ending, RunInfo, Tracker
from m3tl_cli.tracking.store import BATCH, Point, Store, calm_environment, metric_name

SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https")

# How often the same numbers are offered before the store counts as lost.
ATTEMPTS = 3

_Item = tuple[int, float, dict[str, float]] | Path | Ending


class MLflow(Tracker):
    """Copy a run to an MLflow store.

    All work, the import of mlflow included, happens in one daemon thread. What goes wrong there lands in `trouble`; after that
    nothing is sent any more, and `metrics.jsonl`, which is the truth, goes on. A run is ended by `finish` alone: one that dies
    without it stays RUNNING until the next run on the same machine gives it its true ending.

    In a forked child every call does nothing. A pickled tracker has its settings and no run.

    Source: MLflow 3, https://mlflow.org/docs/latest/.

    Args:
        uri: Database or server; None: `sqlite:///<outputs>/mlflow.db`.
        experiment: Name of the MLflow experiment; None: the run's own.
        flush_every: Seconds that numbers wait at most before they are sent together.
        timeout: Seconds that `finish`, or one request to a server, waits at most.
        outputs: Where the default database, its lock and the artifacts go.

    Raises:
        ConfigError: If `uri` is none that MLflow can keep runs in safely.
    """

    def __init__(
        self,
        *,
        uri: str | None,
        experiment: str | None,
        flush_every: Annotated[float, Gt(0)],
        timeout: Annotated[float, Gt(0)],
        outputs: Path,
    ) -> None:
        self.uri, self.folder = _resolve(uri, outputs.absolute())
        self.experiment = experiment
        self.flush_every = flush_every
        self.timeout = timeout
        self.trouble = ""
        self._forget()

    def _forget(self) -> None:
        self._queue: SimpleQueue[_Item] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._store: Store | None = None
        self._pid = 0

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if not k.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def start(self, run: RunInfo) -> None:
        """Start the thread, which opens the run while training goes on."""
        self._forget()
        self.trouble = ""
        calm_environment(self.timeout)
        self._pid = os.getpid()
        self._store = Store(uri=self.uri, folder=self.folder, timeout=self.timeout)
        self._thread = threading.Thread(target=self._work, args=(run, self._store, self._queue), name="m3tl-mlflow", daemon=True)
        self._thread.start()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Queue numbers of a step; a few microseconds."""
        if self._takes():
            self._queue.put((step, time.time(), dict(values)))

    def artifact(self, path: Path) -> None:
        """Queue a file or folder, which is read later: it must stay as it is."""
        if self._takes():
            self._queue.put(path)

    def finish(self, ending: Ending) -> None:
        """Send what is left and end the run; returns after `timeout` seconds at the latest."""
        if self._thread is None or os.getpid() != self._pid:
            return
        if not self.trouble:
            self._queue.put(ending)
            self._thread.join(self.timeout)
            if self._thread.is_alive():
                self._complain(f"it took longer than {self.timeout:g} s to send the rest")
        self._thread = None

    def attach(self, group: str, experiment: str, paths: Sequence[Path]) -> None:
        """Copy what a whole sweep left to the parent run of its runs, and wait for it; what goes wrong lands in `trouble`.

        Args:
            group: Name that the runs of the sweep share.
            experiment: Name of their experiment where the settings name none.
            paths: Files and folders.
        """
        self.trouble = ""
        calm_environment(self.timeout)
        try:
            Store(uri=self.uri, folder=self.folder, timeout=self.timeout).attach(group, self.experiment or experiment, paths)
        except Exception as error:
            self._complain(f"{type(error).__name__}: {error}")

    @property
    def where(self) -> str:
        """The run's page on a server, or the command that shows a database."""
        if not self.uri.startswith("http"):
            return f"mlflow ui --backend-store-uri {shlex.quote(_without_password(self.uri))}"
        page = _without_password(self.uri).rstrip("/")
        if self._store is not None and self._store.run_id:
            page += f"/#/experiments/{self._store.experiment_id}/runs/{self._store.run_id}"
        return page

    def _takes(self) -> bool:
        return self._thread is not None and not self.trouble and os.getpid() == self._pid

    def _complain(self, about: object) -> None:
        """Keep the first cause."""
        if not self.trouble:
            text = " ".join(str(about).split())[:300]
            self.trouble = _without_password(f"MLflow at {self.uri} misses a part of this run: {text}. The run folder has everything.")

    def _work(self, run: RunInfo, store: Store, queue: SimpleQueue[_Item]) -> None:
        try:
            store.open(run, self.experiment or run.experiment)
            ending = self._forward(store, queue)
            store.close(ending)
        except Exception as error:
            self._complain(f"{type(error).__name__}: {error}")

    def _forward(self, store: Store, queue: SimpleQueue[_Item]) -> Ending:
        """Send what the queue brings until it brings the ending."""
        points: list[Point] = []
        lost: list[str] = []
        failures, due = 0, 0.0
        while True:
            item: _Item | None
            try:
                item = queue.get(timeout=max(0.0, due - time.monotonic()) if points else None)
            except Empty:
                item = None
            if isinstance(item, tuple):
                if not points:
                    due = time.monotonic() + self.flush_every
                step, when, values = item
                points += [Point(metric_name(k), float(v), round(when * 1000), step) for k, v in values.items()]
            elif isinstance(item, Path):
                try:
                    store.copy(item)
                except (OSError, ValueError) as error:
                    # A checkpoint that has been replaced meanwhile is no reason to lose the numbers.
                    lost.append(f"{item.name}: {error}")
            last = isinstance(item, str)
            while points and (last or time.monotonic() >= due or (len(points) >= BATCH and not failures)):
                try:
                    store.send(points[:BATCH])
                    del points[:BATCH]
                    failures = 0
                except Exception:
                    # The same numbers with the same time may arrive twice: the database keeps one.
                    failures += 1
                    if failures == ATTEMPTS:
                        raise
                    due = time.monotonic() + self.flush_every * 2**failures
                    if last:
                        time.sleep(min(self.flush_every, self.timeout / 10))
            if isinstance(item, str):
                if lost:
                    self._complain("; ".join(lost[:3]))
                return item


def _resolve(uri: str | None, outputs: Path) -> tuple[str, Path]:
    """The store's address and the folder of its lock and artifacts."""
    if uri is None:
        return f"sqlite:///{outputs / 'mlflow.db'}", outputs
    scheme, mark, rest = uri.partition("://")
    if not mark or scheme.partition("+")[0] not in SCHEMES:
        raise ConfigError(
            f"`uri` must be null or start with one of {', '.join(f'{s}://' for s in SCHEMES)}; found {_without_password(uri)!r}.",
            hint="type tracking.uri=sqlite:////absolute/path/mlflow.db or tracking.uri=http://127.0.0.1:5000",
            place="tracking.uri",
        )
    if scheme != "sqlite":
        return uri, outputs
    path = rest.removeprefix("/")
    if not path or path.startswith(":"):
        raise ConfigError(
            f"`uri` must name a file for sqlite; found {uri!r}.",
            hint="type tracking.uri=sqlite:////absolute/path/mlflow.db",
            place="tracking.uri",
        )
    file = Path(path).absolute()
    return f"sqlite:///{file}", file.parent


def _without_password(text: str) -> str:
    return re.sub(r"(://[^/@:\s]*):[^/@\s]*@", r"\1:***@", text)
