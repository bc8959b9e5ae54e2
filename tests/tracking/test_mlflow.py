from __future__ import annotations

import json
import math
import os
import pickle
import shlex
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from m3tl_cli.core.errors import ConfigError
from m3tl_cli.tracking import store as store_module
from m3tl_cli.tracking.base import Ending, RunInfo
from m3tl_cli.tracking.mlflow import MLflow
from m3tl_cli.tracking.store import Store, _recorded, calm_environment, connect, folders, metric_name


def tracker(outputs: Path, **changes: Any) -> MLflow:
    return MLflow(**{"uri": None, "experiment": None, "flush_every": 0.2, "timeout": 60.0, "outputs": outputs, **changes})


def run_info(outputs: Path, name: str = "run", **changes: Any) -> RunInfo:
    folder = outputs / name
    folder.mkdir(exist_ok=True)
    return RunInfo(**{"name": name, "folder": folder, "experiment": "tests", "params": {"trainer.updates": "3"}, **changes})


def record(outputs: Path, info: RunInfo, steps: range, ending: Ending = "FINISHED") -> MLflow:
    made = tracker(outputs)
    made.start(info)
    for step in steps:
        made.metrics(step, {"train/a/loss": step / 2})
    made.finish(ending)
    assert made.trouble == ""
    return made


def client(outputs: Path) -> Any:
    return connect(f"sqlite:///{outputs / 'mlflow.db'}")


def runs(outputs: Path, where: str = "") -> list[Any]:
    ids = [e.experiment_id for e in client(outputs).search_experiments()]
    return list(client(outputs).search_runs(ids, where, order_by=["attributes.start_time ASC"]))


def points(outputs: Path, run: Any, key: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in client(outputs).get_metric_history(run.info.run_id, key)]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give back what a tracker sets, and the filters that it adds for MLflow's own warnings."""
    import warnings

    before = dict(os.environ)
    with warnings.catch_warnings():
        yield
    os.environ.clear()
    os.environ.update(before)


def test_a_run_arrives_whole_and_in_order(outputs: Path) -> None:
    info = run_info(outputs, params={"a.b": "1", "long": "x" * 7000, "empty": ""}, tags={"paradigm": "mtl", "seed": "1"})
    (info.folder / "checkpoints" / "last").mkdir(parents=True)
    (info.folder / "checkpoints" / "last" / "state.json").write_text("{}")
    (info.folder / "plots").mkdir()
    (info.folder / "plots" / "a.svg").write_text("<svg/>")
    (info.folder / "report.html").write_text("<p>")
    made = tracker(outputs)
    made.start(info)
    for step in range(1500):
        made.metrics(step, {"train/a/loss": float(step), "val/a/top=1(x)": 0.5})
    made.metrics(1500, {"train/a/loss": math.nan})
    made.artifact(info.folder / "checkpoints" / "last")
    made.artifact(info.folder / "plots" / "a.svg")
    made.artifact(info.folder / "report.html")
    made.finish("FINISHED")
    assert made.trouble == ""

    (run,) = runs(outputs)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "run")
    found = points(outputs, run, "train/a/loss")
    assert found[:1500] == [(s, float(s)) for s in range(1500)]
    assert found[1500][0] == 1500
    assert math.isnan(found[1500][1])
    assert len(points(outputs, run, "val/a/top_1_x_")) == 1500
    assert run.data.params == {"a.b": "1", "long": "x" * 6000, "empty": ""}
    own = {"paradigm": "mtl", "seed": "1", "m3tl.folder": str(info.folder), "m3tl.pid": str(os.getpid())}
    assert own.items() <= run.data.tags.items()
    assert {"m3tl.host", "m3tl.process_start"} <= run.data.tags.keys()
    assert run.info.artifact_uri.startswith((outputs / "mlartifacts").as_uri())
    kept = {str(p.relative_to(outputs)).split("artifacts/", 2)[2] for p in (outputs / "mlartifacts").rglob("*") if p.is_file()}
    assert kept == {"checkpoints/last/state.json", "plots/a.svg", "report.html"}
    assert shlex.split(made.where) == ["mlflow", "ui", "--backend-store-uri", f"sqlite:///{outputs}/mlflow.db"]


@pytest.mark.parametrize("ending", ["FAILED", "KILLED"])
def test_a_run_ends_as_it_was_told(outputs: Path, ending: Ending) -> None:
    record(outputs, run_info(outputs), range(2), ending)
    assert [r.info.status for r in runs(outputs)] == [ending]


