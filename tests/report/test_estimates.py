from __future__ import annotations

import math

import pytest

from m3tl_cli.comparison.statistics import Estimate
from m3tl_cli.report import estimates

SURE = Estimate(0.022, 0.010, 0.034, 8)


@pytest.mark.parametrize(
    ("value", "fixed", "signed"),
    [
        (0.0216, "0.022", "+0.022"),
        (-0.0216, "\u22120.022", "\u22120.022"),
        (0.0, "0.000", "0.000"),
        (-0.0002, "0.000", "0.000"),
        (math.nan, "n/a", "n/a"),
    ],
)
def test_numbers_have_three_decimals_and_no_sign_where_they_round_to_nothing(value: float, fixed: str, signed: str) -> None:
    assert estimates.fixed(value) == fixed
    assert estimates.signed(value) == signed


def test_an_estimate_is_told_with_its_interval_and_seeds() -> None:
    assert estimates.told(SURE) == "+0.022, 95\u00a0% interval +0.010 to +0.034, 8 seeds"
    assert estimates.half(SURE) == "\u00a0\u00b1\u00a00.012"


def test_without_an_interval_the_reason_is_told() -> None:
    one = Estimate(0.3, math.nan, math.nan, 1)
    assert estimates.told(one) == "+0.300, 1 seed, no interval"
    assert estimates.half(one) == ""
    assert estimates.interval(Estimate(math.nan, math.nan, math.nan, 0)) == "not measured"


@pytest.mark.parametrize(
    ("low", "high", "mood"), [(0.01, 0.02, "good"), (-0.02, -0.01, "bad"), (-0.01, 0.01, ""), (0.0, 0.01, ""), (math.nan, math.nan, "")]
)
def test_only_an_interval_on_one_side_of_zero_is_coloured(low: float, high: float, mood: str) -> None:
    assert estimates.sure(Estimate(0.0, low, high, 8)) == mood


def test_cells_are_empty_without_a_number_and_link_with_one() -> None:
    nothing = Estimate(math.nan, math.nan, math.nan, 0)
    assert estimates.level_cell(nothing) == estimates.difference_cell(nothing) == estimates.value_cell(nothing) == "<td></td>"
    assert "<a class='n' href='#r.0'>+0.022</a>" in estimates.difference_cell(SURE, "#r.0")
    assert "class=good" in estimates.difference_cell(SURE)
    assert "\u00b1\u00a01.2<" in estimates.value_cell(Estimate(100.0, 98.766, 101.234, 8))


def test_words_are_escaped() -> None:
    assert estimates.linked("<b>", "x'y") == "<a class='n' href='x&#x27;y'>&lt;b&gt;</a>"
    assert estimates.soft("<b>") == "<span class='soft'>&lt;b&gt;</span>"
