"""The sections of an ablation's page that are tables: every block and task with each run's own numbers, baselines, Table 1, the runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from m3tl_cli.core.errors import DataError
from m3tl_cli.core.results import block_title
from m3tl_cli.report.estimates import NOTHING, difference_cell, fixed, half, level_cell, linked, signed, soft, sure, told, under, value_cell
from m3tl_cli.report.formats import ARROWS, number, percent
from m3tl_cli.report.many import left_out, rising
from m3tl_cli.report.markup import framed, name, sentence
from m3tl_cli.report.read import RunFolder

if TYPE_CHECKING:
    from m3tl_cli.comparison.tables import Comparison, StatementRow, SummaryRow, TaskRow
    from m3tl_cli.report.traces import Traces


HURT = 4  # tasks that are named in the table of a block, at most; all are in the matrix of negative transfer


def blocks(found: Comparison, traces: Traces) -> str:
    """Every block: all settings over its tasks, then task by task; each row ends in its runs' own numbers, which lead to them."""
    html = [
        "<p class='soft'>Each row ends with what its runs measured themselves, seed by seed; these lead to the runs' own "
        "pages. \u0394m: mean relative change against single tasks, over metrics, or over tasks of their means. W/t/l: "
        f"cases (task and seed) more than {found.plan.margin:g} above, within it, below the reference. Shrunk: James-Stein estimate over "
        "the block's tasks.</p>"
    ]
    ordered = sorted(found.blocks, key=lambda b: b != found.plan.key)
    for block in ordered:
        inside = []
        for budget in sorted(found.budgets, key=lambda b: b != found.budget):
            under = f"<h3>Under {escape(budget)}</h3>" if len(found.budgets) > 1 else ""
            summary = [r for r in found.summary if (r.budget, r.block) == (budget, block)]
            rows = [r for r in found.rows if (r.budget, r.block) == (budget, block)]
            if summary or rows:
                each = _each(found, traces, budget, block, rows)
                inside.append(f"{under}{_summary(found, traces, summary)}{each}")
        if inside:
            outcome = ": the outcome that was planned" if block == found.plan.key and found.planned else ""
            opened = " open" if block == ordered[0] else ""
            html.append(f"<details{opened}><summary>{escape(sentence(block_title(block)))}{outcome}</summary>{''.join(inside)}</details>")
    return "".join(html) if len(html) > 1 else ""


def baselines(found: Comparison, traces: Traces) -> str:
    """What each setting's runs measured beside themselves: mean gain of every baseline, and how far the setting is above it."""
    rows = [r for r in found.baselines if r.budget == found.budget]
    if not rows:
        return ""
    own = {(r.block, r.arm): r.gain for r in found.summary if r.budget == found.budget}
    html = [
        "<p class='soft'>Mean normalised gain of each baseline, measured in the same run on the same samples, and below it how far the "
        "setting is above the baseline, paired over seeds: green where its interval lies above 0, red where below.</p>"
    ]
    there = [b for b in found.blocks if any(r.block == b for r in rows)]
    for block in sorted(there, key=lambda b: b != found.plan.key):
        known = {(r.arm, r.baseline): r for r in rows if r.block == block}
        names = list(dict.fromkeys(n for _, n in known))
        body = []
        for arm in (a for a in found.arms if any(x == a for x, _ in known)):
            to = traces.to(block, arm)
            cells = [level_cell(own[block, arm], to) if (block, arm) in own else NOTHING]
            for baseline in names:
                r = known.get((arm, baseline))
                if r is None:
                    cells.append(NOTHING)
                    continue
                mood = sure(r.advantage)
                above = under(signed(r.advantage.mean), mood or "soft")
                cells.append(f"<td title='{escape(told(r.advantage))}'>{linked(fixed(r.gain.mean), to)}{soft(half(r.gain))}{above}</td>")
            body.append(f"<tr><th scope='row'>{name(arm)}</th>{''.join(cells)}</tr>")
        head = "".join(f"<th scope='col'>{name(w)}</th>" for w in ("setting", "itself", *names))
        table = framed(sentence(block_title(block)), f"<tr>{head}</tr>", "".join(body), "full")
        opened = " open" if block == found.plan.key or len(there) == 1 else ""
        html.append(f"<details{opened}><summary>{escape(sentence(block_title(block)))}</summary>{table}</details>")
    return "".join(html)


