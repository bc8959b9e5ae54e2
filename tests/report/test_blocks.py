from __future__ import annotations

import math
from dataclasses import replace

import pytest

from m3tl_cli.core.results import Score, TaskResult
from m3tl_cli.report import blocks
from tests.report import _cube, _folder


def test_a_table_over_shots_holds_what_was_reached_and_where_it_began() -> None:
    b, c, d, old = blocks.shot_tables(_cube.results())
    assert [(t.kind, t.num_shots, len(t.rows)) for t in (b, c, d, old)] == [
        ("b", _cube.SHOTS, 6), ("c", _cube.SHOTS, 4), ("d", _cube.SHOTS, 4), ("old", _cube.SHOTS, 6),
    ]  # fmt: skip
    cell = b.rows[0].cells[1]
    assert blocks.reduction(cell.after) == pytest.approx(0.32)
    assert cell.before is not None
    assert blocks.reduction(cell.before) == pytest.approx(0.32 / 3)
    assert old.rows[0].cells[1].before is None, "nobody drew its curve"


def test_the_start_is_that_of_the_chosen_trial_and_the_primary_metric() -> None:
    whole = _cube.results()
    first = whole.curves[0]
    assert first.chosen
    other = replace(first, metric="delta_1")
    tables = blocks.shot_tables(replace(whole, curves=(replace(first, chosen=False), other)))
    assert tables[0].rows[0].cells[1].before is None
    tables = blocks.shot_tables(replace(whole, curves=(other, first)))
    assert tables[0].rows[0].cells[1].before == first.at(0)


def test_quadrants_are_means_over_main_tasks_at_every_number_of_shots() -> None:
    found = blocks.quadrants(_cube.results())
    assert [q.num_shots for q in found] == [1, 5, 10, 20]
    one = found[0]
    assert one.seen_source == pytest.approx(0.55 - 0.05 * 2.5)
    assert one.seen_target == pytest.approx(0.62 - 0.3 - 0.09 * 2.5)
    assert one.new_source == pytest.approx(0.58 - 0.3 - 0.09 * 1.5)
    assert one.new_target == pytest.approx(0.5 - 0.3 - 0.09 * 1.5)


def test_a_quadrant_that_was_not_measured_is_no_number() -> None:
    whole = _cube.results()
    kept = {key: tasks for key, tasks in whole.blocks.items() if key in ("a", "c@5")}
    (square,) = blocks.quadrants(replace(whole, blocks=kept))
    assert math.isnan(square.seen_target)
    assert math.isnan(square.new_source)
    assert square.new_target == pytest.approx(0.5 - 0.3 / math.sqrt(5) - 0.09 * 1.5)
    seen = {key: tasks for key, tasks in whole.blocks.items() if key in ("a", "b@5")}
    assert [name for name, *_ in blocks.quadrants(replace(whole, blocks=seen))[0].rows] == ["seen tasks"]
    assert blocks.quadrants(_folder.results()) == []


def test_auxiliary_tasks_and_missing_scores_do_not_count() -> None:
    def task(value: float, role: str = "main") -> TaskResult:
        return TaskResult("depth", "m", {"m": Score(value, 2.0, 0.0, "lower")}, role)

    tasks = {"x": task(0.5), "y": task(1.0), "helper": task(0.0, "auxiliary"), "none": replace(task(0.0), scores={}), "nan": task(math.nan)}
    assert blocks.mean_reduction(tasks) == pytest.approx((0.75 + 0.5) / 2)


def test_the_run_stands_above_its_baselines_where_they_were_measured() -> None:
    found = blocks.means(_cube.results())
    assert found is not None
    assert found.keys == ("b@1", "b@5", "b@10", "b@20", "c@1", "c@5", "c@10", "c@20")
    assert [name for name, _ in found.rows] == ["m3tl", *_cube.results().baselines]
    values = dict(found.rows)
    assert values["m3tl"]["c@1"] - values["scratch"]["c@1"] == pytest.approx(0.2)
    assert blocks.means(_folder.results()) is None


@pytest.mark.parametrize(("at_most", "expected"), [(9, (1, 2, 3, 4, 5)), (3, (1, 3, 5)), (2, (1, 5))])
def test_a_few_numbers_hold_the_ends(at_most: int, expected: tuple[int, ...]) -> None:
    assert blocks.few((1, 2, 3, 4, 5), at_most) == expected
