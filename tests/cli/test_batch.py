"""Jobs of one multirun in other processes and on other machines: who may run, how they are stopped, and what is seen of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from m3tl_cli.cli import job
from m3tl_cli.cli.batch import BATCH, Batch, Pulse, overseen
from m3tl_cli.cli.status import FILE, SILENCE, Status
from m3tl_cli.core.errors import Stopped
from tests.cli.conftest import Run
from tests.cli.test_ablate import SMALL, UNLUCKY, starting, states, states_of, the_folder, until


def soon(true: Callable[[], bool]) -> bool:
    end = time.monotonic() + 30
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    return true()


def test_a_job_knows_its_batch_by_name_and_may_run_until_that_is_stopped_or_another_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Batch.of_job(tmp_path) is None
    first = Batch.begin(tmp_path)
    monkeypatch.setenv(BATCH, first.name)
    assert Batch.of_job(tmp_path) == first
    assert first.is_own
    assert not first.is_distant
    assert replace(first, name="another:1:2").is_distant
    assert not first.is_over
    second = Batch.begin(tmp_path)
    assert first.is_over
    assert not second.is_over
    second.stop(list)
    assert second.is_over


def test_a_running_job_gives_signs_of_life(tmp_path: Path) -> None:
    Status.begin([]).write(tmp_path)
    os.utime(tmp_path / FILE, (1.0, 1.0))
    with Pulse(tmp_path, None, every=0.01):
        assert soon(lambda: (tmp_path / FILE).stat().st_mtime > 1.0)
    os.utime(tmp_path / FILE, (1.0, 1.0))
    assert (tmp_path / FILE).stat().st_mtime == 1.0


def test_a_job_ends_itself_where_a_launch_on_another_machine_was_stopped_and_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    looked = threading.Event()
    utime = os.utime
    monkeypatch.setattr(os, "utime", lambda path: (utime(path), looked.set()))
    here = Batch.begin(tmp_path)
    there = replace(here, name="another:1:2")
    for batch, mark, expected in ((there, there.name, []), (here, "stopped", []), (there, "stopped", [(os.getpid(), signal.SIGTERM)])):
        (tmp_path / ".batch").write_text(mark)
        Status.begin([]).write(tmp_path)
        looked.clear()
        with Pulse(tmp_path, batch, every=0.01):
            assert looked.wait(30)
            looked.clear()
            assert looked.wait(30)
        assert sent == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_launch_waits_for_its_jobs_even_where_the_launcher_has_its_own_handlers_and_exit(
    number: signal.Signals, tmp_path: Path
) -> None:
    code = f"""
import os, signal, sys, time
from pathlib import Path
from m3tl_cli.cli.batch import Batch, overseen
folder = Path(sys.argv[1])
def own(*_):
    raise SystemExit(1)
with overseen(Batch.begin(folder), lambda: []):
    if sys.argv[2] == "own":
        signal.signal({int(number)}, own)
    os.kill(os.getpid(), {int(number)})
    time.sleep(60)
