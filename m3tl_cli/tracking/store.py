"""Everything that talks to MLflow, one blocking call after the other. `mlflow.py` calls it from a thread of its own.

Only `MlflowClient` is used, never `mlflow.start_run`: that one ends a run as FINISHED when the program stops by an exception.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import urllib.error
import urllib.parse
import urllib.request
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from filelock import FileLock

from m3tl_cli.core.errors import ConfigError
from m3tl_cli.tracking.base import Ending, RunInfo
from m3tl_cli.tracking.status import Process, read_status

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Limits of MLflow 3: entities in one call, parameters or tags in one call, characters of a name, of a parameter, of a tag.
BATCH = 1000
FEW = 100
NAME_LENGTH = 250
PARAM_LENGTH = 6000
TAG_LENGTH = 5000

PROBE_SECONDS = 5.0

# Making the tables takes 3 s of CPU, on a busy machine 12 s, and others may wait in line.
LOCK_SECONDS = 120.0


class Point(NamedTuple):
    """One number: metric name, value, Unix milliseconds, optimiser step."""

    key: str
    value: float
    time: int
    step: int


class Store:
    """One run in one MLflow store.

    Args:
        uri: SQLAlchemy URI of a database or http(s) address of a server.
        folder: Where the lock and, for a database, the artifacts go.
        timeout: Seconds to wait for the lock.
    """

    def __init__(self, *, uri: str, folder: Path, timeout: float) -> None:
        self.uri = uri
        self.folder = folder
        self.timeout = timeout
        self.is_server = uri.startswith(("http://", "https://"))
        self.experiment_id = ""
        self.run_id = ""
        self._client: MlflowClient | None = None
        self._parent = ""
        self._logged: dict[str, int] = {}
        self._folder = Path()

    def open(self, run: RunInfo, experiment: str) -> None:
        """Connect, make what is missing, close what died, and open the run.

        Args:
            run: The run. A resumed one continues its MLflow run where there is one, and numbers of `metrics.jsonl` that the
                store never got are sent first.
            experiment: Name of the MLflow experiment.
        """
        if self.is_server:
            _probe(self.uri, min(self.timeout, PROBE_SECONDS))
        _load_mlflow()
        self._folder = run.folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        # Connecting to a fresh sqlite file makes its tables; of processes that start together all but one would die of it.
        with FileLock(self.folder / "mlflow.lock", timeout=max(self.timeout, LOCK_SECONDS)):
            self._client = connect(self.uri)
            self.experiment_id = self._find_experiment(experiment)
            self._close_dead()
            if run.group:
                self._parent = self._find_parent(run.group)
            self._open_run(run)
        if self._parent:
            self.client.update_run(self._parent, status="RUNNING")
        if run.resumed:
            missed = [p for p in _recorded(run.folder / "metrics.jsonl") if p.step <= run.step]
            self.send(missed)
            for point in missed:
                self._logged[point.key] = max(point.step, self._logged.get(point.key, -1))

    def attach(self, group: str, experiment: str, paths: Sequence[Path]) -> None:
        """Copy what a whole sweep left, such as its comparison, to the parent run of its runs.

        Args:
            group: Name that the runs of the sweep share.
            experiment: Name of their MLflow experiment.
            paths: Files and folders.
        """
        if self.is_server:
            _probe(self.uri, min(self.timeout, PROBE_SECONDS))
        _load_mlflow()
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / "mlflow.lock", timeout=max(self.timeout, LOCK_SECONDS)):
            self._client = connect(self.uri)
            self.experiment_id = self._find_experiment(experiment)
            self.run_id = self._find_parent(group)
        for path in paths:
            if path.is_dir():
                self.client.log_artifacts(self.run_id, str(path), path.name)
            else:
                self.client.log_artifact(self.run_id, str(path))
        self._settle(self.run_id, self.experiment_id)

    def send(self, points: Sequence[Point]) -> None:
        """Log numbers; steps that a resumed run had logged already are left out."""
        from mlflow.entities import Metric

        fresh = [p for p in points if p.step > self._logged.get(p.key, -1)] if self._logged else points
        for i in range(0, len(fresh), BATCH):
            self.client.log_batch(self.run_id, metrics=[Metric(p.key, p.value, p.time, p.step) for p in fresh[i : i + BATCH]])

    def copy(self, path: Path) -> None:
        """Log a file or folder of the run folder under the same relative path."""
        inside = path.absolute().relative_to(self._folder)
        if path.is_dir():
            self.client.log_artifacts(self.run_id, str(path), None if inside == Path() else inside.as_posix())
        else:
            self.client.log_artifact(self.run_id, str(path), None if inside.parent == Path() else inside.parent.as_posix())

    def close(self, ending: Ending) -> None:
        """End the run, and its sweep where it was the last."""
        self.client.set_terminated(self.run_id, status=ending)
        if self._parent:
            self._settle(self._parent, self.experiment_id)

    @property
    def client(self) -> MlflowClient:
        """The open connection."""
        if self._client is None:
            raise RuntimeError("open the store first")
        return self._client

    def _find_experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is None:
            location = None if self.is_server else (self.folder / "mlartifacts").as_uri()
            try:
                return self.client.create_experiment(name, artifact_location=location)
            except MlflowException:
                # Another machine, which the lock does not reach, was quicker.
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def _close_dead(self) -> None:
        """Give runs of this machine whose process died without a word the ending that their folder tells."""
        own = Process.this()
        ids = [e.experiment_id for e in self.client.search_experiments(max_results=BATCH)]
        where = f"attributes.status = 'RUNNING' AND tags.`m3tl.host` = {_quoted(own.host)}"
        parents = set()
        for run in self.client.search_runs(ids, where, max_results=BATCH):
            tags = run.data.tags
            process = Process(own.host, int(tags.get("m3tl.pid", 0)), float(tags.get("m3tl.process_start", 0)))
            if not process.is_gone():
                continue
            folder = Path(tags.get("m3tl.folder", ""))
            status = read_status(folder)
            told = status.state in ("FINISHED", "FAILED") and status.pid == process.pid
            self.client.set_terminated(run.info.run_id, status=status.state if told else "KILLED", end_time=_last_sign(folder))
            if "mlflow.parentRunId" in tags:
                parents.add((tags["mlflow.parentRunId"], run.info.experiment_id))
        for parent, experiment_id in sorted(parents):
            self._settle(parent, experiment_id)

    def _find_parent(self, group: str) -> str:
        found = self.client.search_runs([self.experiment_id], f"tags.`m3tl.sweep` = {_quoted(group)}", max_results=1)
        if found:
            return found[0].info.run_id
        made = self.client.create_run(self.experiment_id, run_name=group, tags={"m3tl.sweep": group})
        return made.info.run_id

    def _settle(self, parent: str, experiment_id: str) -> None:
        """Give a sweep the state that follows from its runs: RUNNING while one does, then the worst of their endings."""
        for state in ("RUNNING", "FAILED", "KILLED"):
            where = f"tags.`mlflow.parentRunId` = '{parent}' AND attributes.status = '{state}'"
            if self.client.search_runs([experiment_id], where, max_results=1):
                break
        else:
            state = "FINISHED"
        if state != "RUNNING":
            self.client.set_terminated(parent, status=state)

    def _open_run(self, run: RunInfo) -> None:
        own = Process.this()
        tags = {
            **run.tags,
            "m3tl.folder": str(self._folder),
            "m3tl.host": own.host,
            "m3tl.pid": str(own.pid),
            "m3tl.process_start": str(own.start),
        }
        if self._parent:
            tags["mlflow.parentRunId"] = self._parent
        known: Mapping[str, str] = {}
        found = self._find_run() if run.resumed else None
        if found is None:
            self.run_id = self.client.create_run(self.experiment_id, run_name=run.name).info.run_id
        else:
            self.run_id, known = found.info.run_id, found.data.params
            self.client.update_run(self.run_id, status="RUNNING")
            self._logged = {
                key: max((m.step for m in self.client.get_metric_history(self.run_id, key)), default=-1) for key in found.data.metrics
            }
        self._describe(tags, {metric_name(k): v for k, v in run.params.items()}, known)

    def _find_run(self) -> Any:
        where = f"tags.`m3tl.folder` = {_quoted(str(self._folder))}"
        found = self.client.search_runs([self.experiment_id], where, max_results=1, order_by=["attributes.start_time DESC"])
        return found[0] if found else None

    def _describe(self, tags: Mapping[str, str], params: Mapping[str, str], known: Mapping[str, str]) -> None:
        from mlflow.entities import Param, RunTag

        # MLflow refuses to change a parameter, so what an earlier part of the run logged stays.
        new = [Param(k, v[:PARAM_LENGTH]) for k, v in params.items() if k not in known]
        labels = [RunTag(metric_name(k), v[:TAG_LENGTH]) for k, v in tags.items()]
        for i in range(0, max(len(new), len(labels)), FEW):
            self.client.log_batch(self.run_id, params=new[i : i + FEW], tags=labels[i : i + FEW])


def metric_name(text: str) -> str:
    """A name that MLflow takes: letters, digits and `_ - . space : /`, no empty or dotted path part, at most 250 characters."""
    plain = re.sub(r"[^\w\-. :/]", "_", text)
    parts = [part for part in plain.split("/") if part not in ("", ".", "..")]
    return "/".join(parts)[:NAME_LENGTH].rstrip("/") or "_"


def calm_environment(timeout: float) -> None:
    """Set what MLflow reads from the environment, where the user has not: no telemetry, no prints, no long silence, no proxy here.

    Args:
        timeout: Seconds for one request to a server.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # The default of 7 retries keeps silent for 247 s before it says that a server is gone.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(max(1, round(timeout))))
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [h.strip() for h in os.environ.get(name, "").split(",") if h.strip()]
        os.environ[name] = ",".join(hosts + [h for h in ("127.0.0.1", "localhost") if h not in hosts])


