"""Charts of a comparison, written as SVG by hand: their words are links and their colours follow the page, light or dark.

A chart is `WIDTH` units wide and shown about as many pixels wide, so that 11 units are small but legible letters on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

from m3tl_cli.comparison.cells import SETTINGS
from m3tl_cli.report.plots import COLOURS

WIDTH, HEIGHT = 420, 270
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 26, 38
LETTER = 6.2  # width of one at 11 units, on average

# Dashes in units: whole, long, short.
DASHES = ("", "7 3", "2 3", "9 3 2 3")

# Of what stands beside the settings: greys that are read on white and on black, dotted.
GREYS, DOTS = ("#7d8590", "#9a8f7c", "#7c8f86", "#8f7c9a"), "1 3"


class Style(NamedTuple):
    """How an arm is drawn."""

    colour: str
    dash: str


@dataclass(frozen=True)
class Line:
    """A line with its band.

    Args:
        key: Number of its arm, by which a page can hide it.
        label: Of the arm.
        style: Its colour and dash.
        points: x, mean, low, high, rising in x; low and high NaN where there is no band.
        tip: What to say of it.
    """

    key: int
    label: str
    style: Style
    points: tuple[tuple[float, float, float, float], ...]
    tip: str


@dataclass(frozen=True)
class Point:
    """A point with the interval of its height."""

    label: str
    style: Style
    x: float
    y: float
    low: float
    high: float
    on_front: bool
    link: str
    tip: str


def styles(arms: Sequence[str], beside: Collection[str] = ()) -> dict[str, Style]:
    """A colour and dash per arm.

    Of plain settings they say the switches: colour joint and bilevel, whole lines pretraining, long dashes hand-over without it,
    short dashes neither. With axes, colours follow one another. What stands `beside` the settings is grey and dotted.
    """
    own = [arm for arm in arms if arm not in beside]
    greys = {arm: Style(GREYS[i % len(GREYS)], DOTS) for i, arm in enumerate(a for a in arms if a in beside)}
    if set(own) <= set(SETTINGS):
        return {arm: greys.get(arm) or _of_switches(*SETTINGS[arm]) for arm in arms}
    coloured = {arm: Style(COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)]) for i, arm in enumerate(own)}
    return {arm: greys.get(arm) or coloured[arm] for arm in arms}


def _of_switches(pretrain: bool, joint: bool, bilevel: bool, handover: bool) -> Style:
    return Style(COLOURS[joint + 2 * bilevel], DASHES[0 if pretrain else 1 if handover else 2])


def swatch(style: Style) -> str:
    """A sample of a line, for a legend."""
    return f"<svg class='swatch' width='28' height='10' aria-hidden='true'><line x1='1' x2='27' y1='5' y2='5' {_stroke(style)}/></svg>"


def line_chart(
    title: str, alt: str, xlabel: str, lines: Sequence[Line], *, scale: Callable[[float], float], mark: tuple[float, str] | None = None
) -> str:
    """Lines with bands over a common axis.

    Args:
        title: Above the chart.
        alt: What it shows, in words.
        xlabel: Below the axis.
        lines: In the order to paint.
        scale: Where an x stands, before it is stretched to the width of the chart.
        mark: A level to mark by a dashed line, and its name.
    """
    xs = sorted({p[0] for line in lines for p in line.points})
    heights = [v for line in lines for p in line.points for v in p[1:] if math.isfinite(v)]
    heights += [mark[0]] if mark and math.isfinite(mark[0]) else []
    if not xs or not heights:
        return ""
    # A band of two seeds may be wider than all there is to see: it is cut there.
    means = [p[1] for line in lines for p in line.points if math.isfinite(p[1])] + ([mark[0]] if mark and math.isfinite(mark[0]) else [])
    reach = max(means) - min(means) or max(abs(max(means)), 0.1)
    low, high = max(min(heights), min(means) - 0.6 * reach), min(max(heights), max(means) + 0.6 * reach)
    x = _linear(scale(xs[0]), scale(xs[-1]), LEFT + 6, WIDTH - RIGHT - 6)
    y = _linear(low, high, HEIGHT - BOTTOM, TOP)
    top, bottom = TOP - 4.0, HEIGHT - BOTTOM + 4.0

    def at(value: float, height: float) -> str:
        return f"{x(scale(value)):.1f},{min(bottom, max(top, y(height))):.1f}"

    parts = [_axes(title, xlabel), *_heights(low, high, y), *_ticks([(v, f"{v:g}", x(scale(v))) for v in xs])]
    if mark and math.isfinite(mark[0]):
        parts.append(_level(mark[1], y(mark[0])))
    for line in lines:
        banded = [p for p in line.points if all(map(math.isfinite, p))]
        band = " ".join([*(at(p[0], p[3]) for p in banded), *(at(p[0], p[2]) for p in reversed(banded))])
        way = " ".join(at(p[0], p[1]) for p in line.points if math.isfinite(p[1]))
        area = f"<polygon class='band' points='{band}' fill='{line.style.colour}'/>" if len(banded) > 1 else ""
        parts.append(
            f"<g class='line s{line.key}'><title>{escape(line.tip)}</title>{area}<polyline points='{way}' {_stroke(line.style)}/></g>"
        )
    return _svg(alt, parts)


def scatter(title: str, alt: str, xlabel: str, points: Sequence[Point], *, words: Callable[[float], str], per: float = 1.0) -> str:
    """Cost against score: the arms that none beats are joined by steps, the others are hollow.

    Args:
        title: Above the chart.
        alt: What it shows, in words.
        xlabel: Below the axis.
        points: With finite x and y.
        words: A cost as a tick.
        per: What round costs are counted in, such as 60 for minutes of seconds.
    """
    if not points:
        return ""
    costs = [p.x for p in points]
    spread = min(costs) > 0 and max(costs) > 4 * min(costs)
    scale: Callable[[float], float] = math.log10 if spread else float
    heights = [v for p in points for v in (p.y, p.low, p.high) if math.isfinite(v)]
    first, last = scale(min(costs)), scale(max(costs))
    pad = 0.1 * (last - first) or 0.5 * (abs(first) or 1.0)
    x = _linear(first - pad, last + pad, LEFT + 6, WIDTH - RIGHT)
    y = _linear(min(heights), max(heights), HEIGHT - BOTTOM, TOP)
    if spread:
        ticks = [v * per for v in _decades(min(costs) / per, max(costs) / per)]
    else:
        ticks = [v * per for v in round_numbers((first - pad) / per, (last + pad) / per, 4) if v >= 0]
    parts = [_axes(title, xlabel), *_heights(min(heights), max(heights), y), *_ticks([(v, words(v), x(scale(v))) for v in ticks])]
    front = sorted((p for p in points if p.on_front), key=lambda p: p.x)
    way: list[str] = []
    for i, p in enumerate(front):
        way += [f"{x(scale(p.x)):.1f},{y(front[i - 1].y):.1f}"] if i else []
        way.append(f"{x(scale(p.x)):.1f},{y(p.y):.1f}")
    if len(front) > 1:
        parts.append(f"<polyline points='{' '.join(way)}' fill='none' class='front'/>")
    taken: list[tuple[float, float, float, float]] = [(x(scale(p.x)) - 5, y(p.y) - 5, x(scale(p.x)) + 5, y(p.y) + 5) for p in points]
    for p in sorted(points, key=lambda p: not p.on_front):
        here = (x(scale(p.x)), y(p.y))
        whisker = ""
        if math.isfinite(p.low) and math.isfinite(p.high):
            stands = f"x1='{here[0]:.1f}' x2='{here[0]:.1f}'"
            whisker = f"<line {stands} y1='{y(p.low):.1f}' y2='{y(p.high):.1f}' stroke='{p.style.colour}' opacity='.45'/>"
        fill = p.style.colour if p.on_front else "var(--paper)"
        dot = f"<circle cx='{here[0]:.1f}' cy='{here[1]:.1f}' r='4.5' fill='{fill}' stroke='{p.style.colour}' stroke-width='1.8'/>"
        word = _beside(p.label, here, taken, bold=p.on_front)
        inside = f"<title>{escape(p.tip)}</title>{whisker}{dot}{word}"
        parts.append(f"<a href='{escape(p.link)}'>{inside}</a>" if p.link else f"<g>{inside}</g>")
    return _svg(alt, parts)


def legend(arms: Mapping[str, Style]) -> str:
    """Arms with a box each, which hides and shows its line in every chart below: by rules of style alone, no script."""
    boxes = "".join(
        f"<label for='show{i}'><input type='checkbox' id='show{i}' checked> {swatch(style)} {escape(arm)}</label>"
        for i, (arm, style) in enumerate(arms.items())
    )
    return f"<div class='legend' role='group' aria-label='Settings shown in the charts'>{boxes}</div>"


def legend_rules(count: int) -> str:
    """The rules of style that a legend of so many arms works by."""
    rules = []
    for i in range(count):
        pointed = f".curves:has(label[for=show{i}]:hover)"
        rules.append(f".curves:has(#show{i}:not(:checked)) .s{i} {{ display: none; }}")
        rules.append(f"{pointed} .line:not(.s{i}) {{ opacity: .12; }} {pointed} .s{i} .band {{ opacity: .4; }}")
    return "\n".join(rules)


def round_numbers(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers from `low` to `high`."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _beside(label: str, here: tuple[float, float], taken: list[tuple[float, float, float, float]], *, bold: bool) -> str:
    """A point's name where nothing stands yet; left out where there is no room, as its tip says it too."""
    wide, tall = LETTER * len(label) * (1.12 if bold else 1.0), 12.0
    x, y = here
    places = [
        (x + 8 * side if side else x - wide / 2, y + down, "start" if side > 0 else "end" if side else "middle")
        for down in (4.0, -8.0, 16.0, -20.0, 28.0)
        for side in ((1, -1) if down == 4.0 else (0, 1, -1))
    ]
    for left, base, anchor in places:
        start = left - wide if anchor == "end" else left
        box = (start, base - tall, start + wide, base + 2)
        inside = box[0] >= LEFT and box[2] <= WIDTH and box[1] >= TOP - 10 and box[3] <= HEIGHT - BOTTOM + 2
        if inside and not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
            taken.append(box)
            at = left + wide / 2 if anchor == "middle" else left
            weight = " font-weight='600'" if bold else ""
            return f"<text x='{at:.1f}' y='{base:.1f}' text-anchor='{anchor}'{weight}>{escape(label)}</text>"
    return ""


