"""The page of an ablation: who won, how surely, at what cost, and from which runs every number comes."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Callable, Mapping
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from m3tl_cli.comparison.cells import flat
from m3tl_cli.core.errors import DataError
from m3tl_cli.core.results import block_title, write_text
from m3tl_cli.report import ablation_cube, ablation_curves, ablation_pictures, ablation_tables, ablation_transference
from m3tl_cli.report.charts import legend_rules
from m3tl_cli.report.estimates import fixed, seeds
from m3tl_cli.report.formats import count
from m3tl_cli.report.markup import framed, name, table
from m3tl_cli.report.read import RunFolder
from m3tl_cli.report.traces import Traces

if TYPE_CHECKING:
    from m3tl_cli.comparison.tables import Comparison

RECORD = "ablation.json"
"""File in which an ablation keeps the command that started it."""

EXPLORATORY = "exploratory"

FLAGS, LOST = 6, 3  # shown at once; the others unfold, or stand in the table of runs


def write(comparison: Comparison, folder: Path, page: Path | None = None) -> Path:
    """Write the page of a comparison: one file that asks nothing of the network.

    The same runs give the same bytes. What runs no longer hold is left out; the numbers of the comparison stay.

    Args:
        comparison: Of an ablation or of runs that were picked by hand.
        folder: That the comparison is about, where ablation.json is looked for.
        page: File to write, `report.html` in `folder` by default. Links to runs are relative to where it lies.

    Returns:
        The page.
    """
    target = (page or folder / "report.html").absolute()
    traces = Traces(comparison, target.parent)
    sections: Mapping[str, Callable[[Comparison, Traces], str]] = {
        "How surely": ablation_cube.contrasts,
        "The cube": ablation_cube.cube,
        "Adaptation": ablation_curves.adaptation,
        "Cost": ablation_curves.cost,
        "Negative transfer": ablation_cube.negative_transfer,
        "Who helps whom": ablation_transference.transference,
        "Block by block": ablation_tables.blocks,
        "Baselines": ablation_tables.baselines,
        "Table 1 of the survey": ablation_tables.table_one,
        "Predictions": ablation_pictures.predictions,
        "Runs": ablation_tables.runs,
        "How to repeat it": lambda found, _: _repeat(found, folder),
    }
    shown = {title: html for title, make in sections.items() if (html := make(comparison, traces))}
    marks = {title: re.sub(r"\W+", "-", title.lower()) for title in shown}
    heading = f"{'Ablation' if comparison.planned else 'Comparison'} {folder.absolute().name}"
    body = [
        _head(comparison, heading),
        "<nav aria-label='Sections'>" + "".join(f"<a href='#{marks[t]}'>{t}</a>" for t in shown) + "</nav>",
        "<main>",
        *(f"<section aria-labelledby='{marks[t]}'><h2 id='{marks[t]}'>{t}</h2>{html}</section>" for t, html in shown.items()),
        "</main>",
    ]
    here = resources.files("m3tl_cli.report")
    # The page of a run and this one are one template: its rules come first, those of the comparison after them.
    frame = (here / "page.html").read_text(encoding="utf-8")
    own = (here / "ablation.css").read_text(encoding="utf-8")
    text = Template(frame.replace("</style>", f"{own}{legend_rules(len(comparison.arms))}</style>", 1)).substitute(
        title=f"{escape(heading)} - m3tl", body="\n".join(body)
    )
    # Plain ASCII reads the same whatever a server or an editor takes the encoding to be.
    write_text(target, text.encode("ascii", "xmlcharrefreplace").decode())
    return target


def _head(found: Comparison, heading: str) -> str:
    """The verdict, what it rests on, and what a reader must know before believing it."""
    first, _, second = found.verdict.partition(". ")
    state = _state(found)
    lost = [m for m in found.missing if m.folder]
    absent = [m for m in found.missing if not m.folder and (m.arm, m.seed) not in ablation_tables.lost(found)]
    html = [
        f"<header><h1>{escape(heading)}</h1>",
        f"<p class='verdict'>{escape(first)}{'.' if second else ''}</p>",
        f"<p class='second'>{escape(second)}</p>" if second else "",
        f"<p><span class='state {'soft' if state == EXPLORATORY else 'FINISHED'}'>{state}</span> {escape(_about(found))}</p>",
    ]
    notes = [f"<li>{escape(flag)}</li>" for flag in found.flags]
    reasons = [f"<li>{escape(Path(m.folder).name)} is in no number: {escape(ablation_tables.why(m.reason))}.</li>" for m in lost[:LOST]]
    if len(lost) > LOST or absent:
        more = [
            f"{len(lost) - LOST} more did not finish" if len(lost) > LOST else "",
            f"{len(absent)} planned but not there" if absent else "",
        ]
        reasons.append(f"<li>Runs: {', '.join(filter(None, more))}; <a href='#runs'>which and why</a>.</li>")
    notes = [*reasons, *notes]
    if notes:
        rest = (
            f"<details><summary>{len(notes) - FLAGS} more</summary><ul>{''.join(notes[FLAGS:])}</ul></details>"
            if len(notes) > FLAGS
            else ""
        )
        html.append(f"<div class='notice'><p>Before you believe a number:</p><ul>{''.join(notes[:FLAGS])}</ul>{rest}</div>")
    return "".join(html) + "</header>"


def _state(found: Comparison) -> str:
    few = any(v.answer == "exploratory" for v in found.contrasts)
    return EXPLORATORY if few or not found.planned else "planned before the first run"


def _about(found: Comparison) -> str:
    runs = f"{count(len(found.runs))} run{'' if len(found.runs) == 1 else 's'}"
    own = len(found.arms) - len(found.beside)
    arms = f"{own} setting{'' if own == 1 else 's'}"
    for kind, words in (("baseline", "beside them"), ("upper_bound", "as upper bound, with all target labels,")):
        those = [arm for arm in found.arms if found.beside.get(arm) == kind]
        arms += f", {words} {', '.join(those)}" if those else ""
    arms += ";" if found.beside else ","
    return (
        f"{runs} of {arms} {seeds(len(found.seeds))}, decided under {found.budget}. The outcome: mean normalised gain over the main tasks "
        f"on {block_title(found.plan.key)}; margin {found.plan.margin:g}, family-wise error {found.plan.alpha:g}. "
        f"{_surpassed(found)}Every number leads to its runs."
    )


def _surpassed(found: Comparison) -> str:
    """Which settings are above what is called an upper bound: it has more labels, and no more training."""
    gains = {r.arm: r.gain.mean for r in found.summary if (r.budget, r.block) == (found.budget, found.plan.key)}
    words = []
    for bound in (arm for arm, kind in found.beside.items() if kind == "upper_bound"):
        above = [arm for arm, gain in gains.items() if arm not in found.beside and gain > gains.get(bound, math.inf)]
        if above:
            words.append(f"Trained no longer than the settings, {bound} is below {', '.join(above)}: no upper bound here. ")
    return "".join(words)


def _repeat(found: Comparison, folder: Path) -> str:
    html = [f"<p>The exact command:</p><pre>{escape(_command(found, folder))}</pre>", _plan(found)]
    commands = {i: command for i, run in enumerate(found.runs) if (command := _part(Path(run.folder), lambda r: r.command, ""))}
    if commands:
        lines = "\n".join(f"# {found.runs[i].arm}, seed {found.runs[i].seed}\n{command}" for i, command in commands.items())
        html.append(f"<details><summary>The command of every run by itself</summary><pre>{escape(lines)}</pre></details>")
    html.append(_environment(found))
    return "".join(html)


def _command(found: Comparison, folder: Path) -> str:
    """What to type to have the same comparison again."""
    try:
        words = json.loads((folder / RECORD).read_text())["command"]
        return shlex.join(map(str, words))
    except (OSError, ValueError, KeyError, TypeError):
        return shlex.join(("m3tl", "compare", *(run.folder for run in found.runs)))


def _plan(found: Comparison) -> str:
    plan = found.plan
    rows = [
        ("outcome", f"mean normalised gain on {block_title(plan.key)}"),
        ("1 of the gain", plan.gain_reference),
        ("settings", ", ".join(plan.arms)),
        ("seeds", ", ".join(map(str, plan.seeds))),
        ("contrasts", "; ".join(c.name for c in plan.contrasts)),
        ("margin", f"{plan.margin:g}"),
        ("family-wise error", f"{plan.alpha:g}"),
        ("differences are taken from", plan.reference),
        ("budget that decides", plan.budget),
        ("digest of the plan", plan.digest),
    ]
    if found.validation:
        rows.append(("validation scores that chose the best other", ", ".join(f"{n} {fixed(v)}" for n, v in found.validation.items())))
    made = "before the first run" if found.planned else "after the runs, from what there is"
    return table(f"The plan, made {made}", ("what", "planned"), rows, kind="left")


def _environment(found: Comparison) -> str:
    """What the runs' environments share; and where they differ, in how many runs."""
    environments = [_part(Path(run.folder), lambda r: r.environment, {}) for run in found.runs]
    values: dict[str, dict[str, int]] = {}
    for environment in filter(None, environments):
        for key, value in flat(environment):
            if key != "command":
                words = ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
                values.setdefault(key, {}).setdefault(words, 0)
                values[key][words] += 1
    if not values:
        return ""
    rows = []
    for key, told in values.items():
        words = next(iter(told)) if len(told) == 1 else "; ".join(f"{word} in {n} run{'' if n == 1 else 's'}" for word, n in told.items())
        rows.append(f"<tr{' class=primary' if len(told) > 1 else ''}><th scope='row'>{name(key)}</th><td>{escape(words)}</td></tr>")
    head = "<tr><th scope='col'>what</th><th scope='col'>found</th></tr>"
    return framed("Environment of the runs; shaded where they differ", head, "".join(rows), "left")


def _part(folder: Path, read: Callable[[RunFolder], Any], otherwise: Any) -> Any:
    try:
        return read(RunFolder.open(folder))
    except DataError:
        return otherwise