def test_a_resumed_run_logs_no_step_twice_and_sends_what_was_never_sent(outputs: Path) -> None:
    info = run_info(outputs)
    record(outputs, info, range(1, 6), "KILLED")
    # The checkpoint is at 7; 6 and 7 were written to the folder, but the process died before they were sent.
    lines = [json.dumps({"step": s, "time": 1e9 + s, "values": {"train/a/loss": s / 2}}) for s in range(1, 9)]
    (info.folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 9, "ti')
    again = run_info(outputs, params={"trainer.updates": "3", "new": "1"}, resumed=True, step=7)
    record(outputs, again, range(8, 11))
    record(outputs, run_info(outputs, resumed=True, step=7), range(8, 12))
    (run,) = runs(outputs)
    assert run.info.status == "FINISHED"
    assert sorted(points(outputs, run, "train/a/loss")) == [(s, s / 2) for s in range(1, 12)]
    assert run.data.params == {"trainer.updates": "3", "new": "1"}


def test_a_resumed_run_that_the_store_never_saw_is_made_whole(outputs: Path) -> None:
    info = run_info(outputs, resumed=True, step=2)
    (info.folder / "metrics.jsonl").write_text('{"step": 1, "time": 1.5, "values": {"train/a/loss": 0.5}}\n')
    record(outputs, info, range(3, 5))
    (run,) = runs(outputs)
    assert points(outputs, run, "train/a/loss") == [(1, 0.5), (3, 1.5), (4, 2.0)]


def test_the_runs_of_a_sweep_are_children_of_one_run_whose_state_follows_from_theirs(outputs: Path) -> None:
    for i in range(2):
        record(outputs, run_info(outputs, f"job{i}", group="sweep"), range(1))
    (parent,) = runs(outputs, "tags.`m3tl.sweep` = 'sweep'")
    children = runs(outputs, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert [r.info.run_name for r in children] == ["job0", "job1"]
    assert parent.info.status == "FINISHED"
    record(outputs, run_info(outputs, "job2", group="sweep"), range(1), "FAILED")
    (parent,) = runs(outputs, "tags.`m3tl.sweep` = 'sweep'")
    assert parent.info.status == "FAILED"
    assert len(runs(outputs)) == 4


def test_what_a_whole_sweep_left_goes_to_the_parent_of_its_runs(outputs: Path) -> None:
    record(outputs, run_info(outputs, "job0", group="sweep"), range(1))
    (outputs / "tables").mkdir()
    for name in ("plan.json", "tables/summary.csv"):
        (outputs / name).write_text("x")
    made = tracker(outputs)
    made.attach("sweep", "tests", [outputs / "plan.json", outputs / "tables"])
    assert made.trouble == ""
    assert len(runs(outputs)) == 2, "no other parent"
    (parent,) = runs(outputs, "tags.`m3tl.sweep` = 'sweep'")
    assert parent.info.status == "FINISHED"
    kept = outputs / "mlartifacts" / parent.info.run_id / "artifacts"
    assert (kept / "plan.json").is_file()
    assert (kept / "tables" / "summary.csv").is_file()
    made.attach("sweep", "tests", [outputs / "gone"])
    assert "gone" in made.trouble


def test_a_filter_finds_the_folders_of_runs_and_not_the_parents_of_sweeps(outputs: Path) -> None:
    for name in ("job0", "job1"):
        record(outputs, run_info(outputs, name, group="sweep"), range(1))
    uri = f"sqlite:///{outputs / 'mlflow.db'}"
    assert {folder.name for folder in folders(uri, "")} == {"job0", "job1"}
    assert [folder.name for folder in folders(uri, "attributes.run_name = 'job1'")] == ["job1"]
    with pytest.raises(ConfigError, match="must be a filter of MLflow"):
        folders(uri, "tags.nonsense is")
    with pytest.raises(ConfigError, match="found no"):
        folders(f"sqlite:///{outputs / 'none.db'}", "")


DIES = """
import os, sys, time
from pathlib import Path
from m3tl_cli.tracking.base import RunInfo
from m3tl_cli.tracking.mlflow import MLflow
outputs, name, how = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
made = MLflow(uri=None, experiment=None, flush_every=0.05, timeout=60.0, outputs=outputs)
(outputs / name).mkdir(exist_ok=True)
made.start(RunInfo(name=name, folder=outputs / name, experiment="tests", params={}, group=sys.argv[4] if len(sys.argv) > 4 else ""))
made.metrics(1, {"train/a/loss": 1.0})
while not made._store.run_id and not made.trouble: time.sleep(0.01)
time.sleep(0.5)
if how == "raise": raise RuntimeError("lost")
if how == "kill": os.kill(os.getpid(), 9)
made.finish("FINISHED")
print(made.trouble)
"""


def start(outputs: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", DIES, str(outputs), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_a_run_that_died_without_a_word_is_closed_by_the_next_one(outputs: Path) -> None:
    # Three processes: an exception that nobody caught, kill -9, and kill -9 after the folder said FINISHED.
    for name, how in (("raised", "raise"), ("killed", "kill"), ("done", "kill")):
        process = start(outputs, name, how, "sweep")
        process.communicate(timeout=120)
        assert process.returncode != 0
        if name == "done":
            (outputs / name / "status.json").write_text(
                json.dumps({"state": "FINISHED", "pid": process.pid, "host": "", "process_start": 0})
            )
    assert {r.info.status for r in runs(outputs, "attributes.run_name != 'sweep'")} >= {"RUNNING"}
    alive = tracker(outputs)
    alive.start(run_info(outputs, "alive"))
    alive.finish("FINISHED")
    record(outputs, run_info(outputs, "after"), range(1))
    states = {r.info.run_name: r.info.status for r in runs(outputs)}
    assert states == {
        "raised": "KILLED",
        "killed": "KILLED",
        "done": "FINISHED",
        "sweep": "KILLED",
        "alive": "FINISHED",
        "after": "FINISHED",
    }


def test_a_run_that_lives_is_left_alone(outputs: Path) -> None:
    first = tracker(outputs)
    first.start(run_info(outputs, "first"))
    record(outputs, run_info(outputs, "second"), range(1))
    for _ in range(600):
        if {r.info.run_name for r in runs(outputs)} == {"first", "second"}:
            break
        time.sleep(0.05)
    record(outputs, run_info(outputs, "third"), range(1))
    assert {r.info.run_name: r.info.status for r in runs(outputs)}["first"] == "RUNNING"
    first.finish("FINISHED")
    assert {r.info.status for r in runs(outputs)} == {"FINISHED"}


@pytest.mark.slow
def test_two_processes_may_start_together_on_a_fresh_store(tmp_path: Path) -> None:
    both = [start(tmp_path, name, "finish", "sweep") for name in ("a", "b")]
    for process in both:
        out, err = process.communicate(timeout=240)
        assert (process.returncode, out.strip()) == (0, ""), err
    states = sorted((r.info.run_name, r.info.status) for r in runs(tmp_path))
    assert states == [("a", "FINISHED"), ("b", "FINISHED"), ("sweep", "FINISHED")]
    assert not (tmp_path / "mlruns").exists()


def test_a_dead_server_costs_one_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = urllib.request.urlopen

    def urlopen(address: str, **settings: Any) -> Any:
        asked.append(address)
        return real(address, **settings)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(store_module, "connect", lambda uri: pytest.fail("MLflow must not be asked"))
    made = tracker(tmp_path, uri="http://someone:secret@127.0.0.1:9")  # discard: nobody listens
    made.start(run_info(tmp_path))
    assert made._thread is not None
    made._thread.join(60)
    for step in range(100):
        made.metrics(step, {"train/a/loss": 1.0})
    made.finish("FINISHED")
    assert asked == ["http://127.0.0.1:9/health"]
    assert made._queue.qsize() == 0
    assert "refused" in made.trouble
    assert "secret" not in made.trouble + made.where


@pytest.mark.parametrize("code", [200, 401, 404])
def test_a_server_that_answers_anything_lives(code: int) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        store_module._probe(f"http://127.0.0.1:{server.server_port}/", 5.0)
        thread.join()


class Flaky(Store):
    """A store in memory that refuses the first `refusals` calls."""

    def __init__(self, refusals: int) -> None:
        super().__init__(uri="sqlite:///x", folder=Path(), timeout=1.0)
        self.refusals, self.calls, self.kept, self.ending = refusals, 0, [], ""

    def open(self, run: RunInfo, experiment: str) -> None:
        pass

    def send(self, points: Any) -> None:
        self.calls += 1
        if self.calls <= self.refusals:
            raise OSError("database is locked")
        self.kept += points

    def close(self, ending: Ending) -> None:
        self.ending = ending


def forwarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusals: int) -> tuple[MLflow, Flaky]:
    flaky = Flaky(refusals)
    monkeypatch.setattr("m3tl_cli.tracking.mlflow.Store", lambda **_: flaky)
    made = tracker(tmp_path, flush_every=0.01, timeout=10.0)
    made.start(run_info(tmp_path))
    for step in range(2500):
        made.metrics(step, {"a": float(step)})
    made.finish("FINISHED")
    return made, flaky


def test_two_refusals_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, flaky = forwarded(tmp_path, monkeypatch, 2)
    assert [p.step for p in flaky.kept] == list(range(2500))
    assert (made.trouble, flaky.ending) == ("", "FINISHED")


def test_the_third_refusal_in_a_row_ends_the_copy_and_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, flaky = forwarded(tmp_path, monkeypatch, 10**6)
    assert flaky.calls == 3
    assert "database is locked" in made.trouble
    assert flaky.ending == ""


def test_the_end_of_a_run_does_not_wait_for_a_store_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flaky = Flaky(0)
    release = threading.Event()
    monkeypatch.setattr(flaky, "open", lambda run, experiment: release.wait(60))
    monkeypatch.setattr("m3tl_cli.tracking.mlflow.Store", lambda **_: flaky)
    made = tracker(tmp_path, timeout=0.05)
    made.start(run_info(tmp_path))
    thread = made._thread
    made.finish("FINISHED")
    assert "longer than 0.05 s" in made.trouble
    release.set()
    assert thread is not None
    thread.join(60)
    assert flaky.ending == "FINISHED"


def test_a_file_that_vanished_costs_that_file_only(outputs: Path) -> None:
    made = tracker(outputs)
    info = run_info(outputs)
    made.start(info)
    made.artifact(info.folder / "gone.txt")
    made.artifact(outputs.parent / "outside.txt")
    made.metrics(1, {"a": 1.0})
    made.finish("FINISHED")
    assert "gone.txt" in made.trouble
    assert "outside.txt" in made.trouble
    (run,) = runs(outputs)
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"a": 1.0})


