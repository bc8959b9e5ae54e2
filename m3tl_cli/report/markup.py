"""Pieces of HTML that the sections of the page share."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from html import escape

from m3tl_cli.report.formats import percent
from m3tl_cli.report.plots import Plot, inline


def name(text: str) -> str:
    """A name that may be broken behind an underscore, slash or dot where the page is narrow."""
    return re.sub(r"(?<=[_/.])(?=\w)", "<wbr>", escape(text))


def sentence(text: str) -> str:
    """Words with a capital letter in front."""
    return text[:1].upper() + text[1:]


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "numbers") -> str:
    """A table of words, which are escaped here; the first column names the row."""
    return grid(caption, columns, ([row[0], *(f"<td>{escape(x)}</td>" for x in row[1:])] for row in rows), kind)


def grid(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "numbers") -> str:
    """A table whose cells are HTML with their `td`; the first column names the row and is escaped here."""
    head = "".join(f"<th scope='col'>{escape(c)}</th>" for c in columns)
    body = "".join(f"<tr><th scope='row'>{name(row[0])}</th>{''.join(row[1:])}</tr>" for row in rows)
    return framed(caption, f"<tr>{head}</tr>", body, kind)


def framed(caption: str, head: str, body: str, kind: str = "numbers") -> str:
    """A table from its rows as HTML, which scrolls where the page is narrow."""
    inside = f"<caption><span>{escape(caption)}</span></caption><thead>{head}</thead><tbody>{body}</tbody>"
    return f"<div class='scroll'><table class='{kind}'>{inside}</table></div>"


def gain(share: float, before: float | None = None, *, bar: bool = True) -> str:
    """A cell with an error reduction, green above 0 and red below.

    Args:
        share: The number; NaN is said as such.
        before: The same before adaptation, shown in front of it.
        bar: Whether to draw its length below.
    """
    mood = "good" if share > 0 else "bad" if share <= 0 else "soft"
    first = f"<span class='soft'>{percent(before)} \u2192 </span>" if before is not None else ""
    return f"<td class='{mood}'>{first}{percent(share)}{length(share) if bar else ''}</td>"


def length(share: float) -> str:
    """A bar, empty at 0 and below, full at 1 and above."""
    width = round(100 * min(1.0, max(0.0, share))) if math.isfinite(share) else 0
    return f"<span class='bar' aria-hidden='true'><i style='width:{width}%'></i></span>"


def images(plots: Iterable[Plot]) -> str:
    """Plots side by side."""
    shown = "".join(f"<div role='img' aria-label='{escape(p.alt)}'>{inline(p)}</div>" for p in plots)
    return f"<div class='plots'>{shown}</div>" if shown else ""
