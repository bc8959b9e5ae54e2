"""The state of a job, as another process reads it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from m3tl_cli.cli.status import FILE, SILENCE, Status


def test_what_is_written_is_read(tmp_path: Path) -> None:
    status = Status.begin(["seed=1"]).end("FINISHED", value=0.5)
    status.write(tmp_path)
    assert Status.read(tmp_path) == status
    assert [p.name for p in tmp_path.iterdir()] == [FILE]


def test_this_process_is_alive_and_one_that_began_at_another_time_is_not() -> None:
    status = Status.begin([])
    assert status.pid == os.getpid()
    assert status.alive
    assert not replace(status, process_start=status.process_start - 100).alive
    assert not replace(status, pid=2**22 + 1).alive


def test_an_ended_job_is_not_alive_and_one_on_another_machine_is_until_it_has_been_silent(tmp_path: Path) -> None:
    status = Status.begin([])
    assert not status.end("FAILED", error="x").alive
    replace(status, host="another").write(tmp_path)
    found = Status.read(tmp_path)
    assert found is not None
    assert found.elsewhere
    assert found.alive
    assert found.whereabouts.startswith(f"process {os.getpid()} on another, which gave a sign of life ")
    assert "is still running" in found.ending
    os.utime(tmp_path / FILE, (found.started - SILENCE - 1, found.started - SILENCE - 1))
    silent = Status.read(tmp_path)
    assert silent is not None
    assert not silent.alive
    assert silent.ending.startswith("KILLED: without a word of process ")


def test_time_adds_up_over_resumptions() -> None:
    status = Status.begin([], seconds=100.0).end("FINISHED", value=1.0)
    assert 100.0 <= status.seconds < 105.0


def test_what_cannot_be_read_is_none(tmp_path: Path) -> None:
    assert Status.read(tmp_path) is None
    for text in ("", "{", "[]", '{"state": "RUNNING"}'):
        (tmp_path / FILE).write_text(text)
        assert Status.read(tmp_path) is None