def table_one(found: Comparison, traces: Traces) -> str:
    """Table 1 of the survey, each cell as a statement that the runs agree or disagree with."""
    if not found.table_one:
        return ""
    known = {(s.row, s.column): s for s in found.table_one}
    columns = list(dict.fromkeys(s.column for s in found.table_one))
    body = []
    for row in dict.fromkeys(s.row for s in found.table_one):
        definition = next(s.definition for s in found.table_one if s.row == row)
        cells = "".join(f"<td>{_statement(known[row, c], traces)}</td>" if (row, c) in known else NOTHING for c in columns)
        title = f"<th scope='rowgroup' colspan='{len(columns)}'><span>{escape(sentence(row))} {soft(definition)}</span></th>"
        body.append(f"<tr class='task'>{title}</tr><tr>{cells}</tr>")
    answers = [s.answer for s in found.table_one]
    counted = ", ".join(f"{answers.count(a)} {a}" for a in dict.fromkeys(("agrees", "disagrees", "undecided", *answers)) if a in answers)
    head = "".join(f"<th scope='col'>{escape(w)}</th>" for w in columns)
    caption = f"What the survey says (in italics) and what these runs say of it: of {len(answers)} cells {counted}"
    return framed(caption, f"<tr>{head}</tr>", "".join(body), "full words statements")


def runs(found: Comparison, traces: Traces) -> str:
    """Every run by setting and seed, each leading to its own page; then what is not there, and why."""
    gone = lost(found)
    columns = sorted({*found.seeds, *(found.plan.seeds if found.planned else ()), *(seed for _, seed in gone if seed is not None)})
    arms = list(dict.fromkeys((*(found.plan.arms if found.planned else ()), *found.arms)))
    arms.sort(key=lambda arm: found.arms.index(arm) if arm in found.arms else len(found.arms))
    body = []
    for arm in arms:
        cells = []
        for seed in columns:
            there = [i for i, run in enumerate(found.runs) if (run.arm, run.seed) == (arm, seed)]
            words = [_outcome(found, traces, i, several=len(there) > 1) for i in there]
            if not there:
                state = gone.get((arm, seed), "missing")
                planned = found.planned and arm in found.plan.arms and seed in found.plan.seeds
                words = [f"<span class='bad'>{escape(state)}</span>"] if planned or (arm, seed) in gone else []
            cells.append(f"<td>{'<br>'.join(words)}</td>")
        mark = f" id='{traces.runs_row(arm)}'" if arm in found.arms else ""
        body.append(f"<tr{mark}><th scope='row'>{name(arm)}</th>{''.join(cells)}</tr>")
    head = "".join(f"<th scope='col'>{w}</th>" for w in ("setting", *(f"seed {s}" for s in columns)))
    return framed(
        f"The outcome of every run, which leads to its own page: {block_title(found.plan.key)}", f"<tr>{head}</tr>", "".join(body), "full"
    ) + missing(found, traces)


def missing(found: Comparison, traces: Traces) -> str:
    """Runs that could not be used, and the reason of each."""
    if not found.missing:
        return ""
    rows, gone = [], lost(found)
    for m in found.missing:
        folder = Path(m.folder)
        if not m.folder and (m.arm, m.seed) in gone:
            continue
        if m.folder:
            label, reason = linked(folder.name, traces.link(folder)), why(m.reason)
        else:
            label, reason = escape(f"{m.arm}, seed {m.seed}"), m.reason
        rows.append(f"<tr><th scope='row'>{label}</th><td>{escape(reason)}</td></tr>")
    head = "<tr><th scope='col'>run</th><th scope='col'>why</th></tr>"
    return framed("Runs that are not in any number on this page", head, "".join(rows), "left")


