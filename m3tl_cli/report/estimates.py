"""Estimates as a person reads them: a mean, how far it is known, and a cell of a table for both."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from m3tl_cli.report.formats import SPACE, number

if TYPE_CHECKING:
    from m3tl_cli.comparison.statistics import Estimate

MINUS = "\u2212"
NOTHING = "<td></td>"


def fixed(value: float, digits: int = 3) -> str:
    """A number with so many decimals; `n/a` where there is none."""
    if not math.isfinite(value):
        return number(value)
    text = f"{abs(value):.{digits}f}"
    return (MINUS if value < 0 and float(text) else "") + text


def signed(value: float, digits: int = 3) -> str:
    """The same with its sign, also where it is above 0."""
    text = fixed(value, digits)
    return f"+{text}" if math.isfinite(value) and value > 0 and float(text) else text


def half(e: Estimate) -> str:
    """` ± ` and half of the interval; empty where there is none."""
    return f"{SPACE}\u00b1{SPACE}{fixed(_half(e))}" if math.isfinite(_half(e)) else ""


def interval(e: Estimate) -> str:
    """`+0.010 to +0.034`; where there is no interval, the reason."""
    if e.seeds == 0:
        return "not measured"
    if not math.isfinite(e.low) or not math.isfinite(e.high):
        return f"{seeds(e.seeds)}, no interval"
    return f"{signed(e.low)} to {signed(e.high)}"


def told(e: Estimate) -> str:
    """Everything that there is to say of a difference: `+0.022, 95 % interval +0.010 to +0.034, 8 seeds`."""
    if not math.isfinite(e.low):
        return f"{signed(e.mean)}, {interval(e)}"
    return f"{signed(e.mean)}, {100 * e.level:g}{SPACE}% interval {interval(e)}, {seeds(e.seeds)}"


def seeds(count: int) -> str:
    """`1 seed`, `8 seeds`."""
    return f"{count} seed{'' if count == 1 else 's'}"


def level_cell(e: Estimate, to: str = "") -> str:
    """A table cell with a mean and half of its interval.

    Args:
        e: The estimate.
        to: Anchor of the row that its runs stand in; empty: none.
    """
    if not math.isfinite(e.mean):
        return NOTHING
    return f"<td>{linked(fixed(e.mean), to)}{soft(half(e))}</td>"


def value_cell(e: Estimate, to: str = "") -> str:
    """The same of a number in the unit of its metric, with four digits that count; the unit stands elsewhere."""
    if e.seeds == 0:
        return NOTHING
    spread = f"{SPACE}\u00b1{SPACE}{number(float(f'{_half(e):.2g}'))}" if math.isfinite(_half(e)) else ""
    return f"<td>{linked(number(e.mean), to)}{soft(spread)}</td>"


def difference_cell(e: Estimate, to: str = "") -> str:
    """A table cell with a signed difference: green where its interval lies above 0, red where below, else plain."""
    if not math.isfinite(e.mean):
        return NOTHING
    mood = sure(e)
    return f"<td{f' class={mood}' if mood else ''} title='{escape(told(e))}'>{linked(signed(e.mean), to)}{soft(half(e))}</td>"


def sure(e: Estimate) -> str:
    """`good` where the whole interval lies above 0, `bad` where below, else empty."""
    return "good" if e.low > 0 else "bad" if e.high < 0 else ""


def linked(text: str, to: str) -> str:
    """Words, escaped here, that lead to an anchor of this page or to a file; plain where `to` is empty."""
    return f"<a class='n' href='{escape(to)}'>{escape(text)}</a>" if to else escape(text)


def under(text: str, mood: str = "soft") -> str:
    """Words, escaped here, on a line of their own below a number."""
    return f"<span class='under {mood}'>{escape(text)}</span>" if text else ""


def soft(text: str) -> str:
    """Words, escaped here, that stand back behind the others."""
    return f"<span class='soft'>{escape(text)}</span>" if text else ""


def _half(e: Estimate) -> float:
    return (e.high - e.low) / 2
