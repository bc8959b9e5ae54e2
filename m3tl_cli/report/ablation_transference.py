"""The section of an ablation's page that says what a step on one task did to the others, while they were trained together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from m3tl_cli.report.ablation_cube import tint
from m3tl_cli.report.estimates import NOTHING, fixed, linked, seeds, signed, sure
from m3tl_cli.report.many import is_many
from m3tl_cli.report.markup import framed, name

if TYPE_CHECKING:
    from m3tl_cli.comparison.tables import Comparison, TransferenceRow
    from m3tl_cli.report.traces import Traces

PAIRS = 10
"""Of many tasks, so many pairs are shown that help most, and as many that hurt most."""


def transference(found: Comparison, traces: Traces) -> str:
    """A matrix per setting whose tasks share parameters: row, the task that was stepped on; column, the task that was looked at."""
    by_arm: dict[str, list[TransferenceRow]] = {}
    for row in found.transference:
        if row.budget == found.budget:
            by_arm.setdefault(row.arm, []).append(row)
    if not by_arm:
        return ""
    html = [
        "<p class='soft'>Share of a task's loss, in percent, that one step of plain gradient descent on another task's loss removes, on "
        "the parameters that they share and at the optimiser's rate; below 0 it adds. Mean over training on mini-batches, which is the "
        "warm-up where episodes follow, then over seeds. Outlined where the interval leaves out 0 (one by one, not adjusted); the "
        "diagonal is the step on the task itself. Networks of their own have no such influence.</p>"
    ]
    for i, (arm, rows) in enumerate(by_arm.items()):
        others = [r for r in rows if r.source != r.target]
        hurt = sum(r.value.mean < 0 for r in others)
        tasks = list(dict.fromkeys(r.source for r in rows))
        table = _strongest(others, traces.to_runs(arm)) if is_many(tasks) else _matrix(tasks, rows, traces.to_runs(arm))
        told = f"{arm}: {hurt} of {len(others)} ordered pairs hurt on average"
        html.append(f"<details{' open' if i == 0 else ''}><summary>{escape(told)}</summary>{table}</details>")
    return "".join(html)


def _matrix(tasks: Sequence[str], rows: Sequence[TransferenceRow], to: str) -> str:
    known = {(r.source, r.target): r for r in rows}
    largest = max((abs(r.value.mean) for r in rows if r.source != r.target and math.isfinite(r.value.mean)), default=0.0)
    body = []
    for source in tasks:
        cells = []
        for target in tasks:
            row = known.get((source, target))
            if row is None or not math.isfinite(row.value.mean):
                cells.append(NOTHING)
                continue
            word = linked(signed(100 * row.value.mean, 2), to)
            colour = " class='soft'" if source == target else tint(row.value.mean, largest, sure(row.value))
            cells.append(f"<td{colour} title='{escape(_interval(row))}'>{word}</td>")
        body.append(f"<tr><th scope='row'>{name(source)}</th>{''.join(cells)}</tr>")
    head = "<th scope='col'>a step on</th>" + "".join(f"<th scope='col'>{name(t)}</th>" for t in tasks)
    caption = f"Percent of the column's loss that a step on the row removes. Full colour at \u00b1{fixed(100 * largest, 2)}"
    return framed(caption, f"<tr>{head}</tr>", "".join(body), "full heat")


def _strongest(rows: Sequence[TransferenceRow], to: str) -> str:
    ranked = sorted((r for r in rows if math.isfinite(r.value.mean)), key=lambda r: -r.value.mean)
    shown = [*ranked[:PAIRS], *ranked[max(PAIRS, len(ranked) - PAIRS) :]]
    body = "".join(
        f"<tr><th scope='row'>{name(r.source)}</th><td>{name(r.target)}</td>"
        f"<td title='{escape(_interval(r))}'>{linked(signed(100 * r.value.mean, 2), to)}</td></tr>"
        for r in shown
    )
    head = "".join(f"<th scope='col'>{w}</th>" for w in ("a step on", "reaches", "percent of its loss removed"))
    return framed(
        f"The {PAIRS} pairs that help most and the {PAIRS} that hurt most of {len(ranked)}; all are in tables/transference.csv",
        f"<tr>{head}</tr>",
        body,
    )


def _interval(row: TransferenceRow) -> str:
    e = row.value
    if not math.isfinite(e.low):
        return f"{seeds(e.seeds)}, no interval"
    return f"{signed(100 * e.low, 2)} to {signed(100 * e.high, 2)}, {seeds(e.seeds)}"
