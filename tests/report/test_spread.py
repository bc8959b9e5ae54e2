"""A dot a task: as many dots as numbers, where they belong, and the ends by name."""

from __future__ import annotations

import math
import re

from m3tl_cli.report.spread import BINS, TALLEST, Spread, spread


def row(values: dict[str, float], moods: dict[str, str] | None = None) -> Spread:
    return Spread("mtl", values, {t: f"({v})" for t, v in values.items()}, moods or {})


def dots(html: str) -> list[tuple[float, float, str]]:
    found = re.findall(r"<circle cx='([\d.]+)%' cy='(-?[\d.]+)' r='2'[^>]*><title>(\w+)", html)
    return [(float(x), float(y), task) for x, y, task in found]


def test_a_task_is_a_dot_and_a_higher_number_stands_further_right() -> None:
    found = sorted(dots(spread([row({"a": -1.0, "b": 0.0, "c": 2.0})], "alt")), key=lambda d: d[0])
    assert [task for *_, task in found] == ["a", "b", "c"]
    # From -1 - .09 to 2 + .09: -1 stands at 2.8 %, 2 at 97.2 %, each in the middle of its column.
    assert abs(found[0][0] - 2.8) < 100 / BINS
    assert abs(found[2][0] - 97.2) < 100 / BINS


def test_equal_numbers_are_stacked_and_none_hides_another() -> None:
    found = dots(spread([row({f"t{i}": 0.5 for i in range(40)} | {"low": -0.5})], "alt"))
    places = {(x, y) for x, y, _ in found}
    assert len(places) == len(found) == 41
    assert max(y for _, y, _ in found) - min(y for _, y, _ in found) <= TALLEST


def test_the_ends_the_median_and_the_sides_are_said() -> None:
    html = spread([row({"a": -0.2, "b": 0.1, "c": 0.3, "gone": math.nan}, {"a": "bad"})], "alt")
    assert "worst</span> a (-0.2)" in html
    assert "best</span> c (0.3)" in html
    assert "median</span> +0.100" in html
    assert "2 above 0, 1 below (1 surely), 1 not measured" in html
    assert len(dots(html)) == 3
    assert html.count("class=bad") == 1


def test_shares_are_told_as_percentages() -> None:
    assert "median</span> 50\u00a0%" in spread([row({"a": 0.5})], "alt", shares=True)


def test_the_margin_is_shaded_where_there_is_one() -> None:
    assert "class='margin'" in spread([row({"a": 0.5})], "alt", margin=0.02)
    assert "class='margin'" not in spread([row({"a": 0.5})], "alt")


def test_without_a_number_there_is_nothing() -> None:
    assert spread([row({"a": math.nan})], "alt") == ""
    assert spread([], "alt") == ""


def test_names_are_escaped() -> None:
    assert "<b>" not in spread([Spread("<b>", {"<b>": 1.0}, {"<b>": "1"})], "<b>")


def test_all_tasks_at_zero_still_have_an_axis() -> None:
    assert len(dots(spread([row({"a": 0.0, "b": 0.0})], "alt"))) == 2