def test_a_forked_child_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flaky = Flaky(0)
    monkeypatch.setattr("m3tl_cli.tracking.mlflow.Store", lambda **_: flaky)
    made = tracker(tmp_path, timeout=10.0)
    made.start(run_info(tmp_path))
    real = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: real + 1)
    made.metrics(1, {"child": 1.0})
    made.finish("FAILED")
    monkeypatch.setattr(os, "getpid", lambda: real)
    made.metrics(2, {"parent": 1.0})
    made.finish("FINISHED")
    assert [p.key for p in flaky.kept] == ["parent"]
    assert flaky.ending == "FINISHED"


def test_a_pickled_tracker_has_its_settings_and_no_run(tmp_path: Path) -> None:
    made = tracker(tmp_path, experiment="e")
    made._thread = threading.current_thread()
    copy = pickle.loads(pickle.dumps(made))
    assert (copy.uri, copy.experiment, copy.timeout) == (made.uri, "e", 60.0)
    copy.metrics(1, {"a": 1.0})
    copy.finish("FINISHED")
    assert copy._queue.qsize() == 0


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "mlruns", "ftp://host", "sqlite:///:memory:", "sqlite://", ""])
def test_stores_that_mlflow_cannot_keep_runs_in_are_refused(tmp_path: Path, uri: str) -> None:
    with pytest.raises(ConfigError, match="`uri` must"):
        tracker(tmp_path, uri=uri)


