from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from m3tl_cli.core.errors import DataError
from m3tl_cli.report.read import Cell, RunFolder, Series, samples_from
from m3tl_cli.tracking.status import Process
from tests.report import _folder


def test_a_finished_run_is_read_whole(run_folder: Path) -> None:
    run = RunFolder.open(run_folder)
    assert (run.name, run.status.state, run.status.seconds) == ("run", "FINISHED", 141.7)
    assert run.results == _folder.results()
    assert run.tasks == tuple(_folder.TASKS)
    assert run.overrides[0] == "balancing=uw"
    assert run.config["trainer"]["updates"] == 1000
    assert run.command.startswith("m3tl train balancing=uw trainer.updates=1000 'tasks=[")
    assert run.last_step == 1000
    assert len(run.history["train/depth/loss"].steps) == 100
    assert run.checkpoints == ("last",)
    assert run.missing == ()


def test_the_later_line_of_a_step_holds_and_torn_lines_are_left_out(tmp_path: Path) -> None:
    first = [{"step": s, "time": 0.0, "values": {"a": float(s), "b": 1.0}} for s in (1, 2, 3)]
    again = [{"step": s, "time": 9.0, "values": {"a": -float(s)}} for s in (2, 3, 4)]
    lines = [json.dumps(x) for x in first] + ['{"step": 4, "ti' + json.dumps(again[0]), "[1]", '{"step": 1, "values": 3}']
    lines += [json.dumps(x) for x in again] + ['{"step": 5, "val']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    run = RunFolder.open(tmp_path)
    assert run.history == {"a": Series((1, 2, 3, 4), (1.0, -2.0, -3.0, -4.0)), "b": Series((1, 2, 3), (1.0, 1.0, 1.0))}
    assert run.last_step == 4


def test_a_run_that_only_logged_tells_its_tasks(tmp_path: Path) -> None:
    values = {"train/a/loss": 1.0, "val/b/rmse": 1.0, "train/grad_norm/a+b": 1.0, "optimizer/lr": 1.0, "speed/samples": 1.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "time": 0, "values": values}))
    run = RunFolder.open(tmp_path)
    assert run.tasks == ("a", "b")
    assert (run.results, run.samples, run.overrides, run.checkpoints) == (None, None, (), ())
    assert "results.json" in run.missing
    assert run.command == ""
    (tmp_path / "overrides.yaml").write_text("- a=[1,2]\n")
    assert RunFolder.open(tmp_path).command == "m3tl train 'a=[1,2]'"


def test_running_without_a_process_is_killed(tmp_path: Path) -> None:
    own = Process.this()
    status = {"state": "RUNNING", "pid": own.pid, "host": own.host, "process_start": own.start - 3600}
    (tmp_path / "status.json").write_text(json.dumps(status))
    assert RunFolder.open(tmp_path).status.state == "KILLED"


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must be a run folder .* found a folder without them"):
        RunFolder.open(tmp_path)
    with pytest.raises(DataError, match="found nothing"):
        RunFolder.open(tmp_path / "absent")


@pytest.mark.parametrize(
    ("name", "part", "text"),
    [
        ("results.json", "results", '{"paradigm": "mtl"}'),
        ("samples.json", "samples", '{"columns": 3}'),
        ("environment.json", "environment", "{"),
        ("overrides.yaml", "overrides", "a: [b"),
        ("config.yaml", "config", "a: [b"),
        ("samples.npz", "samples", "no zip"),
    ],
)
def test_a_damaged_file_is_named(run_folder: Path, name: str, part: str, text: str) -> None:
    (run_folder / name).write_text(text)
    with pytest.raises(DataError, match="must be as the run wrote it"):
        getattr(RunFolder.open(run_folder), part)


def test_pictures_that_are_no_pictures_are_refused(run_folder: Path) -> None:
    np.savez(run_folder / "samples.npz", x=np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match=r"uint8 \[H, W, 3\]"):
        _ = RunFolder.open(run_folder).samples


def test_a_picture_that_is_missing_is_said() -> None:
    rows = [{"caption": "c", "cells": {"a": {"picture": "gone"}, "b": {"text": "3 m"}}}]
    (row,) = samples_from(["a", "b"], rows, {}).rows
    assert row.cells == {"a": Cell(None, "picture is missing"), "b": Cell(None, "3 m")}


def test_reading_and_reporting_import_no_torch() -> None:
    code = (
        "import sys, m3tl_cli.report.page, m3tl_cli.report.read; print([m for m in ('torch', 'matplotlib', 'mlflow') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_run_that_has_its_results_is_finished_though_its_process_lives(run_folder: Path) -> None:
    own = Process.this()
    status = {"state": "RUNNING", "pid": own.pid, "host": own.host, "process_start": own.start}
    (run_folder / "status.json").write_text(json.dumps(status))
    assert RunFolder.open(run_folder).status.state == "FINISHED"
    (run_folder / "results.json").unlink()
    assert RunFolder.open(run_folder).status.state == "RUNNING"