def connect(uri: str) -> MlflowClient:
    """A client of the store at `uri`, with its tables made where they are missing."""
    _load_mlflow()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def folders(uri: str, query: str) -> list[Path]:
    """Folders of the runs that a filter of MLflow finds, the latest first.

    Args:
        uri: Database or server.
        query: In MLflow's filter language, such as "tags.`m3tl.paradigm` = 'mtl'".

    Raises:
        ConfigError: If there is no such store, or the filter cannot be read.
    """
    file = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:") and not file.is_file():
        raise ConfigError(f"`--uri` must name a store; found no {file}", hint="--uri sqlite:///outputs/mlflow.db", place="--uri")
    calm_environment(PROBE_SECONDS)
    client = connect(uri)
    from mlflow.exceptions import MlflowException

    ids = [e.experiment_id for e in client.search_experiments(max_results=BATCH)]
    try:
        found = client.search_runs(ids, query, max_results=BATCH)
    except MlflowException as error:
        text = " ".join(str(error).split())[:300]
        hint = "--query \"tags.`m3tl.paradigm` = 'mtl'\""
        raise ConfigError(f"`--query` must be a filter of MLflow; found {query}: {text}", hint=hint, place="--query") from error
    # The parent of a sweep has no folder.
    return [Path(run.data.tags["m3tl.folder"]) for run in found if "m3tl.folder" in run.data.tags]


