from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from m3tl_cli.tracking.status import Process, Status, read_status


def write(folder: Path, **content: object) -> Path:
    (folder / "status.json").write_text(json.dumps(content))
    return folder


def dead_process() -> Process:
    """A process of this machine that has ended."""
    code = "import dataclasses, json; from m3tl_cli.tracking.status import Process; print(json.dumps(dataclasses.asdict(Process.this())))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return Process(**json.loads(out))


def test_this_process_lives() -> None:
    assert not Process.this().is_gone()


def test_a_process_that_ended_is_gone() -> None:
    assert dead_process().is_gone()


def test_a_later_process_with_the_same_number_is_another_one() -> None:
    own = Process.this()
    assert Process(own.host, own.pid, own.start - 60).is_gone()


def test_another_machine_is_never_judged() -> None:
    assert not Process("elsewhere.invalid", 2**22 - 1, 0.0).is_gone()


def test_running_holds_while_the_process_lives(tmp_path: Path) -> None:
    own = Process.this()
    write(tmp_path, state="RUNNING", pid=own.pid, host=own.host, process_start=own.start)
    assert read_status(tmp_path).state == "RUNNING"


def test_running_without_a_process_is_killed(tmp_path: Path) -> None:
    dead = dead_process()
    write(tmp_path, state="RUNNING", pid=dead.pid, host=dead.host, process_start=dead.start)
    assert read_status(tmp_path).state == "KILLED"


def test_a_finished_run_stays_finished_without_its_process(tmp_path: Path) -> None:
    write(tmp_path, state="FINISHED", pid=1, host="h", process_start=2.5, seconds=9.5, value=0.3)
    assert read_status(tmp_path) == Status("FINISHED", 1, "h", 2.5, 9.5, "")


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", '{"state": "DONE"}', '{"state": "FAILED", "pid": "x"}'])
def test_what_cannot_be_read_is_unknown(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "status.json").write_text(text)
    assert read_status(tmp_path) == Status("UNKNOWN")
