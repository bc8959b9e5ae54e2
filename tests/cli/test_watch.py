from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from m3tl_cli.cli.design import Arm, Planned
from m3tl_cli.cli.status import State, Status
from m3tl_cli.cli.watch import Watch, state


def status(kind: State, seconds: float = 0.0, error: str = "", ago: float = 0.0, pid: int | None = None) -> Status:
    born = psutil.Process().create_time()
    return Status(kind, pid or os.getpid(), socket.gethostname(), born, (), error=error, seconds=seconds, started=time.time() - ago)


def cells(settings: Sequence[str] = ("stl", "mtl"), seeds: Sequence[int] = (1, 2)) -> list[Planned]:
    return [Planned(f"{s}-s{seed}", Arm(s, {}), seed, "equal_updates", ()) for seed in seeds for s in settings]


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    return Watch(tmp_path, cells(), live=False)


def put(watch: Watch, **found: Status) -> None:
    for name, value in found.items():
        value.write(watch.folder / name.replace("_", "-"))


def test_a_run_whose_process_is_gone_without_a_word_is_stopped() -> None:
    assert state(None) == "waiting"
    assert state(status("RUNNING")) == "running"
    assert state(replace(status("RUNNING"), process_start=1.0)) == "stopped"
    assert state(replace(status("RUNNING"), host="elsewhere")) == "running"
    assert state(replace(status("RUNNING"), host="elsewhere", seen=1.0)) == "stopped"
    assert state(status("KILLED")) == "stopped"
    assert state(status("FAILED")) == "failed"


def test_the_time_left_is_that_of_finished_runs_of_the_same_arm(watch: Watch) -> None:
    put(watch, stl_s1=status("FINISHED", 100.0), mtl_s1=status("FINISHED", 40.0))
    assert watch.left(watch.look()) == 140.0  # one of each is left, in one lane
    put(watch, stl_s2=status("RUNNING", ago=30.0), mtl_s2=status("RUNNING", ago=30.0))
    assert watch.left(watch.look()) == pytest.approx((70.0 + 10.0) / 2, abs=1)
    assert "2 of 4 done, 2 running · 40 s left" in watch.summary(watch.look()).replace("39 s", "40 s")


def test_an_arm_that_has_not_finished_takes_as_long_as_the_others(tmp_path: Path) -> None:
    watch = Watch(tmp_path, cells(seeds=(1,)), live=False)
    put(watch, stl_s1=status("FINISHED", 100.0))
    assert watch.left(watch.look()) == 100.0
    assert "left" not in Watch(tmp_path / "none", cells(), live=False).summary({c.name: None for c in cells()})


def test_where_nobody_watches_a_line_tells_what_has_changed(watch: Watch, capsys: pytest.CaptureFixture[str]) -> None:
    put(watch, stl_s1=status("FINISHED", 9.0))
    with watch:
        put(watch, mtl_s1=status("RUNNING"))
        watch.tell()
        put(watch, mtl_s1=status("FAILED", 90.0, "ValueError: 13 is unlucky"))
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line.split(" ", 1)[1] for line in err.splitlines()]
    assert lines == [
        "mtl-s1 started · 1 of 4 done, 1 running · 26 s left",
        "mtl-s1 failed after 1 min 30 s: ValueError: 13 is unlucky · 1 of 4 done, 1 failed · 18 s left",
    ] or lines[0].startswith("mtl-s1 started · 1 of 4 done, 1 running · 27 s left")
    assert "stl-s1" not in err  # it was finished before


def test_the_grid_has_a_row_per_arm_and_a_mark_per_seed_in_80_columns(watch: Watch) -> None:
    watch = Watch(watch.folder, cells(["stl", "mtl_transfer"], range(1, 21)), live=True)
    put(watch, stl_s1=status("FINISHED", 9.0), stl_s2=status("FAILED"), mtl_transfer_s1=status("RUNNING", ago=61.0))
    (watch.folder / "mtl-transfer-s1").rename(watch.folder / "mtl_transfer-s1")
    screen = io.StringIO()
    Console(file=screen, width=80).print(watch.table())
    lines = [line.rstrip() for line in screen.getvalue().splitlines()]
    assert lines[0] == "stl           ✓ ✗ " + " ".join("·" * 18)
    assert lines[1] == "mtl_transfer  ▸ " + " ".join("·" * 19)
    assert lines[2].startswith("1 of 40 done, 1 running, 1 failed · ")
    assert lines[3] == "mtl_transfer-s1 1 min 01 s"
    assert max(map(len, lines)) <= 80
