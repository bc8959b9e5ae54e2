"""The sections of an ablation's page that are drawn: adaptation and learning curves, cost against score."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from html import escape
from typing import TYPE_CHECKING, TypeVar

from m3tl_cli.core.results import BLOCKS, block_key, block_parts, block_title
from m3tl_cli.report.charts import Line, Point, legend, line_chart, scatter, styles
from m3tl_cli.report.estimates import NOTHING, fixed, half, interval, level_cell, linked, seeds, under
from m3tl_cli.report.formats import SPACE, count, duration, flops, number, size
from m3tl_cli.report.many import left_out
from m3tl_cli.report.markup import framed, name, sentence
from m3tl_cli.report.tables import COST

if TYPE_CHECKING:
    from m3tl_cli.comparison.statistics import Estimate
    from m3tl_cli.comparison.tables import Comparison, SavingRow, StepRow
    from m3tl_cli.report.traces import Traces

Row = TypeVar("Row", "SavingRow", "StepRow")

MEAN = "mean over tasks"

DRAWN = ("flops", "seconds", "forward", "labels", "peak_memory", "parameters")
"""Costs that are drawn against the score; all are in the table."""


def adaptation(found: Comparison, traces: Traces) -> str:
    """How every setting went while it adapted, and along the number of shots: a chart per task, a line per setting."""
    steps = [r for r in found.steps if r.budget == found.budget]
    savings = [r for r in found.savings if r.budget == found.budget]
    if not steps and not savings:
        return ""
    level = 100 * (1 - found.plan.alpha)
    html = [
        f"<p class='soft'>Normalised gain; a line is the mean over seeds, its band the {level:g}{SPACE}% t interval over seeds, cut where "
        "it leaves the chart. Point at a name to see its line alone, or take its mark away to hide it.</p>",
        legend(styles(found.arms, found.beside)),
    ]
    for block in _first(found, dict.fromkeys(r.block for r in steps)):
        own = [r for r in steps if r.block == block]
        drawn = _drawn(traces, own, block)
        inside = _left_out(traces, own, block, "steps.csv")
        inside += _charts([_steps(found, block, task, rows) for task, rows in _by_task(drawn)]) + _reached(found, traces, drawn)
        html.append(_folded(f"While adapting: {block_title(block)}", inside, opened=block == found.plan.key))
    for kind in dict.fromkeys(r.block for r in savings):
        rows = [r for r in savings if r.block == kind]
        several = any(len(r.num_shots) > 1 for r in rows)
        # Tasks are ranked by what they gain with the most shots.
        last = block_key(kind, rows[0].num_shots[-1])
        drawn_of = _drawn(traces, rows, last)
        inside = _left_out(traces, rows, last, "savings.csv")
        inside += _charts([_shots(found, kind, task, own) for task, own in _by_task(drawn_of)]) if several else ""
        inside += _saved(found, traces, drawn_of)
        html.append(_folded(f"Along the number of shots: {BLOCKS.get(kind, kind)}", inside, opened=kind == found.plan.block))
    return f"<div class='curves'>{''.join(html)}</div>"


def cost(found: Comparison, traces: Traces) -> str:
    """Cost against score with the Pareto front, and every cost of every setting under every budget."""
    html = []
    ordered = sorted(found.budgets, key=lambda b: b != found.budget)
    for budget in ordered:
        title = f"<h3>Under {escape(budget)}</h3>" if len(ordered) > 1 else ""
        drawn = _pareto(found, traces, budget)
        tables = "".join(_costs(found, traces, budget, stage) for stage in _stages(found, budget))
        if drawn or tables:
            html.append(f"{title}{drawn}{tables}")
    if not html:
        return ""
    legend_text = (
        f"<p class='soft'>Score: mean normalised gain on {escape(block_title(found.plan.key))}. Filled and joined by steps: the Pareto "
        "front, settings that no other beats by costing less at no lower score. Work that cells share through the cache is counted in "
        "each of them.</p>"
    )
    return legend_text + "".join(html)


def amount(value: float, unit: str) -> str:
    """A cost in words."""
    if not math.isfinite(value):
        return number(value)
    words = {"FLOP": flops, "s": duration, "B": size}
    return words[unit](value) if unit in words else count(round(value))


def _drawn(traces: Traces, rows: Sequence[Row], block: str) -> list[Row]:
    """The rows to draw: of many tasks a few, from the worst to the best, behind the mean over all."""
    if not traces.is_many(block):
        return list(rows)
    place = {task: i for i, task in enumerate(("", *traces.few(block)))}
    return sorted((r for r in rows if r.task in place), key=lambda r: place[r.task])


def _left_out(traces: Traces, rows: Sequence[Row], block: str, file: str) -> str:
    """Which tasks are not drawn, where there are many."""
    if not traces.is_many(block):
        return ""
    num = len({r.task for r in rows} - {""})
    return left_out(num, f"gain difference on {escape(block_title(block))}", f"<code>tables/{file}</code>")


def _by_task(rows: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    """Rows of each task, the mean over tasks first."""
    made: dict[str, list[Row]] = {}
    for row in rows:
        made.setdefault(row.task, []).append(row)
    return sorted(made.items(), key=lambda pair: pair[0] != "")


def _charts(made: Sequence[str]) -> str:
    shown = [chart for chart in made if chart]
    # The mean over one task is that task.
    return f"<div class='plots charts'>{''.join(shown[1:] if len(shown) == 2 else shown)}</div>" if shown else ""


def _steps(found: Comparison, block: str, task: str, rows: Sequence[StepRow]) -> str:
    lines = [_line(found, r.arm, r.steps, r.gains, f"after {r.steps[-1]} steps") for r in rows]
    target = next((r.target for r in rows if found.references.get(r.arm) == r.arm), math.nan)
    mark = (target, f"{_base(found)} in the end")
    ends = "; ".join(f"{r.arm} {fixed(r.gains[-1].mean)}" for r in rows)
    title = sentence(task or MEAN)
    alt = f"{title}: normalised gain over adaptation steps, {block_title(block)}; at the last step: {ends}"
    return line_chart(title, alt, "adaptation step", lines, scale=math.log1p, mark=mark)


def _shots(found: Comparison, kind: str, task: str, rows: Sequence[SavingRow]) -> str:
    lines = [_line(found, r.arm, r.num_shots, r.gains, f"with {r.num_shots[-1]} shots") for r in rows]
    ends = "; ".join(f"{r.arm} {fixed(r.gains[-1].mean)}" for r in rows)
    title = sentence(task or MEAN)
    alt = f"{title}: normalised gain over shots, {BLOCKS.get(kind, kind)}; at the most shots: {ends}"
    return line_chart(title, alt, "labelled samples a task", lines, scale=math.log1p)


def _line(found: Comparison, arm: str, xs: Sequence[int], gains: Sequence[Estimate], where: str) -> Line:
    points = tuple((float(x), e.mean, e.low, e.high) for x, e in zip(xs, gains, strict=True))
    tip = f"{arm}: {fixed(gains[-1].mean)} {where} ({interval(gains[-1])})".replace("+", "")
    return Line(found.arms.index(arm), arm, styles(found.arms, found.beside)[arm], points, tip)


def _reached(found: Comparison, traces: Traces, rows: Sequence[StepRow]) -> str:
    """Steps that each setting needs for the reference's final gain."""
    own = [r for r in rows if r.task == ""] or list(rows)
    tasks = list(dict.fromkeys(r.task for r in rows))
    known = {(r.arm, r.task): r for r in rows}
    body = []
    for arm in dict.fromkeys(r.arm for r in own):
        cells = []
        for task in tasks:
            row = known.get((arm, task))
            if row is None:
                cells.append(NOTHING)
                continue
            word = count(round(row.reached)) if math.isfinite(row.reached) else "never"
            cells.append(f"<td>{linked(word, traces.to(row.block, arm, task))}</td>")
        body.append(f"<tr><th scope='row'>{name(arm)}</th>{''.join(cells)}</tr>")
    head = "".join(f"<th scope='col'>{name(w)}</th>" for w in ("setting", *(t or MEAN for t in tasks)))
    caption = f"Steps to target: the first scored adaptation step at which the mean curve is where {_base(found)} ends"
    return framed(caption, f"<tr>{head}</tr>", "".join(body), "full")


