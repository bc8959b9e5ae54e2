from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from m3tl_cli.comparison.cells import SETTINGS
from m3tl_cli.report import charts
from m3tl_cli.report.charts import HEIGHT, LEFT, WIDTH, Line, Point, Style

BLUE = Style("#123456", "")


def line(key: int, *points: tuple[float, float, float, float]) -> Line:
    return Line(key, f"arm {key}", BLUE, points, f"tip {key}")


def ways(svg: str) -> list[list[tuple[float, float]]]:
    found = [e.attrib["points"] for e in ElementTree.fromstring(svg).iter("polyline")]
    return [[(float(x), float(y)) for x, y in (p.split(",") for p in way.split())] for way in found]


def point(label: str, x: float, y: float, *, on_front: bool = False) -> Point:
    return Point(label, BLUE, x, y, y - 0.01, y + 0.01, on_front, "#row", f"tip of {label}")


@pytest.mark.parametrize(
    ("low", "high", "count", "expected"),
    [
        (0.0, 1.0, 5, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-0.03, 0.09, 5, [-0.025, 0.0, 0.025, 0.05, 0.075]),
        (3.0, 3.0, 5, [3.0]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, count: int, expected: list[float]) -> None:
    assert charts.round_numbers(low, high, count) == pytest.approx(expected)


def test_the_ten_settings_are_told_apart_and_say_their_switches() -> None:
    styles = charts.styles(list(SETTINGS))
    assert len(set(styles.values())) == 10
    assert styles["m3tl"].colour == styles["mtl_meta"].colour, "both joint and bilevel"
    assert styles["m3tl"].dash == styles["transfer"].dash == "", "both pretrained"
    assert styles["stl"].dash == styles["mtl"].dash != styles["stl_handover"].dash


def test_arms_along_axes_are_told_apart() -> None:
    assert len(set(charts.styles([f"mtl, lr={i}" for i in range(20)]).values())) == 20


def test_a_line_rises_where_its_values_rise_and_ends_at_the_edges() -> None:
    svg = charts.line_chart("t", "alt", "x", [line(0, (0, 0.1, 0.05, 0.15), (9, 0.3, 0.25, 0.35))], scale=math.log1p)
    [[(x0, y0), (x1, y1)]] = ways(svg)
    assert (x0, x1) == (LEFT + 6, WIDTH - 16)
    assert y1 < y0 < HEIGHT, "up is less in SVG"
    band = next(e for e in ElementTree.fromstring(svg).iter("polygon"))
    assert len(band.attrib["points"].split()) == 4


def test_steps_stand_where_the_scale_puts_them() -> None:
    svg = charts.line_chart("t", "alt", "x", [line(0, *((x, x, x, x) for x in (0.0, 1.0, 3.0)))], scale=math.log1p)
    [[(a, _), (b, _), (c, _)]] = ways(svg)
    assert b - a == pytest.approx(c - b, abs=0.11), "log 1, 2, 4 are equally far apart"


def test_a_band_wider_than_the_chart_is_cut_and_the_line_is_not() -> None:
    svg = charts.line_chart("t", "alt", "x", [line(0, (0, 0.1, -50, 50), (1, 0.2, -50, 50))], scale=float)
    [way] = ways(svg)
    assert way[0][1] - way[1][1] > 60
    heights = [float(p.split(",")[1]) for e in ElementTree.fromstring(svg).iter("polygon") for p in e.attrib["points"].split()]
    assert min(heights) >= 0
    assert max(heights) <= HEIGHT


def test_nothing_is_drawn_of_nothing() -> None:
    assert charts.line_chart("t", "alt", "x", [], scale=float) == ""
    assert charts.line_chart("t", "alt", "x", [line(0, (0, math.nan, math.nan, math.nan))], scale=float) == ""
    assert charts.scatter("t", "alt", "x", [], words=str) == ""


def test_the_front_is_joined_by_steps_and_filled() -> None:
    points = [point("a", 1, 0.1, on_front=True), point("b", 2, 0.3, on_front=True), point("c", 3, 0.2)]
    svg = charts.scatter("t", "alt", "x", points, words=lambda v: f"{v:g}")
    [way] = ways(svg)
    assert len(way) == 3
    assert way[1] == (way[2][0], way[0][1]), "level up to the dearer point, then up"
    fills = [e.attrib["fill"] for e in ElementTree.fromstring(svg).iter("circle")]
    assert sorted(fills) == ["#123456", "#123456", "var(--paper)"]


def test_names_of_points_that_coincide_do_not_cover_one_another() -> None:
    points = [point(f"setting_{i}", 1.0 + 1e-6 * i, 0.3 + 1e-6 * i) for i in range(4)]
    svg = charts.scatter("t", "alt", "x", points, words=lambda v: f"{v:g}")
    found = [(e.attrib["x"], e.attrib["y"]) for e in ElementTree.fromstring(svg).iter("text") if "setting" in (e.text or "")]
    assert len(set(found)) == len(found) >= 2


def test_costs_far_apart_stand_on_a_logarithmic_axis() -> None:
    points = [point("a", 1, 0.1), point("b", 10, 0.2), point("c", 100, 0.3)]
    at = [float(e.attrib["cx"]) for e in ElementTree.fromstring(charts.scatter("t", "alt", "x", points, words=str)).iter("circle")]
    assert at[1] - at[0] == pytest.approx(at[2] - at[1], abs=0.11)


def test_a_legend_has_a_box_and_a_rule_per_arm() -> None:
    html = charts.legend({"stl": BLUE, "<b>": BLUE})
    assert html.count("type='checkbox'") == 2
    assert "&lt;b&gt;" in html
    assert set(re.findall(r"#show(\d+)", charts.legend_rules(2))) == {"0", "1"}
