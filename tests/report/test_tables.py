from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from m3tl_cli.core.results import Results, Score, TaskResult
from m3tl_cli.report import tables
from m3tl_cli.report.read import Series
from tests.report import _folder


def results(**tasks: TaskResult) -> Results:
    return Results("mtl", 1, tuple(tasks), {"a": tasks}, _folder.COST)


def one(value: float, role: str = "main") -> TaskResult:
    return TaskResult("regression", "mae", {"r2": Score(0.5, 0.0, 1.0, "higher"), "mae": Score(value, 2.0, 0.0, "lower", "m")}, role)


def test_the_summary_counts_main_tasks_by_their_primary_metric() -> None:
    short = tables.summary(results(a=one(0.5), b=one(3.0), c=one(0.0, role="auxiliary"), d=one(math.nan)))
    assert short is not None
    assert (short.block, short.beat_trivial) == ("a", ("a",))
    assert short.reductions["a"] == pytest.approx(0.75)
    assert short.reductions["b"] == pytest.approx(-0.5)
    assert short.mean == pytest.approx(0.125)


def test_without_a_primary_score_there_is_no_summary() -> None:
    assert tables.summary(results(a=TaskResult("regression", "mae", {}))) is None


def test_the_primary_metric_comes_first() -> None:
    assert [(x.metric, x.primary) for x in tables.lines(results(a=one(1.0)))] == [("mae", True), ("r2", False)]


def test_tables_hold_every_number(tmp_path: Path) -> None:
    history = {"a,b": Series((1, 2), (0.1, math.nan)), "c": Series((2,), (1e-9,))}
    files = tables.write_tables(tmp_path / "tables", results(a=one(0.5)), history)
    assert {f.name for f in files} == {"results.csv", "cost.csv", "history.csv"}
    rows = list(csv.DictReader((tmp_path / "tables" / "results.csv").read_text().splitlines()))
    assert rows[0] == {
        "block": "a", "task": "a", "kind": "regression", "role": "main", "metric": "mae", "primary": "1", "value": "0.5", "unit": "m",
        "direction": "lower", "trivial": "2.0", "perfect": "0.0", "error_reduction": "0.75",
    }  # fmt: skip
    assert list(csv.reader((tmp_path / "tables" / "history.csv").read_text().splitlines()))[1:] == [
        ["a,b", "1", "0.1"],
        ["a,b", "2", "nan"],
        ["c", "2", "1e-09"],
    ]
    cost = dict(csv.reader((tmp_path / "tables" / "cost.csv").read_text().splitlines()))
    assert (cost["parameters"], cost["seconds"]) == ("1284391", "134.2")


def test_what_is_absent_is_not_written(tmp_path: Path) -> None:
    assert tables.write_tables(tmp_path, None, {}) == []
    assert list(tmp_path.iterdir()) == []


def test_cost_is_said_in_words() -> None:
    rows = dict(tables.cost_rows(_folder.COST))
    assert rows["parameters of all networks"] == "1,284,391"
    assert rows["training time, evaluation included"] == "2 min 14 s"
    assert rows["peak memory"] == "870 MiB"
    assert len(rows) == len(vars(_folder.COST))
