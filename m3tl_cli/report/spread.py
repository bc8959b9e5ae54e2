"""How a number is spread over many tasks: a dot a task, stacked where they meet, and the ends by name."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from m3tl_cli.report.charts import round_numbers
from m3tl_cli.report.estimates import signed
from m3tl_cli.report.formats import percent
from m3tl_cli.report.markup import name

BINS = 84  # across: a dot is 4 pixels wide, and on a phone they still stand apart
STEP, TALLEST = 4.4, 60.0  # pixels from dot to dot, and of the highest stack


@dataclass(frozen=True)
class Spread:
    """One row of dots.

    Args:
        label: What was measured.
        values: Task to number; those that are not finite are counted and not drawn.
        words: Task to the number in words, as HTML.
        moods: Task to `good` or `bad` where it surely is; other tasks are grey.
    """

    label: str
    values: Mapping[str, float]
    words: Mapping[str, str]
    moods: Mapping[str, str] = field(default_factory=dict)


def spread(rows: Sequence[Spread], alt: str, *, margin: float = 0.0, shares: bool = False) -> str:
    """Rows of dots over one axis, with 0 marked.

    Args:
        rows: In order; one without a finite number is left out.
        alt: What is shown, in words.
        margin: Largest number that counts as none, shaded around 0.
        shares: Whether the numbers are shares, told as percentages; else they are differences.

    Returns:
        HTML; empty where there is nothing to show.
    """
    shown = [row for row in rows if any(map(math.isfinite, row.values.values()))]
    finite = [v for row in shown for v in row.values.values() if math.isfinite(v)]
    if not finite:
        return ""
    tell = percent if shares else signed
    low, high = min(*finite, 0.0, -margin), max(*finite, 0.0, margin)
    pad = 0.03 * ((high - low) or 1.0)
    low, high = low - pad, high + pad

    def at(value: float) -> float:
        return 100 * (value - low) / (high - low)

    marks = [v for v in round_numbers(low, high, 5) if 3 < at(v) < 97]
    under = [f"<rect x='{at(-margin):.2f}%' width='{at(margin) - at(-margin):.2f}%' y='0' height='100%' class='margin'/>"] if margin else []
    under += [f"<line x1='{at(v):.2f}%' x2='{at(v):.2f}%' y1='0' y2='100%' class='grid'/>" for v in marks]
    under.append(f"<line x1='{at(0):.2f}%' x2='{at(0):.2f}%' y1='0' y2='100%' class='zero'/>")
    stacks = [_stacks(row, low, high) for row in shown]
    step = min(STEP, TALLEST / max(len(tasks) for found in stacks for tasks in found.values()))
    html = [f"<div class='spread' role='group' aria-label='{escape(alt)}'><ul>"]
    for row, found in zip(shown, stacks, strict=True):
        height = math.ceil(step * (max(map(len, found.values())) - 1) + 10)
        dots = []
        for column, tasks in found.items():
            x = 100 * (column + 0.5) / BINS
            for place, task in enumerate(tasks):
                mood = row.moods.get(task, "")
                dots.append(
                    f"<circle cx='{x:.2f}%' cy='{height - 5 - step * place:.1f}' r='2'{f' class={mood}' if mood else ''}>"
                    f"<title>{escape(f'{task}: {tell(row.values[task])}')}</title></circle>"
                )
        drawn = f"<svg width='100%' height='{height}' aria-hidden='true'>{''.join((*under, *dots))}</svg>"
        html.append(f"<li><span class='what'>{name(row.label)}</span>{drawn}<span class='num'>{_told(row, tell)}</span></li>")
    digits = max((len(f"{v:.4g}".partition(".")[2]) for v in marks), default=0)
    words = "".join(
        f"<text x='{at(v):.2f}%' y='13' text-anchor='middle'>{'0' if not v else percent(v) if shares else signed(v, digits)}</text>"
        for v in marks
    )
    html.append("</ul><div class='scale' aria-hidden='true'><span></span>")
    html.append(f"<svg width='100%' height='18'>{words}</svg><span></span></div></div>")
    return "".join(html)


def _stacks(row: Spread, low: float, high: float) -> dict[int, list[str]]:
    """Tasks by column, in rising order."""
    made: dict[int, list[str]] = {}
    for task, value in sorted(((t, v) for t, v in row.values.items() if math.isfinite(v)), key=lambda pair: pair[1]):
        made.setdefault(min(BINS - 1, int(BINS * (value - low) / (high - low))), []).append(task)
    return made


def _told(row: Spread, tell: Callable[[float], str]) -> str:
    """The ends by name, the median, and how many lie above and below 0."""
    known = {t: v for t, v in row.values.items() if math.isfinite(v)}
    above, below = [t for t, v in known.items() if v > 0], [t for t, v in known.items() if v < 0]
    lost = len(row.values) - len(known)
    worst, best = min(known, key=lambda t: known[t]), max(known, key=lambda t: known[t])
    sides = [
        f"{len(tasks)} {side}{f' ({surely} surely)' if (surely := sum(row.moods.get(t) == mood for t in tasks)) else ''}"
        for tasks, side, mood in ((above, "above 0", "good"), (below, "below", "bad"))
    ]
    sides += [f"{lost} not measured"] if lost else []
    ends = ", ".join(f"<span class='soft'>{end}</span> {name(task)} {row.words[task]}" for end, task in (("worst", worst), ("best", best)))
    return f"{ends}<br><span class='soft'>median</span> {tell(statistics.median(known.values()))}; {', '.join(sides)}"
