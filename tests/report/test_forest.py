from __future__ import annotations

import math
import re

import pytest

from m3tl_cli.comparison.statistics import Estimate
from m3tl_cli.report.forest import Bar, forest

NOTHING = Estimate(math.nan, math.nan, math.nan, 0)


def places(html: str, kind: str, what: str) -> list[float]:
    return [float(x) for x in re.findall(rf"<{kind} c?x1?='([-\d.]+)%'[^>]*class='{what}'", html)]


def test_points_stand_in_proportion_to_their_values() -> None:
    bars = [Bar("a", Estimate(0.0, -0.1, 0.1, 8)), Bar("b", Estimate(0.05, 0.0, 0.1, 8)), Bar("c", Estimate(0.1, 0.1, 0.1, 8))]
    html = forest([("all", bars)], 0.02, "alt")
    a, b, c = places(html, "circle", "mean")
    assert a == pytest.approx(50.0), "symmetric ends"
    assert b - a == pytest.approx(c - b, abs=0.02)
    assert set(places(html, "line", "zero")) == {50.0}


def test_the_margin_is_shaded_on_both_sides_of_zero() -> None:
    html = forest([("all", [Bar("a", Estimate(0.0, -0.1, 0.1, 8))])], 0.05, "alt")
    [(left, width)] = re.findall(r"<rect x='([\d.]+)%' width='([\d.]+)%'", html)
    assert float(left) + float(width) / 2 == pytest.approx(50.0, abs=0.02)
    assert float(width) == pytest.approx(100 * 0.1 / (0.2 * 1.06), abs=0.02)


def test_seeds_answer_and_kind_are_shown() -> None:
    bar = Bar("a - b", Estimate(0.03, 0.01, 0.05, 2), (0.02, 0.04), (1, 2), "note", "no difference", "confirmatory", "#row")
    html = forest([("planned", [bar]), ("empty", [])], 0.02, "alt")
    assert len(places(html, "circle", "seed")) == 2
    assert "seed 2: +0.040" in html
    assert "<span class='answer no-difference'>no difference</span>" in html
    assert "<li class='confirmatory'>" in html
    assert "href='#row'" in html
    assert "empty" not in html


def test_what_was_not_measured_is_said_and_not_drawn() -> None:
    html = forest([("all", [Bar("a", Estimate(0.1, math.nan, math.nan, 1)), Bar("b", NOTHING)])], 0.02, "alt")
    assert "1 seed, no interval" in html
    assert "not measured" in html
    assert len(places(html, "circle", "mean")) == 1
    assert "nan" not in html
    assert forest([("all", [Bar("b", NOTHING)])], 0.02, "alt") == ""