def _outcome(found: Comparison, traces: Traces, run: int, *, several: bool) -> str:
    """What a run has on the outcome's block, or just that it is there; its budget where there is one for each."""
    budgets = found.runs[run].budgets
    gain = traces.gain(budgets[0], run, found.plan.key) if budgets else math.nan
    text = fixed(gain) if math.isfinite(gain) else "run"
    return linked(text, traces.links[run]) + (under(" and ".join(budgets)) if several else "")


def why(reason: str) -> str:
    """The part of a reason that says what was found."""
    return reason.rpartition("; found ")[2].removesuffix(".")


def lost(found: Comparison) -> dict[tuple[str, int | None], str]:
    """State of runs that left a folder and no results, by arm and seed as far as their config says."""
    made: dict[tuple[str, int | None], str] = {}
    for m in found.missing:
        if not m.folder:
            continue
        try:
            folder = RunFolder.open(Path(m.folder))
            paradigm = folder.config.get("paradigm", {})
            setting, seed = str(paradigm.get("name", "")) if isinstance(paradigm, Mapping) else "", folder.config.get("seed")
            state = folder.status.state.lower()
        except DataError:
            continue
        # With axes a setting has several arms, and its folder is told by its name in the list below.
        if setting in {*found.arms, *found.plan.arms} and isinstance(seed, int):
            made[setting, seed] = state
    return made


def _summary(found: Comparison, traces: Traces, rows: Sequence[SummaryRow]) -> str:
    if not rows:
        return ""
    across = any(math.isfinite(r.across_tasks.mean) for r in rows)
    body = []
    for r in rows:
        to = traces.to_runs(r.arm)
        cells = [level_cell(r.gain, to)]
        own = found.references.get(r.arm, r.arm) == r.arm
        if own:
            cells += [NOTHING] * 3 + [f"<td>{linked(fixed(r.rank, 2), to)}</td>"] + [NOTHING] * (3 + across)
        else:
            cells += [difference_cell(r.difference, to), difference_cell(r.delta_m_metrics, to), difference_cell(r.delta_m_tasks, to)]
            cells += [f"<td>{linked(fixed(r.rank, 2), to)}</td><td>{r.wins}/{r.ties}/{r.losses}</td>"]
            cells += [f"<td>{escape(r.worst_task)} {linked(signed(r.worst.mean), traces.to(r.block, r.arm, r.worst_task, r.budget))}</td>"]
            cells += [f"<td class='{'bad' if r.hurt else 'soft'}'>{_hurt(r)}</td>"]
            cells += [difference_cell(r.across_tasks, to)] if across else []
        cells += _seed_cells(found, traces, r.budget, r.arm, r.block, "")
        mark = traces.row(r.budget, r.block, r.arm)
        chosen = (
            " class='primary'" if r.arm == max(rows, key=lambda x: x.gain.mean if math.isfinite(x.gain.mean) else -math.inf).arm else ""
        )
        body.append(f"<tr id='{mark}'{chosen}><th scope='row'>{name(r.arm)}</th>{''.join(cells)}</tr>")
    words = ["setting", "gain", "minus reference", "\u0394m, metrics", "\u0394m, tasks", "rank", "w/t/l", "worst task", "surely worse"]
    words += ["other tasks"] if across else []
    head = "".join(f"<th scope='col'>{escape(w)}</th>" for w in (*words, *(f"seed {s}" for s in found.seeds)))
    shrink = next((r.shrink_factor for r in rows if math.isfinite(r.shrink_factor)), math.nan)
    also = "; `other tasks`: interval with tasks as the unit, what may be claimed of tasks like these" if across else ""
    also += "; gain differences per task are shrunk to their mean below" if math.isfinite(shrink) else ""
    caption = f"Mean normalised gain over {rows[0].num_tasks} task{'' if rows[0].num_tasks == 1 else 's'}, and by seed{also}"
    return framed(caption, f"<tr>{head}</tr>", "".join(body), "full")


