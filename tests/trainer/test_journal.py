"""metrics.jsonl."""

from __future__ import annotations

import json
from pathlib import Path

from m3tl_cli.trainer.journal import Journal


def read(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_line_is_on_the_disk_as_soon_as_it_is_written(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.write(1, {"train/a/loss": 0.5})
        assert [r["step"] for r in read(tmp_path)] == [1]


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.write(1, {"x": float("nan"), "y": float("inf"), "z": 1.0})
    assert read(tmp_path)[0]["values"] == {"x": None, "y": None, "z": 1.0}


def test_a_resumed_run_drops_what_it_will_measure_again_and_half_lines(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        for step in (10, 20, 30):
            journal.write(step, {"x": float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "val')
    with Journal(tmp_path, step=20) as journal:
        journal.write(30, {"x": 31.0})
    assert [(r["step"], r["values"]) for r in read(tmp_path)] == [(10, {"x": 10.0}), (20, {"x": 20.0}), (30, {"x": 31.0})]