def _saved(found: Comparison, traces: Traces, rows: Sequence[SavingRow]) -> str:
    """Data saved, for the mean over tasks; per task below it."""
    shots = [f"{n} shot{'' if n == 1 else 's'}" for n in rows[0].num_shots]
    head = "".join(f"<th scope='col'>{w}</th>" for w in ("setting", *shots, "samples to target", "data saved", "exponent"))
    made = []
    for task, own in _by_task(rows):
        body = []
        for r in own:
            keys = [block_key(r.block, n) for n in r.num_shots]
            gains = "".join(level_cell(e, traces.to(key, r.arm, task)) for key, e in zip(keys, r.gains, strict=True))
            samples = "never" if r.kind == "never" else f"{'at most ' if r.kind == 'at most' else ''}{r.samples:.3g}"
            bound = "\u2265 " if r.kind == "at most" else ""
            saved = f"{bound}{r.saved:.2f}\u00d7" if math.isfinite(r.saved) else ""
            at = traces.to(keys[-1], r.arm, task)
            numbers = f"<td>{linked(samples, at)}</td><td>{linked(saved, at)}</td>{level_cell(r.exponent, at)}"
            body.append(f"<tr><th scope='row'>{name(r.arm)}</th>{gains}{numbers}</tr>")
        caption = (
            f"{sentence(task or MEAN)}: labelled samples a task until the gain that {_base(found)} has with the most shots, "
            "and how many times fewer than it needs itself; exponent: b of 1 - gain = a n^-b, fitted to each seed's curve"
        )
        made.append(framed(caption, f"<tr>{head}</tr>", "".join(body), "full"))
    rest = f"<details><summary>Data saved, task by task</summary>{''.join(made[1:])}</details>" if len(made) > 1 else ""
    return f"{made[0]}{rest}"