def _load_mlflow() -> None:
    """Import MLflow, about 3 s of CPU, quietly: its own use of deprecated calls is no news for a user of m3tl."""
    warnings.filterwarnings("ignore", module=r"(mlflow|sqlalchemy|alembic)(\.|$)")
    importlib.import_module("mlflow")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _probe(uri: str, seconds: float) -> None:
    """Raise OSError where nobody answers; any answer, a refusal too, is one."""
    parts = urllib.parse.urlsplit(uri)
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=parts.path.rstrip("/") + "/health").geturl()
    try:
        urllib.request.urlopen(address, timeout=seconds).close()
    except urllib.error.HTTPError as answer:
        answer.close()


def _quoted(text: str) -> str:
    """A string of MLflow's filter language, which knows both quotes and no escape."""
    return f'"{text}"' if "'" in text else f"'{text}'"


def _last_sign(folder: Path) -> int | None:
    """Unix milliseconds of the last line that a run wrote; None where there is none."""
    try:
        return round((folder / "metrics.jsonl").stat().st_mtime * 1000)
    except OSError:
        return None


def _recorded(path: Path) -> Iterator[Point]:
    """Numbers of a `metrics.jsonl`; the last line of a killed run may be torn."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            raw = json.loads(line)
            numbers = [(metric_name(k), float(v)) for k, v in raw["values"].items()]
            step, when = int(raw["step"]), round(float(raw["time"]) * 1000)
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        yield from (Point(key, value, when, step) for key, value in numbers)
