"""Results of a run through every stage: their file, and what blocks are called."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from m3tl_cli.core.results import Cost, Results, StageCost, block_key, block_order, block_parts, block_title, mean, total_flops
from tests.report import _cube, _folder


def test_every_field_survives_its_file(tmp_path: Path) -> None:
    results = _cube.results()
    results.write(tmp_path / "results.json")
    assert Results.read(tmp_path / "results.json") == results


def test_a_run_without_a_target_survives_too(tmp_path: Path) -> None:
    results = _folder.results()
    results.write(tmp_path / "results.json")
    assert json.loads((tmp_path / "results.json").read_text())["curves"] == []
    assert Results.read(tmp_path / "results.json") == results


def test_a_curve_takes_one_line(tmp_path: Path) -> None:
    results = _cube.results()
    results.write(tmp_path / "results.json")
    lines = (tmp_path / "results.json").read_text().splitlines()
    assert sum('"episodes"' in line for line in lines) == len(results.curves)


def test_a_file_from_before_a_field_existed_is_read(tmp_path: Path) -> None:
    score = {"value": 1, "trivial": 2, "perfect": 0, "direction": "lower"}
    raw = {
        "paradigm": "mtl",
        "seed": 1,
        "tasks": ["t"],
        "blocks": {"a": {"t": {"kind": "depth", "primary": "m", "scores": {"m": score}}}},
        "cost": dict.fromkeys(
            (
                "parameters", "trainable", "networks", "updates", "samples", "forward", "backward", "seconds", "seconds_prepare",
                "peak_memory",
            ),
            1,
        ),
        "notes": [],
    }  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps(raw))
    found = Results.read(tmp_path / "results.json")
    assert found.cost == Cost(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, labels=0, flops=0.0)
    assert (found.curves, found.baselines, found.choices, found.stages, found.sources) == ((), {}, (), (), {})
    assert found.blocks["a"]["t"].scores["m"].error_reduction == 0.5


def test_operations_of_stages_add_up_unless_one_that_trained_was_not_counted() -> None:
    train, evaluate = StageCost("train", 5, 80, 5, 5, 1.0, flops=70.0), StageCost("evaluate", 0, 0, 3, 0, 1.0)
    assert total_flops([train, evaluate]) == 70.0, "scoring is not counted, and is no lack"
    assert total_flops([]) == 0.0
    for lacking in (0.0, math.nan):
        adapt = StageCost("adapt", 5, 80, 5, 5, 1.0, flops=lacking)
        assert adapt.uncounted
        assert total_flops([train, adapt, evaluate]) == 0.0


def test_the_mean_of_a_curve_leaves_out_episodes_without_a_number() -> None:
    curve = replace(_cube.results().curves[0], steps=(0, 5), episodes=((1.0, 2.0), (3.0, math.nan)), trivial=4.0, perfect=0.0)
    curve = replace(curve, direction="lower")
    assert curve.means == (2.0, 2.0)
    assert curve.at(0).error_reduction == 0.5
    assert math.isnan(curve.at(1).value)


def test_a_curve_with_a_value_too_few_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must have 2 values a row.*found \[1, 2\]"):
        replace(_cube.results().curves[0], steps=(0, 5), episodes=((1.0, 2.0), (3.0,)))


@pytest.mark.parametrize(
    ("key", "parts", "title"),
    [
        ("a", ("a", None), "held-out samples of the source domains"),
        ("a@0", ("a", 0), "held-out samples of the source domains, 0 inner steps"),
        ("b@1", ("b", 1), "seen tasks in target domains, 1 shot"),
        ("c@20", ("c", 20), "new tasks in target domains, 20 shots"),
        ("d@5", ("d", 5), "new tasks in source domains, 5 shots"),
        ("old@5", ("old", 5), "seen tasks in target domains, after the new tasks were added, 5 shots"),
        ("mine", ("mine", None), "block mine"),
        ("x@y", ("x@y", None), "block x@y"),
        ("@3", ("@3", None), "block @3"),
    ],
)
def test_a_block_is_called_by_its_key(key: str, parts: tuple[str, int | None], title: str) -> None:
    assert block_parts(key) == parts
    assert block_title(key) == title
    if parts[1] is not None:
        assert block_key(*parts) == key  # type: ignore[arg-type]


def test_blocks_stand_in_the_order_of_their_kinds_and_then_of_shots() -> None:
    order = ["a", "a@0", "b@1", "b@5", "b@20", "c@1", "c@10", "d@1", "old@1", "probe@1", "mine", "other@2"]
    assert sorted(sorted(order, reverse=True), key=block_order) == order


def test_a_mean_is_of_what_is_finite() -> None:
    assert mean([1.0, math.nan, 3.0, math.inf]) == 2.0
    assert math.isnan(mean([]))