def _pareto(found: Comparison, traces: Traces, budget: str) -> str:
    styled = styles(found.arms, found.beside)
    scores = {r.arm: r.gain for r in found.summary if r.budget == budget and r.block == found.plan.key}
    charts = []
    for column in DRAWN:
        rows = {r.stage: r for r in found.pareto if r.budget == budget and r.column == column}
        unit = next((r.unit for r in found.costs if r.column == column), "")
        for stage, row in rows.items():
            same = stage != "all" and "all" in rows and row.points == rows["all"].points
            values = [x for x, _ in row.points.values() if math.isfinite(x)]
            if same or not values or max(values) <= 0:
                continue
            points = [
                Point(
                    arm,
                    styled[arm],
                    x,
                    y,
                    scores[arm].low if arm in scores else math.nan,
                    scores[arm].high if arm in scores else math.nan,
                    arm in row.front,
                    traces.to(found.plan.key, arm, budget=budget),
                    f"{arm}: {fixed(y)}{half(scores[arm]) if arm in scores else ''} at {amount(x, unit)}",
                )
                for arm, (x, y) in row.points.items()
                if math.isfinite(x) and math.isfinite(y)
            ]
            title = sentence(COST.get(column, column)) + ("" if stage == "all" else f", {stage}")
            alt = f"{title} against the score; on the Pareto front: {', '.join(row.front)}"
            words = partial(_tick, unit=unit)
            charts.append(scatter(title, alt, "cost, mean of a run", points, words=words, per=_per(max(values), unit)))
    return f"<div class='plots charts'>{''.join(charts)}</div>" if charts else ""


def _per(largest: float, unit: str) -> float:
    """What round numbers of a cost are counted in: minutes or hours, mebibytes."""
    if unit == "s":
        return 1.0 if largest < 120 else 60.0 if largest < 7200 else 3600.0
    return 2.0**20 if unit == "B" else 1.0


def _tick(value: float, unit: str) -> str:
    if unit == "s":
        return f"{value:g} s" if value < 60 else f"{value / 60:.3g} min" if value < 7200 else f"{value / 3600:.3g} h"
    if unit == "FLOP":
        return flops(value)
    if unit == "B":
        return f"{value / 2**20:.4g} MiB" if value < 2**33 else f"{value / 2**30:.3g} GiB"
    for letter, power in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= power:
            return f"{value / power:.4g}{letter}"
    return f"{value:.4g}"


def _stages(found: Comparison, budget: str) -> list[str]:
    """The whole run, the run without pretraining, then single stages."""
    stages = list(dict.fromkeys(r.stage for r in found.costs if r.budget == budget))
    first = [s for s in ("all", "without pretraining") if s in stages]
    return [*first, *(s for s in stages if s not in first)]


def _costs(found: Comparison, traces: Traces, budget: str, stage: str) -> str:
    rows = {(r.arm, r.column): r for r in found.costs if (r.budget, r.stage) == (budget, stage)}
    columns = [c for c in COST if any(c == column and r.value.mean for (_, column), r in rows.items())]
    arms = [arm for arm in found.arms if any(a == arm for a, _ in rows)]
    if not columns:
        return ""
    body = []
    for arm in arms:
        cells = []
        for column in columns:
            r = rows.get((arm, column))
            if r is None:
                cells.append(NOTHING)
                continue
            ratio = f"{r.ratio:.3g}\u00d7" if math.isfinite(r.ratio) and found.references.get(arm, arm) != arm else ""
            e = r.value
            spread = (
                f" title='{escape(f'{amount(e.low, r.unit)} to {amount(e.high, r.unit)}, {seeds(e.seeds)}')}'" if e.low < e.high else ""
            )
            cells.append(f"<td{spread}>{linked(amount(e.mean, r.unit), traces.to_runs(arm))}{under(ratio)}</td>")
        body.append(f"<tr><th scope='row'>{name(arm)}</th>{''.join(cells)}</tr>")
    head = "".join(f"<th scope='col'>{escape(w)}</th>" for w in ("setting", *(COST[c] for c in columns)))
    what = {"all": "What a run costs, all stages", "without pretraining": "The same without pretraining"}.get(stage, f"Stage {stage}")
    table = framed(f"{what}; mean over seeds, below it the multiple of {_base(found)}", f"<tr>{head}</tr>", "".join(body), "full")
    return table if stage == "all" else f"<details><summary>{escape(what)}</summary>{table}</details>"


def _first(found: Comparison, blocks: Iterable[str]) -> list[str]:
    """The outcome's block, then the others in their order."""
    return sorted(blocks, key=lambda b: (b != found.plan.key, block_parts(b)[0] != found.plan.block))


def _folded(title: str, inside: str, *, opened: bool) -> str:
    return f"<details{' open' if opened else ''}><summary>{escape(sentence(title))}</summary>{inside}</details>" if inside else ""


def _base(found: Comparison) -> str:
    bases = set(found.references.values())
    return next(iter(bases)) if len(bases) == 1 else found.plan.reference