def _hurt(row: SummaryRow) -> str:
    """Tasks that are surely worse, by name; of many how many, leading to the matrix that has them."""
    if len(row.hurt) > HURT:
        return linked(f"{len(row.hurt)} of {row.num_tasks}", "#negative-transfer")
    return ", ".join(map(name, row.hurt)) or "none"


def _task(found: Comparison, traces: Traces, rows: Sequence[TaskRow]) -> str:
    """One task: its primary metric by setting and seed, its other metrics beside it."""
    first = next((r for r in rows if r.primary), rows[0])
    known = {(r.arm, r.metric): r for r in rows}
    others = [m for m in dict.fromkeys(r.metric for r in rows) if m != first.metric]
    shrunk = any(math.isfinite(r.shrunk) for r in rows)
    body = []
    for arm in dict.fromkeys(r.arm for r in rows):
        main = known.get((arm, first.metric))
        if main is None:
            continue
        to, own = traces.to_runs(arm), found.references.get(arm, arm) == arm
        cells = [value_cell(main.value, to), level_cell(main.gain, to)]
        cells += [NOTHING, NOTHING] if own else [difference_cell(main.gain_difference, to), _share(main, to)]
        cells += [f"<td>{linked(signed(main.shrunk), to)}</td>" if math.isfinite(main.shrunk) else NOTHING] if shrunk else []
        cells += [value_cell(known[arm, m].value, to) if (arm, m) in known else NOTHING for m in others]
        cells += _seed_cells(found, traces, main.budget, arm, main.block, main.task)
        mark = traces.row(main.budget, main.block, arm, main.task)
        body.append(f"<tr id='{mark}'><th scope='row'>{name(arm)}</th>{''.join(cells)}</tr>")
    units = {m: next((f" [{r.unit}]" if r.unit else "") for r in rows if r.metric == m) for m in (first.metric, *others)}
    arrows = {m: ARROWS[next(r.direction for r in rows if r.metric == m)] for m in units}
    metrics = [f"{name(m)}{escape(units[m])}&nbsp;{arrows[m]}" for m in (first.metric, *others)]
    words = [
        metrics[0],
        "gain",
        "gain minus reference",
        "change",
        *(["shrunk"] if shrunk else []),
        *metrics[1:],
        *(f"seed {s}" for s in found.seeds),
    ]
    head = "".join(f"<th scope='col'>{w}</th>" for w in ("setting", *words))
    about = ", ".join(x for x in (first.kind, first.role) if x not in (first.task, "main"))
    trivial = f"the trivial predictor has {number(first.trivial, first.unit)}" if math.isfinite(first.trivial) else ""
    caption = f"{first.task}{f' ({about})' if about else ''}: {first.metric}; {trivial}"
    return framed(caption, f"<tr>{head}</tr>", "".join(body), "full")


def _each(found: Comparison, traces: Traces, budget: str, block: str, rows: Sequence[TaskRow]) -> str:
    """A table per task. Of many tasks: on the outcome's block a table per setting, elsewhere a few tasks."""
    tasks = dict.fromkeys(r.task for r in rows)
    of: dict[str, list[TaskRow]] = {}
    for row in rows:
        of.setdefault(row.task, []).append(row)
    if not traces.is_many(block):
        return "".join(_task(found, traces, of[task]) for task in tasks)
    if (budget, block) == (found.budget, found.plan.key):
        primary = [r for r in rows if r.primary]
        each = "".join(_every_task(found, traces, arm, [r for r in primary if r.arm == arm]) for arm in found.arms)
        return f"<p class='soft'>All {len(tasks)} tasks of every setting; other metrics are in <code>tables/tasks.csv</code>.</p>{each}"
    shown = "".join(_task(found, traces, of[task]) for task in traces.few(block) if task in of)
    return left_out(len(tasks), f"gain difference on {escape(block_title(block))}", "<code>tables/tasks.csv</code>") + shown


