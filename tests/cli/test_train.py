"""`m3tl train` as a user types it: a child process over a small config tree, with an experiment that only counts."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run

RUN = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-\d{6}-mtl-s3-[0-9a-f]{10}")


def states(folder: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(p.read_text()) for p in folder.rglob("status.json")]
    return {" ".join(f["overrides"]): f for f in found}


def started(folder: Path, num: int, seconds: float = 60.0) -> list[Path]:
    """Wait until that many jobs have begun to count."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = [p.parent for p in folder.rglob("train.log") if "stage train" in p.read_text()]
        if len(found) >= num:
            return found
        time.sleep(0.05)
    raise AssertionError(f"no {num} jobs after {seconds} s")


def test_a_run_leaves_a_folder_named_after_time_paradigm_and_seed_and_a_true_status(m3tl: Run, tmp_path: Path) -> None:
    done = m3tl("train", "seed=3", "name=mine")
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "outputs" / "mine").iterdir()
    assert RUN.fullmatch(folder.name)
    status = json.loads((folder / "status.json").read_text())
    assert status["state"] == "FINISHED"
    assert status["value"] == 0.75  # 1 - 0.5/2.0, by hand
    assert status["overrides"] == ["seed=3", "name=mine"]
    assert "stage train: depth, segmentation, 20 updates" in done.stderr
    assert "stage train" in (folder / "train.log").read_text()
    assert "75.0%" in done.stdout
    assert max(map(len, done.stderr.splitlines())) <= 80


@pytest.mark.parametrize(
    "words", [["-m", "seed=1,2", "budget=smoke"], ["seed=1,2", "budget=smoke", "--multirun"], ["-m", "--", "seed=1,2", "budget=smoke"]]
)
def test_flags_may_stand_on_either_side(m3tl: Run, tmp_path: Path, words: list[str]) -> None:
    done = m3tl("train", *words)
    assert done.returncode == 0, done.stderr
    assert set(states(tmp_path)) == {"seed=1 budget=smoke", "seed=2 budget=smoke"}


def test_every_job_of_a_sweep_runs_and_one_failure_makes_the_exit_code_1(m3tl: Run, tmp_path: Path) -> None:
    done = m3tl("train", "-m", "seed=13,1", "budget=smoke")
    assert done.returncode == 1
    assert {k: v["state"] for k, v in states(tmp_path).items()} == {"seed=13 budget=smoke": "FAILED", "seed=1 budget=smoke": "FINISHED"}
    assert "ValueError: 13 is unlucky" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_failure_shows_a_panel_and_the_log_keeps_the_traceback(m3tl: Run, tmp_path: Path) -> None:
    done = m3tl("train", "seed=13")
    assert done.returncode == 1
    assert "ValueError: 13 is unlucky" in done.stderr
    assert "Traceback" not in done.stderr
    (log,) = tmp_path.rglob("train.log")
    assert "Traceback" in log.read_text()
    assert "Traceback" in m3tl("train", "seed=13", "--debug").stderr


def test_a_failure_of_the_data_is_exit_code_3_with_its_hint(m3tl: Run) -> None:
    done = m3tl("train", "seed=14")
    assert done.returncode == 3
    assert "→ m3tl data show" in done.stderr


