"""The sections of the page about new domains and new tasks: what adaptation reached, from what, and what was tried."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from m3tl_cli.core.results import BLOCKS, Results, Score, StageCost, block_key, block_order, block_parts, block_title, mean
from m3tl_cli.report.blocks import Means, Row, ShotTable, means, quadrants, reduction, shot_tables
from m3tl_cli.report.estimates import NOTHING, signed
from m3tl_cli.report.formats import SPACE, count, duration, flops, number, percent
from m3tl_cli.report.many import is_many, left_out, picked, rising
from m3tl_cli.report.markup import framed, gain, grid, images, length, name, sentence
from m3tl_cli.report.plots import Plot
from m3tl_cli.report.spread import Spread, spread

TITLES = {
    "b": "Seen tasks in target domains",
    "c": "New tasks in target domains",
    "d": "New tasks in source domains",
    "old": "Forgetting",
    "probe": "Probe",
}


def sections(results: Results, plots: Mapping[str, Sequence[Plot]]) -> dict[str, str]:
    """Title, as HTML, to content of every section that these results can fill.

    Args:
        results: Of a run; one without a target has no sections.
        plots: By kind of block, as `adaptation_plots` makes them.
    """
    found = {"Seen and new": _seen_and_new(results)}
    for shots in shot_tables(results):
        found[TITLES.get(shots.kind, escape(f"Block {shots.kind}"))] = _block(results, shots, plots.get(shots.kind, ()))
    found["Choices"] = _choices(results)
    found["Sources"] = _sources(results)
    return {title: html for title, html in found.items() if html}


def stage_table(stages: Sequence[StageCost]) -> str:
    """What each stage cost, with its share of the time; empty without stages."""
    if not stages:
        return ""
    total = sum(stage.seconds for stage in stages)
    rows = []
    for stage in stages:
        numbers = (stage.updates, stage.samples, stage.forward, stage.backward)
        share = stage.seconds / total if total > 0 else 0.0
        time = f"<td>{escape(duration(stage.seconds))}{length(share)}</td><td>{percent(share)}</td>"
        label = f"{stage.stage} (cached)" if stage.cached else stage.stage
        rows.append([label, f"<td>{escape(flops(stage.flops))}</td>", *(f"<td>{count(n)}</td>" for n in numbers), time])
    cached = ". Cached: read from an earlier run, the numbers are what it cost then" if any(s.cached for s in stages) else ""
    columns = ("stage", "FLOPs", "optimiser steps", "samples", "forward passes", "backward passes", "time", "share")
    return grid(f"What each stage cost, inner steps included in the passes{cached}", columns, rows)


def _seen_and_new(results: Results) -> str:
    html = []
    squares = quadrants(results)
    if squares:
        head = "<tr><th scope='col'></th><th scope='col'>source domains</th><th scope='col'>target domains</th></tr>"
        body = []
        for square in squares:
            body.append(f"<tr class='task'><th scope='rowgroup' colspan='3'>{_shots(square.num_shots)}</th></tr>")
            for label, *pair in square.rows:
                body.append(f"<tr><th scope='row'>{label}</th>{''.join(gain(share) for share in pair)}</tr>")
        caption = "Mean error reduction over tasks; seen tasks in source domains have all their training labels"
        html.append(framed(caption, head, "".join(body)))
    beside = means(results)
    if beside is not None:
        html.append(_means(beside))
    return f"<div class='pair wide'>{''.join(f'<div>{part}</div>' for part in html)}</div>" if html else ""


def _means(found: Means) -> str:
    kinds: dict[str, list[str]] = {}
    for key in found.keys:
        kinds.setdefault(block_parts(key)[0], []).append(key)
    groups = (f"<th scope='colgroup' colspan='{len(keys)}'>{escape(BLOCKS.get(kind, kind))}</th>" for kind, keys in kinds.items())
    numbers = (block_parts(key)[1] for keys in kinds.values() for key in keys)
    columns = "".join(f"<th scope='col'>{'' if n is None else f'n={n}'}</th>" for n in numbers)
    body = []
    for i, (label, values) in enumerate(found.rows):
        cells = "".join(gain(values[key], bar=False) if key in values else NOTHING for keys in kinds.values() for key in keys)
        body.append(f"<tr{' class=primary' if i == 0 else ''}><th scope='row'>{name(label)}</th>{cells}</tr>")
    head = f"<tr><td></td>{''.join(groups)}</tr><tr><th scope='col'>model</th>{columns}</tr>"
    return framed("Mean error reduction over tasks, beside the baselines; n shots", head, "".join(body))


def _block(results: Results, shots: ShotTable, plots: Sequence[Plot]) -> str:
    html = []
    html.append(_forgetting(results, shots) if shots.kind == "old" else _gains(shots))
    if plots:
        html.append(
            "<p class='soft'>n shots; a line is the mean over target episodes, each of which is a thin line; a dot marks the number of "
            "steps that meta-validation chose; dashed in the same colour: the inner loop's own rule.</p>"
        )
        html.append(images(plots))
    html.append(f"<details><summary>Every metric</summary>{_metrics(results, shots)}</details>")
    return "".join(html)


def _gains(shots: ShotTable) -> str:
    before = {(row.task, n): cell.before for row in shots.rows for n, cell in row.cells.items()}
    how = "before \u2192 after adaptation" if any(before.values()) else "after adaptation"
    return _over_shots(f"Error reduction {how}, mean over target episodes", shots, before)


def _forgetting(results: Results, shots: ShotTable) -> str:
    before: dict[tuple[str, int], Score | None] = {}
    for n in shots.num_shots:
        for task, result in results.blocks.get(block_key("b", n), {}).items():
            before[task, n] = result.scores.get(result.primary)
    return _over_shots("Error reduction of seen tasks in target domains, before \u2192 after the new tasks were added", shots, before)


def _over_shots(caption: str, shots: ShotTable, before: Mapping[tuple[str, int], Score | None]) -> str:
    """A line per task, a column per number of shots, and the mean over main tasks below; of many tasks a few lines, then all."""
    cells_of: dict[str, list[str]] = {}
    for row in shots.rows:
        cells = []
        for n in shots.num_shots:
            first = before.get((row.task, n))
            known = n in row.cells
            cells.append(gain(reduction(row.cells[n].after), reduction(first) if first else None) if known else NOTHING)
        cells_of[row.task] = [_label(row), *cells]
    main = [row for row in shots.rows if row.result.role == "main"]
    below = []
    if len(main) > 1:
        each = ([row for row in main if n in row.cells] for n in shots.num_shots)
        below.append(
            ["mean", *(gain(mean(reduction(row.cells[n].after) for row in on)) for n, on in zip(shots.num_shots, each, strict=True))]
        )

    def lines(tasks: Iterable[str]) -> str:
        columns = ("task", *map(_shots, shots.num_shots))
        return grid(caption, columns, [*(cells_of[t] for t in tasks), *below], "total" if below else "numbers")

    if not is_many(cells_of):
        return lines(cells_of)
    last = shots.num_shots[-1]
    values = {row.task: reduction(row.cells[last].after) if last in row.cells else math.nan for row in shots.rows}
    said = left_out(len(values), f"error reduction with {_shots(last)}", "the table below and in <code>tables/blocks.csv</code>")
    every = f"<details><summary>All {len(values)} tasks, the worst first</summary>{lines(rising(values))}</details>"
    if below:
        below[0][0] = f"mean of all {len(main)}"
    return f"{_spread(shots)}{said}{lines(picked(values))}{every}"


def _spread(shots: ShotTable) -> str:
    """How the error reduction is spread over the tasks, a row per number of shots."""
    rows = []
    for n in shots.num_shots:
        values = {row.task: reduction(row.cells[n].after) for row in shots.rows if n in row.cells}
        rows.append(Spread(_shots(n), values, {t: percent(v) for t, v in values.items()}))
    return f"<p class='soft'>A dot is a task, where its error reduction is.</p>{spread(rows, 'Error reduction of every task', shares=True)}"


def _metrics(results: Results, shots: ShotTable) -> str:
    """Value and trivial value of every metric, a column per number of shots."""
    numbered = {n: results.blocks[block_key(shots.kind, n)] for n in shots.num_shots}
    body = []
    for row in shots.rows:
        body.append(f"<tr class='task'><th scope='rowgroup' colspan='{len(numbered) + 1}'>{name(_label(row))}</th></tr>")
        for metric in sorted(row.result.scores, key=lambda m, r=row: m != r.result.primary):  # type: ignore[misc]
            cells = []
            for tasks in numbered.values():
                score = tasks[row.task].scores.get(metric) if row.task in tasks else None
                trivial = f"<br><span class='soft'>trivial {escape(number(score.trivial))}</span>" if score else ""
                cells.append(f"<td>{escape(number(score.value, score.unit))}{trivial}</td>" if score else NOTHING)
            primary = " class=primary" if metric == row.result.primary else ""
            body.append(f"<tr{primary}><th scope='row'>{name(metric)}</th>{''.join(cells)}</tr>")
    head = "".join(f"<th scope='col'>{x}</th>" for x in ("metric", *map(_shots, shots.num_shots)))
    return framed(sentence(block_title(shots.kind)), f"<tr>{head}</tr>", "".join(body))


def _choices(results: Results) -> str:
    if not results.choices:
        return ""
    body, last = [], None
    for choice in sorted(results.choices, key=lambda c: block_order(c.block)):
        kind, num = block_parts(choice.block)
        if kind != last:
            last = kind
            body.append(f"<tr class='task'><th scope='rowgroup' colspan='3'>{escape(sentence(block_title(kind)))}</th></tr>")
        tried = ", ".join(f"{label} {percent(score)}" for label, score in choice.trials if label != choice.optimizer)
        steps = f"{count(choice.steps)}{SPACE}step{'' if choice.steps == 1 else 's'}"
        label = "" if num is None else _shots(num)
        cells = (f"{choice.optimizer}, {steps}: {percent(choice.score)}", tried)
        body.append(f"<tr><th scope='row'>{label}</th>{''.join(f'<td>{escape(text)}</td>' for text in cells)}</tr>")
    head = "".join(f"<th scope='col'>{x}</th>" for x in ("shots", "chosen", "also tried"))
    caption = "Optimiser, rate and number of steps: chosen on meta-validation, never on test data, by the mean error reduction there"
    return framed(caption, f"<tr>{head}</tr>", "".join(body), "words")


def _sources(results: Results) -> str:
    if not results.sources:
        return ""
    columns = tuple(dict.fromkeys(source for found in results.sources.values() for source in found))
    rows = []
    for task, found in results.sources.items():
        best = max(found.values(), default=0.0)
        marked = (
            f"<td>{f'<b>{number(found[s])}</b>' if found[s] == best else number(found[s])}</td>" if s in found else NOTHING for s in columns
        )
        rows.append([task, *marked, f"<td>{number(mean(found.values()))}</td>"])
    caption = "Score of a probe on each source task's features, per new task, on meta-validation; the highest is bold"
    return grid(caption, ("new task", *columns, "mean"), rows)


def who_helps_whom(results: Results) -> str:
    """What a step on one task removed of the losses of others, while they were trained together; of many tasks the CSV file has it."""
    if not results.transference or is_many(results.transference):
        return ""
    columns = tuple(results.transference)
    rows = []
    for task, found in results.transference.items():
        marked = []
        for other in columns:
            share = found.get(other, math.nan)
            mood = "soft" if other == task else "good" if share > 0 else "bad" if share < 0 else "soft"
            marked.append(f"<td class='{mood}'>{signed(100 * share, 2)}</td>" if math.isfinite(share) else NOTHING)
        rows.append([task, *marked])
    caption = (
        "Percent of the column's loss that a step of plain gradient descent on the row's removes, on shared parameters at the "
        "optimiser's rate; below 0 it adds. Mean over training on mini-batches"
    )
    return grid(caption, ("a step on", *columns), rows)


def _label(row: Row) -> str:
    return row.task if row.result.role == "main" else f"{row.task} ({row.result.role})"


def _shots(num: int) -> str:
    return f"{num}{SPACE}shot{'' if num == 1 else 's'}"