def _svg(alt: str, parts: Sequence[str]) -> str:
    return f"<svg class='chart' viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='{escape(alt)}'>{''.join(parts)}</svg>"


def _axes(title: str, xlabel: str) -> str:
    base = HEIGHT - BOTTOM + 6
    return (
        f"<text x='2' y='13' class='title'>{escape(title)}</text>"
        f"<line x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{base}' y2='{base}' class='axis'/>"
        f"<text x='{(LEFT + WIDTH - RIGHT) / 2:.0f}' y='{HEIGHT - 4}' text-anchor='middle' class='faint'>{escape(xlabel)}</text>"
    )


def _heights(low: float, high: float, y: Callable[[float], float]) -> list[str]:
    return [
        f"<line x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{y(v):.1f}' y2='{y(v):.1f}' class='grid'/>"
        f"<text x='{LEFT - 5}' y='{y(v) + 4:.1f}' text-anchor='end'>{_short(v)}</text>"
        for v in round_numbers(low, high, 5)
    ]


def _ticks(found: Sequence[tuple[float, str, float]]) -> list[str]:
    """Marks below the axis, as many as have room for their words."""
    made: list[str] = []
    end = -math.inf
    base = HEIGHT - BOTTOM + 6
    for _, text, at in found:
        wide = LETTER * len(text)
        made.append(f"<line x1='{at:.1f}' x2='{at:.1f}' y1='{base}' y2='{base + 4}' class='axis'/>")
        if at - wide / 2 > end + 5 and at + wide / 2 <= WIDTH + 4:
            end = at + wide / 2
            made.append(f"<text x='{at:.1f}' y='{base + 15}' text-anchor='middle'>{escape(text)}</text>")
    return made


def _level(label: str, at: float) -> str:
    return (
        f"<line x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{at:.1f}' y2='{at:.1f}' class='level'/>"
        f"<text x='{LEFT + 2}' y='{at - 4:.1f}' class='faint'>{escape(label)}</text>"
    )


def _stroke(style: Style) -> str:
    dash = f" stroke-dasharray='{style.dash}'" if style.dash else ""
    return f"fill='none' stroke='{style.colour}' stroke-width='1.8'{dash}"


def _linear(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    if high == low:
        return lambda _: (start + end) / 2
    return lambda value: start + (end - start) * (value - low) / (high - low)


def _decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten from `low` to `high`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [m * 10.0**p for p in powers for m in (1, 2, 5) if low * 0.85 <= m * 10.0**p <= high * 1.15]


def _short(value: float) -> str:
    return f"{value:.4g}".replace("-", "\u2212") if abs(value) > 1e-12 else "0"