def test_the_default_store_is_a_database_in_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert tracker(Path("outputs")).uri == f"sqlite:///{tmp_path}/outputs/mlflow.db"
    other = tracker(Path("outputs"), uri="sqlite:///sub/x.db")
    assert (other.uri, other.folder) == (f"sqlite:///{tmp_path}/sub/x.db", tmp_path / "sub")
    assert tracker(Path("outputs"), uri="postgresql+psycopg2://h/d").folder == tmp_path / "outputs"


def test_names_become_names_that_mlflow_takes() -> None:
    assert metric_name("val/depth/abs_rel") == "val/depth/abs_rel"
    assert metric_name("/a//b/../c@d=1,e(f[") == "a/b/c_d_1_e_f_"
    assert metric_name("x" * 300) == "x" * 250
    assert metric_name("//") == "_"


def test_the_environment_is_calm_and_the_users_own_settings_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "DO_NOT_TRACK", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.setenv("NO_PROXY", "intranet, localhost")
    for _ in range(2):
        calm_environment(30.0)
    assert os.environ["NO_PROXY"] == "intranet,localhost,127.0.0.1"
    assert os.environ["no_proxy"] == "127.0.0.1,localhost"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == os.environ["DO_NOT_TRACK"] == "true"
    assert os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] == "true"
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"


def test_only_whole_lines_of_a_record_count(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert list(_recorded(path)) == []
    path.write_text('{"step": 1, "time": 2.0, "values": {"a": 1}}\n[]\n{"step": 2}\n{"step": 3, "ti{"step": 4}\n')
    assert list(_recorded(path)) == [("a", 1.0, 2000, 1)]


def test_the_module_imports_no_mlflow() -> None:
    code = "import sys, m3tl_cli.tracking.mlflow; print([m for m in ('mlflow', 'sqlalchemy', 'torch') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