def _every_task(found: Comparison, traces: Traces, arm: str, rows: Sequence[TaskRow]) -> str:
    """One setting over many tasks, the one that lost most first."""
    if not rows:
        return ""
    own = found.references.get(arm, arm) == arm
    to, shrunk = traces.to_runs(arm), any(math.isfinite(r.shrunk) for r in rows) and not own
    known = {r.task: r for r in rows}
    metrics = {(r.metric, r.unit, r.direction) for r in rows}
    body = []
    for task in rising({r.task: (r.gain if own else r.gain_difference).mean for r in rows}):
        r = known[task]
        cells = [value_cell(r.value, to), level_cell(r.gain, to)]
        cells += [] if own else [difference_cell(r.gain_difference, to), _share(r, to)]
        cells += [f"<td>{linked(signed(r.shrunk), to)}</td>" if math.isfinite(r.shrunk) else NOTHING] if shrunk else []
        cells += _seed_cells(found, traces, r.budget, arm, r.block, task)
        about = "" if len(metrics) == 1 else soft(f" {r.metric}{f' [{r.unit}]' if r.unit else ''} {ARROWS[r.direction]}")
        body.append(f"<tr id='{traces.row(r.budget, r.block, arm, task)}'><th scope='row'>{name(task)}{about}</th>{''.join(cells)}</tr>")
    first = rows[0]
    metric = f"{first.metric}{f' [{first.unit}]' if first.unit else ''}\u00a0{ARROWS[first.direction]}" if len(metrics) == 1 else "value"
    words = [metric, "gain", *([] if own else ["gain minus reference", "change"]), *(["shrunk"] if shrunk else [])]
    head = "".join(f"<th scope='col'>{name(w)}</th>" for w in ("task", *words, *(f"seed {s}" for s in found.seeds)))
    title = f"{arm}, task by task, the {'lowest gain' if own else 'largest loss'} first"
    return f"<details><summary>{escape(title)}</summary>{framed(title, f'<tr>{head}</tr>', ''.join(body), 'full')}</details>"


def _share(row: TaskRow, to: str) -> str:
    """Relative change of a metric, as a whole percentage."""
    e = row.relative
    if not math.isfinite(e.mean):
        return NOTHING
    mood = sure(e)
    tip = f"{percent(e.low)} to {percent(e.high)}" if math.isfinite(e.low) else ""
    word = linked(f"{'+' if e.mean > 0 else ''}{percent(e.mean)}", to)
    return f"<td{f' class={mood}' if mood else ''} title='{escape(tip)}'>{word}</td>"


def _seed_cells(found: Comparison, traces: Traces, budget: str, arm: str, block: str, task: str) -> list[str]:
    """What each run of an arm measured itself, leading to its page."""
    cells = []
    for seed in found.seeds:
        run = traces.run(budget, arm, seed)
        if run is None:
            cells.append("<td class='soft'>\u2013</td>")
            continue
        if task:
            score = traces.score(run, block, task)
            text = number(score.value) if score else ""
        else:
            text = fixed(gain) if math.isfinite(gain := traces.gain(budget, run, block)) else ""
        cells.append(f"<td class='own'>{linked(text or 'run', traces.links[run])}</td>")
    return cells


def _statement(found: StatementRow, traces: Traces) -> str:
    value = found.value
    measured = (
        f" {signed(value.mean)}, {signed(value.low)} to {signed(value.high)}" if value is not None and math.isfinite(value.low) else ""
    )
    runs_of = linked(found.arm, traces.to_runs(found.arm)) if found.arm else ""
    return (
        f"<i>{escape(found.hypothesis)}</i><br><span class='answer {found.answer}'>{found.answer}</span><br>"
        f"<span class='soft'>{escape(found.measured)}{':' if measured else ''}</span>{escape(measured)} {runs_of}"
    )
