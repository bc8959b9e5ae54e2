"""A forest plot: paired differences and their intervals, one below the other, as wide as the page is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Literal

from m3tl_cli.report.charts import round_numbers
from m3tl_cli.report.estimates import interval, linked, signed, soft, told, under
from m3tl_cli.report.markup import name

if TYPE_CHECKING:
    from m3tl_cli.comparison.statistics import Estimate

HEIGHT = 30  # pixels of a row


@dataclass(frozen=True)
class Bar:
    """One difference.

    Args:
        label: What is compared.
        difference: Its mean and interval.
        values: The difference at each seed; empty where they are not known.
        seeds: Whose values they are.
        note: Words behind the numbers.
        answer: What was concluded; empty where nothing may be.
        kind: `confirmatory` is drawn filled and marked, `descriptive` hollow.
        link: Where its runs stand; empty: nowhere.
    """

    label: str
    difference: Estimate
    values: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()
    note: str = ""
    answer: str = ""
    kind: Literal["confirmatory", "descriptive"] = "descriptive"
    link: str = ""


def forest(groups: Sequence[tuple[str, Sequence[Bar]]], margin: float, alt: str) -> str:
    """Groups of bars over one axis, with the margin of equivalence shaded around 0.

    Args:
        groups: Heading, and bars in order; a group without bars is left out.
        margin: Largest difference that counts as none.
        alt: What is shown, in words.
    """
    shown = [(title, bars) for title, bars in groups if bars]
    every = [b for _, bars in shown for b in bars]
    ends = [v for b in every for v in (b.difference.low, b.difference.mean, b.difference.high) if math.isfinite(v)]
    if not ends:
        return ""
    low, high = min(*ends, -margin, 0.0), max(*ends, margin, 0.0)
    pad = 0.03 * (high - low)
    low, high = low - pad, high + pad

    def at(value: float) -> float:
        return 100 * (min(high, max(low, value)) - low) / (high - low)

    marks = [v for v in round_numbers(low, high, 5) if 3 < at(v) < 97]
    html = [f"<div class='forest' role='group' aria-label='{escape(alt)}'>"]
    for title, bars in shown:
        html.append(f"<p class='group'>{escape(title)}</p><ul>")
        html += [_bar(b, at, marks, margin) for b in bars]
        html.append("</ul>")
    words = "".join(f"<text x='{at(v):.2f}%' y='13' text-anchor='middle'>{_tick(v)}</text>" for v in marks)
    axis = f"<svg width='100%' height='18' aria-hidden='true'>{words}</svg>"
    html.append(f"<div class='scale' aria-hidden='true'><span></span>{axis}<span></span></div></div>")
    return "".join(html)


def _bar(bar: Bar, at: Callable[[float], float], marks: Sequence[float], margin: float) -> str:
    e, middle = bar.difference, HEIGHT / 2
    parts = [f"<rect x='{at(-margin):.2f}%' width='{at(margin) - at(-margin):.2f}%' y='0' height='100%' class='margin'/>"]
    parts += [f"<line x1='{at(v):.2f}%' x2='{at(v):.2f}%' y1='0' y2='100%' class='grid'/>" for v in marks]
    parts.append(f"<line x1='{at(0):.2f}%' x2='{at(0):.2f}%' y1='0' y2='100%' class='zero'/>")
    for value, seed in zip(bar.values, bar.seeds, strict=False):
        if math.isfinite(value):
            tip = f"<title>seed {seed}: {signed(value)}</title>"
            parts.append(f"<circle cx='{at(value):.2f}%' cy='{middle + 9:g}' r='1.8' class='seed'>{tip}</circle>")
    if math.isfinite(e.low) and math.isfinite(e.high):
        parts.append(f"<line x1='{at(e.low):.2f}%' x2='{at(e.high):.2f}%' y1='{middle:g}' y2='{middle:g}' class='reach'/>")
        parts += [
            f"<line x1='{at(v):.2f}%' x2='{at(v):.2f}%' y1='{middle - 4:g}' y2='{middle + 4:g}' class='reach'/>" for v in (e.low, e.high)
        ]
    if math.isfinite(e.mean):
        parts.append(f"<circle cx='{at(e.mean):.2f}%' cy='{middle:g}' r='5' class='mean'><title>{escape(told(e))}</title></circle>")
    number = f"<b>{linked(signed(e.mean), bar.link)}</b> {soft(interval(e))}" if e.seeds else soft("not measured")
    answer = f" <span class='answer {bar.answer.replace(' ', '-')}'>{escape(bar.answer)}</span>" if bar.answer else ""
    note = under(bar.note)
    return (
        f"<li class='{bar.kind}'><span class='what'>{name(bar.label)}</span>"
        f"<svg width='100%' height='{HEIGHT}' aria-hidden='true'>{''.join(parts)}</svg>"
        f"<span class='num'>{number}{answer}{note}</span></li>"
    )


def _tick(value: float) -> str:
    """A round number in as many decimals as it has."""
    return signed(value, len(f"{value:.4g}".partition(".")[2]))