"""
    for handler in ("ours", "own"):
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path), handler], timeout=60)
        assert done.returncode == 128 + number
        assert (tmp_path / ".batch").read_text() == "stopped"


def test_a_launcher_that_gives_up_leaves_no_batch_that_may_begin(tmp_path: Path) -> None:
    batch = Batch.begin(tmp_path)
    with pytest.raises(ValueError, match="no result"), overseen(batch, list):
        raise ValueError("no result")
    assert batch.is_over


def test_a_run_on_another_machine_is_not_started_twice_while_it_gives_signs_of_life(m3tl: Run, tmp_path: Path) -> None:
    assert m3tl("ablate", *SMALL, "seeds=[1]").returncode == 0
    folder = the_folder(tmp_path)
    first = sorted(folder.glob("*/status.json"))[0].parent
    status = Status.read(first)
    assert status is not None
    replace(status, state="RUNNING", host="another").write(first)
    refused = m3tl("ablate", "--resume")
    said = " ".join(refused.stderr.replace("│", " ").split())
    assert refused.returncode == 2
    assert f"is still running: {first.name}, as process {status.pid} on another, which gave a sign of life" in said
    assert "it is taken for dead" in said
    long_ago = time.time() - SILENCE - 60
    os.utime(first / FILE, (long_ago, long_ago))
    done = m3tl("ablate", "--resume")
    assert done.returncode == 0, done.stderr
    assert f"{first.name}: process {status.pid} on another, which gave a sign of life 4 min" in done.stderr
    assert "is taken for dead" in done.stderr
    assert {s["state"] for s in states(folder).values()} == {"FINISHED"}


LAUNCHERS = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher", ["hydra.launcher.n_jobs=2"]),
    "submitit_local": ("hydra_plugins.hydra_submitit_launcher", ["hydra.launcher.timeout_min=5"]),
    "ray": ("hydra_plugins.hydra_ray_launcher", ["+hydra.launcher.ray.init.num_cpus=2"]),
}


def launcher(name: str) -> list[str]:
    plugin, words = LAUNCHERS[name]
    pytest.importorskip(plugin, reason=f"the launcher {name} is not installed")
    return [f"hydra/launcher={name}", *words]


@pytest.mark.slow
@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_keeps_the_others_of_a_failed_run(name: str, m3tl: Run, tmp_path: Path) -> None:
    done = m3tl("ablate", "block=a", "seeds=[13,1]", "budget=smoke", *launcher(name))
    assert done.returncode == 1, done.stderr
    folder = the_folder(tmp_path)
    assert {key: s["state"] for key, s in states(folder).items()} == UNLUCKY
    assert done.stdout.count("FAILED: ValueError: 13 is unlucky") == 2
    assert (folder / "comparison.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_stopped_launcher_stops_its_jobs_and_goes_on_with_them(name: str, m3tl: Run, tmp_path: Path, environment: dict[str, str]) -> None:
    words = (*SMALL, "trainer.updates=300", "trainer.step_seconds=0.02", *launcher(name))
    process = starting(words, tmp_path, environment)
    until(lambda: sum(s["state"] == "RUNNING" for s in states_of(tmp_path)) >= 2, 120)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    folder = the_folder(tmp_path)
    stopped = {key for key, s in states(folder).items() if s["state"] == "KILLED"}
    assert len(stopped) >= 2
    assert all(s["state"] == "KILLED" for s in states(folder).values())
    done = m3tl("ablate", "--resume")
    assert done.returncode == 0, done.stderr
    assert {s["state"] for s in states(folder).values()} == {"FINISHED"}
    assert len(states(folder)) == 4


@pytest.mark.slow
def test_a_worker_that_is_told_to_end_costs_its_own_run_and_no_other(m3tl: Run, tmp_path: Path, environment: dict[str, str]) -> None:
    words = (*SMALL, "trainer.updates=200", "trainer.step_seconds=0.02", *launcher("joblib"))
    process = starting(words, tmp_path, environment)
    until(lambda: sum(s["state"] == "RUNNING" for s in states_of(tmp_path)) >= 2)
    os.kill(next(s["pid"] for s in states_of(tmp_path) if s["state"] == "RUNNING"), signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert sorted(s["state"] for s in states(the_folder(tmp_path)).values()) == ["FINISHED", "FINISHED", "FINISHED", "KILLED"]
    assert "KILLED: stopped by SIGTERM" in out


def test_a_job_that_its_launcher_requeues_ends_as_the_launcher_says_and_not_by_the_sigterm_that_comes_with_it() -> None:
    def requeue(number: int, _frame: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise SystemExit(-1)

    before = signal.signal(signal.SIGUSR2, requeue)
    try:
        with pytest.raises(SystemExit) as left, job._ended_in_order(Batch(Path(), "another:1:2")):
            os.kill(os.getpid(), signal.SIGUSR2)
        assert left.value.code == -1
        with pytest.raises(Stopped, match="stopped by SIGTERM"), job._ended_in_order(Batch(Path(), "another:1:2")):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGUSR2, before)