@pytest.mark.parametrize(
    "words",
    [["seed=two"], ["balancing=pcgard"], ["--config-dir", "no"], ["-m", "seed=1,two"], ["--nope"], ["--resume"], ["-m", "--cfg", "job"]],
)
def test_what_cannot_be_is_exit_code_2_and_nothing_is_created(m3tl: Run, tmp_path: Path, words: list[str]) -> None:
    done = m3tl("train", *words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_misspelt_verb_is_guessed(m3tl: Run) -> None:
    done = m3tl("trian")
    assert done.returncode == 2
    assert "Did you mean 'train'?" in done.stderr


def test_the_config_is_printed_as_hydra_prints_it(m3tl: Run, tmp_path: Path) -> None:
    assert "updates: 5\n" in m3tl("train", "budget=smoke", "--cfg", "job", "-p", "trainer").stdout
    assert "Provider" in m3tl("train", "--info", "searchpath").stdout
    assert m3tl("train", "--cfg", "job", "-p", "nope").returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_run_is_never_written_over(m3tl: Run, tmp_path: Path) -> None:
    assert m3tl("train", "hydra.run.dir=here", "budget=smoke").returncode == 0
    before = {p: p.read_bytes() for p in (tmp_path / "here").rglob("*") if p.is_file()}
    done = m3tl("train", "hydra.run.dir=here", "seed=2")
    assert done.returncode == 2
    assert "a folder without a run in it" in done.stderr
    assert before == {p: p.read_bytes() for p in (tmp_path / "here").rglob("*") if p.is_file()}


def test_a_finished_run_is_not_resumed(m3tl: Run, tmp_path: Path) -> None:
    assert m3tl("train", "hydra.run.dir=here", "budget=smoke").returncode == 0
    done = m3tl("train", "--resume", "here")
    assert done.returncode == 2
    assert "is finished" in done.stderr


class TestStopped:
    def start(self, tmp_path: Path, environment: dict[str, str], *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "m3tl_cli", "train", "trainer.updates=2000", "trainer.step_seconds=0.01", *words]
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_with_a_checkpoint_and_resume_goes_on_in_the_same_folder(
        self, m3tl: Run, tmp_path: Path, environment: dict[str, str], number: signal.Signals
    ) -> None:
        process = self.start(tmp_path, environment, "seed=5")
        (folder,) = started(tmp_path, 1)
        process.send_signal(number)
        _, err = process.communicate(timeout=240)
        assert process.returncode == 128 + number
        assert f"→ m3tl train --resume {folder.relative_to(tmp_path)}\n" in err
        status = json.loads((folder / "status.json").read_text())
        assert (status["state"], status["error"]) == ("KILLED", f"stopped by {number.name}")
        step = int((folder / "checkpoints" / "step").read_text())
        config = folder / "config.yaml"
        config.write_text(config.read_text().replace("step_seconds: 0.01", "step_seconds: 0.0"))

        refused = m3tl("train", "--resume", str(folder), "seed=6")
        assert refused.returncode == 2
        assert "nothing may be changed" in refused.stderr
        done = m3tl("train", "--resume")
        assert done.returncode == 0, done.stderr
        assert f"from {step} " in done.stderr
        assert "goes on with its own" in done.stderr  # the stored config is what runs
        assert [p.parent for p in tmp_path.rglob("status.json")] == [folder]
        assert states(tmp_path)["trainer.updates=2000 trainer.step_seconds=0.01 seed=5"]["state"] == "FINISHED"

    def test_a_run_that_is_alive_is_not_resumed_and_one_that_died_without_a_word_is(
        self, m3tl: Run, tmp_path: Path, environment: dict[str, str]
    ) -> None:
        process = self.start(tmp_path, environment)
        (folder,) = started(tmp_path, 1)
        done = m3tl("train", "--resume", str(folder))
        assert done.returncode == 2
        assert f"still running, as process {process.pid}" in " ".join(done.stderr.replace("│", " ").split())
        process.kill()
        process.communicate(timeout=240)
        assert json.loads((folder / "status.json").read_text())["state"] == "RUNNING"
        done = m3tl("train", "--resume", str(folder))
        assert "has no checkpoint yet" in " ".join(done.stderr.replace("│", " ").split())
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "step").write_text("1999")
        done = m3tl("train", "--resume")
        assert done.returncode == 0, done.stderr
        assert "from 1999 " in done.stderr

    @pytest.mark.slow
    def test_workers_of_a_parallel_sweep_write_checkpoints_and_none_is_left_behind(
        self, m3tl: Run, tmp_path: Path, environment: dict[str, str]
    ) -> None:
        psutil = pytest.importorskip("psutil")
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
        process = self.start(tmp_path, environment, "-m", "seed=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
        folders = started(tmp_path, 2)
        pids = [json.loads((f / "status.json").read_text())["pid"] for f in folders]
        assert os.getpid() not in pids
        assert process.pid not in pids
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=240)
        assert process.returncode == 143, err
        assert out.count("KILLED") == 2
        assert all((f / "checkpoints" / "step").is_file() for f in folders)
        end = time.monotonic() + 20
        while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < end:
            time.sleep(0.1)
        assert not any(psutil.pid_exists(pid) for pid in pids)
        for folder in folders:
            (folder / "checkpoints" / "step").write_text("1999")
        done = m3tl("train", "-m", "--resume")
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("from 1999") == 2
        assert done.stdout.count("FINISHED") == 2


def test_a_sweep_that_is_entered_again_runs_only_what_is_not_finished(m3tl: Run, tmp_path: Path) -> None:
    assert m3tl("train", "-m", "seed=1,2", "budget=smoke").returncode == 0
    (sweep,) = tmp_path.glob("outputs/train/*-sweep")
    before = {k: v["started"] for k, v in states(tmp_path).items()}
    done = m3tl("train", "-m", "seed=1,2,3", "budget=smoke", "--resume", str(sweep))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("done already") == 2
    after = {k: v["started"] for k, v in states(tmp_path).items()}
    assert set(after) - set(before) == {"seed=3 budget=smoke"}
    assert all(after[k] == before[k] for k in before)


def test_a_users_own_part_and_config_run_from_outside_the_repository(m3tl: Run, tmp_path: Path) -> None:
    (tmp_path / "mine" / "balancing").mkdir(parents=True)
    (tmp_path / "mine" / "balancing" / "own.yaml").write_text("# own\n_target_: own_part.Own\nshare: 0.5\n")
    (tmp_path / "mine" / "own_part.py").write_text("class Own:\n    def __init__(self, *, share: float): ...\n")
    assert "own" in m3tl("list", "balancing", "--config-dir", "mine").stdout
    done = m3tl("train", "--config-dir", "mine", "balancing=own", "budget=smoke")
    assert done.returncode == 0, done.stderr
    assert "_target_: own_part.Own" in next(tmp_path.glob("outputs/train/*/config.yaml")).read_text()
