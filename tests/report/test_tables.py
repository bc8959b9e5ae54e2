from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest

from m3tl_cli.core.results import Results, Score, StageCost, TaskResult
from m3tl_cli.report import tables
from m3tl_cli.report.read import Series
from tests.report import _cube, _folder


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


def test_without_source_domains_the_summary_is_of_the_most_shots() -> None:
    whole = _cube.results()
    short = tables.summary(replace(whole, blocks={key: tasks for key, tasks in whole.blocks.items() if key[0] != "a"}))
    assert short is not None
    assert short.block == "b@20"
    whole_short = tables.summary(whole)
    assert whole_short is not None
    assert whole_short.block == "a"


def test_the_primary_metric_comes_first() -> None:
    assert [(x.metric, x.primary) for x in tables.lines(results(a=one(1.0)).blocks)] == [("mae", True), ("r2", False)]


def test_tables_hold_every_number(tmp_path: Path) -> None:
    history = {"a,b": Series((1, 2), (0.1, math.nan)), "c": Series((2,), (1e-9,))}
    files = tables.write_tables(tmp_path / "tables", results(a=one(0.5)), history)
    assert {f.name for f in files} == {"blocks.csv", "cost.csv", "history.csv"}
    rows = list(csv.DictReader((tmp_path / "tables" / "blocks.csv").read_text().splitlines()))
    assert rows[0] == {
        "model": "mtl", "block": "a", "num_shots": "", "task": "a", "kind": "regression", "role": "main", "metric": "mae", "primary": "1",
        "value": "0.5", "unit": "m",
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
    assert len(rows) == len(vars(_folder.COST)) - 2, "nobody counted the labels, nor the operations"
    assert "FLOPs of training" not in rows
    counted = tables.cost_rows(replace(_folder.COST, flops=3.52e10))
    assert counted[0] == ("FLOPs of training", "35 G"), "the cost that comparisons match comes first"
    assert dict(tables.cost_rows(_cube.results().cost))["labelled samples seen, pretraining included"] == "38,400"


def test_the_cube_has_a_table_of_everything(tmp_path: Path) -> None:
    made = _cube.results()
    files = tables.write_tables(tmp_path, made, {})
    assert {f.name for f in files} == {f"{x}.csv" for x in ("blocks", "cost", "curves", "choices", "stages", "sources", "transference")}
    read = {f.stem: list(csv.DictReader(f.read_text().splitlines())) for f in files}
    blocks = read["blocks"]
    assert list(dict.fromkeys((r["block"], r["num_shots"]) for r in blocks if r["model"] == "m3tl"))[:4] == [
        ("a", ""), ("a@0", ""), ("b", "1"), ("b", "5"),
    ]  # fmt: skip
    assert {r["model"] for r in blocks} == {"m3tl", *made.baselines}
    edges = next(r for r in blocks if (r["model"], r["block"], r["num_shots"], r["task"]) == ("m3tl", "c", "1", "edges"))
    assert float(edges["error_reduction"]) == pytest.approx(0.2)
    assert float(edges["value"]) == pytest.approx(0.121 + 0.2 * 0.879)

    curve = made.curves[0]
    found = [
        r for r in read["curves"] if (r["block"], r["num_shots"], r["task"], r["optimizer"]) == ("b", "1", curve.task, curve.optimizer)
    ]
    assert [int(r["step"]) for r in found] == list(_cube.STEPS)
    values = [row[0] for row in curve.episodes]
    average = sum(values) / len(values)
    assert float(found[0]["mean"]) == pytest.approx(average)
    assert float(found[0]["std"]) == pytest.approx(math.sqrt(sum((v - average) ** 2 for v in values) / (len(values) - 1)))
    assert len(read["curves"]) == len(made.curves) * len(_cube.STEPS)

    assert [(r["optimizer"], r["chosen"], r["steps"]) for r in read["choices"][:3]] == [
        ("adamw 0.003", "1", "50"), ("adamw 0.001", "0", ""), ("inner SGD", "0", ""),
    ]  # fmt: skip
    assert read["stages"][0] == {
        "stage": "pretrain", "updates": "500", "samples": "8000", "forward": "500", "backward": "500", "seconds": "31.0", "cached": "1",
        "flops": "",
    }  # fmt: skip
    assert "flops" not in {r["quantity"] for r in read["cost"]}, "nobody counted"
    assert read["transference"][1] == {"step_on": "segmentation", "task": "depth", "share": "0.01"}
    assert read["sources"][0] == {"task": "edges", "source": "segmentation", "score": "0.3"}


def test_operations_that_were_counted_are_in_the_files() -> None:
    [row] = csv.DictReader(tables.stages_csv([StageCost("train", 1, 16, 1, 1, 2.0, flops=3e9)]).splitlines())
    assert float(row["flops"]) == 3e9
    assert "flops,3000000000.0" in tables.cost_csv(replace(_folder.COST, flops=3e9)).splitlines()


def test_an_episode_without_a_number_is_not_counted() -> None:
    curve = replace(_cube.results().curves[0], steps=(0,), episodes=((1.0,), (math.nan,), (2.0,)))
    (row,) = csv.DictReader(tables.curves_csv([curve]).splitlines())
    assert (row["num_episodes"], row["mean"]) == ("2", "1.5")
