"""`report.html`: one page that holds all of a run and asks nothing of the network."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any, TypeVar

from m3tl_cli.core.errors import DataError
from m3tl_cli.core.results import Results, block_order, block_parts, block_title, write_text
from m3tl_cli.report.adaptation import adaptation_plots
from m3tl_cli.report.blocks import drawn, is_shot_block, quadrants, reduction
from m3tl_cli.report.formats import ARROWS, count, duration, number, percent
from m3tl_cli.report.many import is_many, left_out, picked, rising
from m3tl_cli.report.markup import framed, gain, images, name, sentence, table
from m3tl_cli.report.pictures import draw_sheet, png
from m3tl_cli.report.plots import Plot, curves
from m3tl_cli.report.read import RunFolder, Samples
from m3tl_cli.report.spread import Spread, spread
from m3tl_cli.report.tables import Line, Summary, cost_rows, lines, summary, write_tables
from m3tl_cli.report.target import sections, stage_table, who_helps_whom

STATES = {
    "RUNNING": "is still running",
    "FINISHED": "finished",
    "FAILED": "failed",
    "KILLED": "was killed",
    "UNKNOWN": "is in an unknown state",
}

T = TypeVar("T")


def write(folder: Path) -> Path:
    """Write tables/*.csv, plots/* and report.html into a run folder, from what it holds.

    The same folder gives the same bytes. What is absent or damaged is said on the page.

    Args:
        folder: A run folder, of a finished, failed, killed or running run.

    Returns:
        The page.

    Raises:
        DataError: If `folder` is no run folder.
    """
    run = RunFolder.open(folder)
    damaged: list[str] = []

    def part(read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except DataError as error:
            damaged.append(error.message)
            return otherwise

    results: Results | None = part(lambda: run.results, None)
    if damaged:
        # `tasks` looks at the results first; without them it goes by what was logged.
        vars(run)["results"] = None
    samples: Samples | None = part(lambda: run.samples, None)
    overrides: tuple[str, ...] = part(lambda: run.overrides, ())
    environment: Mapping[str, Any] = part(lambda: run.environment, {})
    command = part(lambda: run.command, "")
    data = part(lambda: _data(run.config), "")

    write_tables(run.path / "tables", results, run.history)
    shown_tasks = _drawn(run.tasks, results)
    plots = curves(run.history, run.tasks, results, shown_tasks)
    kinds = dict.fromkeys(block_parts(key)[0] for key in sorted(results.blocks, key=block_order)) if results is not None else {}
    adaptation = adaptation_plots(results, {kind: drawn(results, kind) for kind in kinds}) if results is not None else {}
    for plot in (*plots, *(p for found in adaptation.values() for p in found)):
        write_text(run.path / "plots" / f"{plot.name}.svg", plot.svg)
    if samples and samples.rows:
        (run.path / "plots").mkdir(exist_ok=True)
        (run.path / "plots" / "predictions.png").write_bytes(draw_sheet(samples))

    parts = {
        "Results": _results(run, results),
        **(sections(results, adaptation) if results is not None else {}),
        "Who helps whom": who_helps_whom(results) if results is not None else "",
        "Cost": _cost(results),
        "Predictions": _predictions(samples),
        "Curves": _curves(plots, run.tasks, shown_tasks, results),
        "How to repeat it": _repeat(run, command, overrides, environment),
    }
    shown = {title: html for title, html in parts.items() if html}
    marks = {title: re.sub(r"\W+", "-", title.lower()) for title in shown}
    body = [
        _head(run, results, data, damaged),
        "<nav aria-label='Sections'>" + "".join(f"<a href='#{marks[t]}'>{t}</a>" for t in shown) + "</nav>",
        "<main>",
        *(f"<section aria-labelledby='{marks[t]}'><h2 id='{marks[t]}'>{t}</h2>{html}</section>" for t, html in shown.items()),
        "</main>",
    ]
    template = Template((resources.files("m3tl_cli.report") / "page.html").read_text(encoding="utf-8"))
    text = template.substitute(title=f"{escape(run.name)} - m3tl", body="\n".join(body))
    # Plain ASCII reads the same whatever a server or an editor takes the encoding to be.
    write_text(run.path / "report.html", text.encode("ascii", "xmlcharrefreplace").decode())
    return run.path / "report.html"


def verdict(run: RunFolder, results: Results | None, data: str = "") -> tuple[str, str]:
    """Two sentences: what was trained and how it went against the trivial predictor; and how far that can be trusted.

    Args:
        run: The run.
        results: Its results; None where it did not get there.
        data: Name of the data; empty where unknown.
    """
    on = f" on {data}" if data else ""
    names = len(run.tasks)
    tasks = f"{names} task{'' if names == 1 else 's'}"
    if results is None:
        of = f" of {tasks}" if names else ""
        return (
            f"This run{of}{on} {STATES[run.status.state]} and has no test results.",
            f"The last logged step is {count(run.last_step)}; what it had written by then is shown."
            if run.history
            else "It logged no numbers.",
        )
    short = summary(results)
    if short is None:
        return f"Trained {tasks}{on} under {results.paradigm}; no task has a score.", f"One seed ({results.seed})."
    seen = len(results.blocks[short.block])
    new = f" and then {names - seen} new one{'' if names - seen == 1 else 's'}" if names > seen else ""
    tasks = f"{seen} task{'' if seen == 1 else 's'}"
    return f"Trained {tasks}{new}{on} under {results.paradigm}: {_against_trivial(short, seen)}{_at_target(results, short)}", (
        f"One run with one seed ({results.seed}): a measurement, not yet evidence for one way of sharing over another."
    )


def _against_trivial(short: Summary, names: int) -> str:
    better, total = len(short.beat_trivial), len(short.reductions)
    main = "" if total == names else " main tasks"
    who = f"{better} of {total}{main} beat" if total > 1 else "it beats" if better else "it does not beat"
    text = f"{who} the trivial predictor on {block_title(short.block)}"
    known = {t: r for t, r in short.reductions.items() if math.isfinite(r)}
    if not known:
        return f"{text}."
    if len(known) == 1:
        return f"{text}; {percent(short.mean)} of its error is removed."
    best, worst = max(known, key=lambda t: known[t]), min(known, key=lambda t: known[t])
    ends = f"best {best} {percent(known[best])}, worst {worst} {percent(known[worst])}"
    return f"{text}; {percent(short.mean)} of its error is removed on average ({ends})."


def _at_target(results: Results, said: Summary) -> str:
    """What was reached in target domains, at the largest number of shots; empty without a target, and without what was said already."""
    squares = quadrants(results)
    if not squares:
        return ""
    last = squares[-1]
    found = {"seen tasks": last.seen_target, "new tasks": last.new_target}
    found.pop({"b": "seen tasks", "c": "new tasks"}.get(block_parts(said.block)[0], ""), None)
    known = " and ".join(f"{percent(share)} on {what}" for what, share in found.items() if math.isfinite(share))
    shots = "1 shot" if last.num_shots == 1 else f"{last.num_shots} shots"
    return f" In target domains, with {shots}: {known}." if known else ""


def _data(config: Mapping[str, Any]) -> str:
    """Name of the data option, which is the name of its module."""
    node = config.get("data")
    target = str(node.get("_target_", "")) if isinstance(node, dict) else ""
    return target.split(".")[-2] if target.count(".") else ""


def _drawn(tasks: Sequence[str], results: Results | None) -> tuple[str, ...]:
    """The tasks whose training is drawn."""
    short = summary(results) if results is not None else None
    return picked({task: short.reductions.get(task, math.nan) if short is not None else math.nan for task in tasks})


def _head(run: RunFolder, results: Results | None, data: str, damaged: Sequence[str]) -> str:
    first, second = verdict(run, results, data)
    status = run.status
    took = f" in {duration(status.seconds)}" if status.seconds is not None else ""
    html = [
        f"<header><h1>{escape(run.name)}</h1>",
        f"<p class='verdict'>{escape(first)}</p><p class='soft'>{escape(second)}</p>",
        f"<p><span class='state {status.state}'>{status.state.lower()}</span>{took}</p>",
    ]
    if status.state not in ("FINISHED", "RUNNING"):
        reason = f"<pre>{escape(status.error)}</pre>" if status.error else ""
        html.append(f"<div class='notice'><p>This run {STATES[status.state]}. What it left is shown.</p>{reason}</div>")
    if run.missing or damaged:
        absent = f"<p>Not in the run folder: {', '.join(f'<code>{name}</code>' for name in run.missing)}.</p>" if run.missing else ""
        html.append(f"<div class='notice'>{absent}{''.join(f'<p>{escape(text)}</p>' for text in damaged)}</div>")
    if results is not None and results.notes:
        html.append("<ul>" + "".join(f"<li>{escape(note)}</li>" for note in results.notes) + "</ul>")
    return "".join(html) + "</header>"


def _results(run: RunFolder, results: Results | None) -> str:
    if results is None:
        return _last_values(run)
    legend = (
        "<p class='soft'>\u2191 higher is better, \u2193 lower is better. <b>Error reduction</b> is the share of the trivial predictor's "
        "distance to a perfect score that the model removed: 100&nbsp;% is perfect, below 0&nbsp;% is worse than trivial. "
        "The shaded metric is the one that comparisons use.</p>"
    )
    blocks: dict[str, list[Line]] = {}
    for line in lines({key: tasks for key, tasks in results.blocks.items() if not is_shot_block(key)}):
        blocks.setdefault(line.block, []).append(line)
    tables = "".join(f"<div>{_block(block, found)}</div>" for block, found in blocks.items())
    return f"{legend}{_spread(blocks)}<div class='pair'>{tables}</div>"


def _spread(blocks: Mapping[str, Sequence[Line]]) -> str:
    """How the error reduction is spread over the tasks of every block that has many."""
    rows = []
    for block, found in blocks.items():
        values = {line.task: line.error_reduction for line in found if line.primary}
        if is_many(values):
            rows.append(Spread(sentence(block_title(block)), values, {t: percent(v) for t, v in values.items()}))
    drawn_of = spread(rows, "Error reduction of every task", shares=True)
    return f"<p class='soft'>A dot is a task, where its error reduction is.</p>{drawn_of}" if drawn_of else ""


def _block(block: str, found: Sequence[Line]) -> str:
    """Every task of a block; of many a few, and all of them below."""
    values = {line.task: math.nan for line in found} | {line.task: line.error_reduction for line in found if line.primary}
    if not is_many(values):
        return _scores(block, found)
    of = {task: [line for line in found if line.task == task] for task in values}
    first = [line for task in picked(values) for line in of[task]]
    every = [line for task in rising(values) for line in of[task]]
    said = left_out(len(values), "error reduction", "the table below and in <code>tables/blocks.csv</code>")
    all_of = f"<details><summary>All {len(values)} tasks, the worst first</summary>{_scores(block, every)}</details>"
    return f"{said}{_scores(block, first)}{all_of}"


def _scores(block: str, found: Sequence[Line]) -> str:
    head = "<tr><th scope='col'>metric</th><th scope='col'>model</th><th scope='col'>trivial</th><th scope='col'>error reduction</th></tr>"
    body, task = [], None
    for line in found:
        if line.task != task:
            task = line.task
            about = ", ".join(x for x in (line.kind, line.role) if x not in (task, "main"))
            soft = f"<span class='soft'>{escape(about)}</span>"
            body.append(f"<tr class='task'><th scope='rowgroup' colspan='4'>{name(task)} {soft}</th></tr>")
        body.append(_line(line))
    return framed(sentence(block_title(block)), head, "".join(body))


def _line(line: Line) -> str:
    score = line.score
    arrow = f"<span title='{score.direction} is better'>{ARROWS[score.direction]}</span>"
    return (
        f"<tr{' class=primary' if line.primary else ''}><th scope='row'>{name(line.metric)}&nbsp;{arrow}</th>"
        f"<td>{escape(number(score.value, score.unit))}</td><td>{escape(number(score.trivial, score.unit))}</td>"
        f"{gain(reduction(score))}</tr>"
    )


def _last_values(run: RunFolder) -> str:
    """Where there are no results: the last validation of each metric."""
    rows = []
    for key, series in run.history.items():
        if key.startswith("val/"):
            rows.append((key.removeprefix("val/"), number(series.values[-1]), count(series.steps[-1])))
    if not rows:
        return ""
    html = table("Last validation of each metric", ("metric", "value", "step"), rows)
    return f"<details><summary>Last validation of {len(rows)} metrics</summary>{html}</details>" if is_many(run.tasks) else html


def _cost(results: Results | None) -> str:
    if results is None:
        return ""
    return table("What this run cost", ("what", "amount"), cost_rows(results.cost)) + stage_table(results.stages)


def _predictions(samples: Samples | None) -> str:
    if samples is None or not samples.rows:
        return ""
    html = []
    for row in samples.rows:
        figures, words = [], []
        for column in samples.columns:
            cell = row.cells.get(column)
            if cell is None:
                continue
            if cell.picture is None:
                # Words stand together in one line below the pictures, which they would tear apart.
                words.append(f"<span><span class='of'>{name(column)}</span> {escape(cell.text)}</span>")
                continue
            source = base64.b64encode(png(cell.picture)).decode()
            high, wide = cell.picture.shape[:2]
            alt = escape(f"{column} of {row.caption}")
            content = f"<img src='data:image/png;base64,{source}' width='{wide}' height='{high}' alt='{alt}'>"
            figures.append(f"<figure><figcaption><span>{name(column)}</span></figcaption>{content}</figure>")
        cells = [*figures, f"<p class='words'>{' '.join(words)}</p>"] if words else figures
        html.append(f"<div class='sample'><h3>{escape(row.caption)}</h3><div class='cells'>{''.join(cells)}</div></div>")
    return "".join(html)


def _curves(plots: Sequence[Plot], tasks: Sequence[str], shown: Sequence[str], results: Results | None) -> str:
    if not plots:
        return ""
    by = "error reduction" if results is not None and summary(results) is not None else ""
    html = [left_out(len(tasks), by, "<code>tables/history.csv</code>")] if len(shown) < len(tasks) else []
    for group in (*shown, ""):
        found = [p for p in plots if p.group == group]
        if found:
            html.append(f"<h3>{escape(group) or 'The whole run'}</h3>{images(found)}")
    return "".join(html)


def _repeat(run: RunFolder, command: str, overrides: Sequence[str], environment: Mapping[str, Any]) -> str:
    html = [f"<p>The exact command:</p><pre>{escape(command)}</pre>"] if command else []
    if overrides:
        html.append("<p>Differs from the defaults by:</p><pre>" + escape("\n".join(overrides)) + "</pre>")
    elif "overrides.yaml" not in run.missing:
        html.append("<p>Nothing differs from the defaults.</p>")
    if run.config_text:
        html.append(f"<details><summary>Every setting (<code>config.yaml</code>)</summary><pre>{escape(run.config_text)}</pre></details>")
    if run.checkpoints:
        html.append(f"<p>Checkpoints: {', '.join(f'<code>{escape(c)}</code>' for c in run.checkpoints)}.</p>")
    flat = [(key, value) for key, value in _flatten(environment) if key != "command"]
    if flat:
        html.append(table("Environment", ("what", "found"), flat, kind="left"))
    return "".join(html)


def _flatten(node: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _words(value)


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_words, value)) or "none"
    return "none" if value is None else str(value)
