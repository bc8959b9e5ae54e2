"""The tables of a comparison as a person reads them: settings are rows, a table per block, 80 columns; and the same in other formats."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m3tl_cli.cli.sink import duration
from m3tl_cli.core.results import block_order, block_parts, block_title

if TYPE_CHECKING:
    from rich.console import RenderableType

    from m3tl_cli.comparison.statistics import Estimate
    from m3tl_cli.comparison.tables import Comparison, CostRow, SummaryRow

WIDTH = 80
GAP = 2  # between columns
LABEL = 20  # columns of the terminal for an arm's label; longer ones go on below
TASKS = 6  # columns for tasks, at most: the files have them all
TASK_LENGTH = 9  # characters of a task's name over a column
FLAGS = 8  # lines of flags on the terminal, at most
COSTS = ("flops", "updates", "forward", "backward", "seconds", "parameters", "peak_memory")

CSV: Mapping[str, str] = {
    "contrasts": "contrasts",
    "summary": "summary",
    "rows": "tasks",
    "baselines": "baselines",
    "effects": "effects",
    "savings": "savings",
    "steps": "steps",
    "costs": "costs",
    "pareto": "pareto",
    "transference": "transference",
    "table_one": "table_one",
    "runs": "runs",
    "missing": "missing",
}
"""Field of a `Comparison` to the stem of its CSV file."""


@dataclass(frozen=True)
class Grid:
    """A table in words.

    Args:
        title: What it shows.
        about: Softer words beside the title.
        columns: Headings; the first is that of the rows.
        rows: A word per column.
        words: Columns that hold words, not numbers, by number; the first always does.
        terminal: Whether it is among those that the terminal shows.
        narrow: Whether the terminal shortens its headings, and leaves columns out that have no room.
        document: Whether it is among those of a document.
    """

    title: str
    about: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: frozenset[int] = field(default_factory=frozenset)
    terminal: bool = True
    narrow: bool = False
    document: bool = True


def grids(found: Comparison) -> list[Grid]:
    """Every table that people read, in the order of reading; empty ones are left out."""
    made: list[Grid] = [_contrasts(found)]
    for budget in _budgets(found):
        made += [_block(found, budget, block) for block in shown_blocks(found)]
    made += [*_tasks(found), _baselines(found), _effects(found), _savings(found)]
    made += [_costs(found, budget) for budget in _budgets(found)]
    made += [_table_one(found)]
    return [grid for grid in made if grid.rows]


def shown_blocks(found: Comparison) -> list[str]:
    """The outcome's block first, then one of each other kind, at the outcome's number of shots where there is one."""
    shots = found.plan.num_shots
    kinds: dict[str, list[str]] = {}
    for key in found.blocks:
        kinds.setdefault(block_parts(key)[0], []).append(key)
    chosen = []
    for kind, keys in kinds.items():
        same = [key for key in keys if block_parts(key)[1] == shots]
        plain = [key for key in keys if block_parts(key)[1] is None]
        chosen.append((plain if kind == "a" and plain else same or plain or keys[-1:])[0])
    ordered = sorted(chosen, key=block_order)
    return sorted(ordered, key=lambda key: key != found.plan.key)


def terminal(found: Comparison, *, unread: bool = True) -> list[RenderableType]:
    """What the terminal shows, from the verdict to what a reader must know beside it.

    Args:
        found: The comparison.
        unread: Whether to list runs that could not be used, and why.
    """
    from rich.text import Text

    parts: list[RenderableType] = [Text(found.verdict, "bold"), Text(_about(found), "dim")]
    for grid in grids(found):
        if grid.terminal:
            parts += [Text(), *_drawn(grid)]
    lost = [f"not used: {Path(m.folder).name}: {m.reason.rpartition('; found ')[2]}" for m in found.missing if m.folder and unread]
    notes = [*found.flags, *lost]
    parts += [Text()] if notes else []
    parts += [Text(f"! {note}", "yellow") for note in notes[:FLAGS]]
    parts += [Text(f"and {len(notes) - FLAGS} more of these in comparison.json", "dim")] if len(notes) > FLAGS else []
    return parts


def _drawn(grid: Grid) -> Iterator[RenderableType]:
    """Heading and table in 80 columns: a long label goes on below, a last column of words loses its end, and numbers stay whole."""
    from rich.table import Table
    from rich.text import Text

    about, names = grid.about, list(grid.columns)
    if grid.narrow:
        lost = len(names) - 1 - TASKS
        about += f"; {TASKS} of {len(names) - 1}, all in tables/tasks.csv" if lost > 0 else ""
        names = [names[0], *(_cut(name, TASK_LENGTH) for name in names[1 : TASKS + 1])]
    yield Text(grid.title, "bold").append(f" · {about}" if about else "", "not bold dim")
    lines = [row[: len(names)] for row in grid.rows]
    last = len(names) - 1
    widths = [max(map(len, (name, *(line[n] for line in lines)))) for n, name in enumerate(names)]
    widths[0] = min(widths[0], LABEL if last > 3 else WIDTH - sum(widths[1:]) - GAP * last)
    room = WIDTH - sum(widths[:last]) - GAP * last
    if last in grid.words and room < len(names[last]) < widths[last]:
        names, last = names[:last], last - 1  # no room for words of any use
    table = Table(box=None, padding=(0, GAP, 0, 0), header_style="dim", pad_edge=False)
    for number, name in enumerate(names):
        left = number == 0 or number in grid.words
        table.add_column(
            name,
            justify="left" if left else "right",
            style="bold" if number == 0 else "",
            width=None if number else widths[0],
            overflow="ellipsis" if number else "fold",
        )
    for line in lines:
        line = (_broken(line[0], widths[0]), *line[1 : last + 1])
        table.add_row(*(Text(_cut(word, room) if number == last and number in grid.words else word) for number, word in enumerate(line)))
    yield table


def _broken(label: str, width: int) -> str:
    """A label whose values go on below their keys where both together are too long: two arms of an axis differ at their ends."""
    return " ".join(word if len(word) <= width else word.replace("=", "= ", 1) for word in label.split(" "))


def _in_document(grid: Grid) -> bool:
    return grid.document


def _cut(text: str, length: int) -> str:
    """A word of at most so many characters; a number at its end, which tells tasks apart, is kept."""
    if len(text) <= length:
        return text
    tail = text[len(text.rstrip("0123456789")) :][-(length // 2) :]
    return f"{text[: length - 1 - len(tail)]}…{tail}"


def markdown(found: Comparison) -> str:
    """A document: verdict, tables, what a reader must know, and the runs that all numbers come from."""
    lines = ["# Comparison", "", found.verdict, "", _about(found), ""]
    for grid in filter(_in_document, grids(found)):
        rule = ["---" if n == 0 or n in grid.words else "---:" for n in range(len(grid.columns))]
        lines += [f"## {grid.title}", "", *([grid.about, ""] if grid.about else [])]
        lines += ["| " + " | ".join(w.replace("|", "\\|") or " " for w in row) + " |" for row in (grid.columns, tuple(rule), *grid.rows)]
        lines.append("")
    if found.flags or found.missing:
        lines += ["## What to know", "", *(f"* {flag}" for flag in found.flags)]
        lines += [
            f"* {' '.join(filter(None, (m.folder or m.arm, '' if m.seed is None else f'seed {m.seed}')))}: {m.reason}"
            for m in found.missing
        ]
        lines.append("")
    lines += ["## Runs", "", *(f"* {run.arm}, seed {run.seed}: `{run.folder}`" for run in found.runs), ""]
    return "\n".join(lines)


def latex(found: Comparison) -> str:
    """A `table` environment per table; needs the package booktabs."""
    made = ["% \\usepackage{booktabs}", f"% {found.verdict}", ""]
    for grid in filter(_in_document, grids(found)):
        align = "".join("l" if n == 0 or n in grid.words else "r" for n in range(len(grid.columns)))
        caption = _tex(f"{grid.title}{'. ' + grid.about if grid.about else ''}")
        made += ["\\begin{table}", "\\centering", f"\\caption{{{caption}}}", f"\\begin{{tabular}}{{{align}}}", "\\toprule"]
        made += [" & ".join(map(_tex, grid.columns)) + " \\\\", "\\midrule"]
        made += [" & ".join(map(_tex, row)) + " \\\\" for row in grid.rows]
        made += ["\\bottomrule", "\\end{tabular}", "\\end{table}", ""]
    return "\n".join(made)


def csv_files(found: Comparison) -> dict[str, str]:
    """File name to text: every row of every table with all its digits, and the folders of the runs behind it."""
    made = {}
    for name, stem in CSV.items():
        rows = [dict(_cells(row, found)) for row in getattr(found, name)]
        if not rows:
            continue
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        made[f"{stem}.csv"] = text.getvalue()
    return made


def _cells(row: Any, found: Comparison) -> Iterator[tuple[str, Any]]:
    """A row's fields as CSV cells; an estimate has a cell for each end of its interval, and for its seeds."""
    for f in dataclasses.fields(row):
        value = getattr(row, f.name)
        if f.name == "runs":
            yield "runs", ";".join(found.folders(value))
        elif _is_estimate(value):
            yield from (
                (f.name if part == "mean" else f"{f.name}_{part}", _cell(getattr(value, part))) for part in ("mean", "low", "high", "seeds")
            )
        else:
            yield f.name, _cell(value)


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else value
    if isinstance(value, Mapping):
        return json.dumps(value)
    if isinstance(value, tuple):
        return ";".join(str(_cell(v.mean if _is_estimate(v) else v)) for v in value)
    return "" if value is None else value


def _is_estimate(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and {"mean", "low", "high"} <= {f.name for f in dataclasses.fields(value)}


def _about(found: Comparison) -> str:
    planned = "Planned before the first run" if found.planned else "No plan from before the runs: nothing here is more than exploratory"
    seeds = f"{len(found.seeds)} seed{'' if len(found.seeds) == 1 else 's'}"
    runs = f"{len(found.runs)} run{'' if len(found.runs) == 1 else 's'}"
    return (
        f"{planned}. {runs}, {seeds}, decided under {found.budget}. ± is half of a {100 * (1 - found.plan.alpha):g} % interval over seeds."
    )


def _budgets(found: Comparison) -> list[str]:
    """The deciding one first."""
    return sorted(found.budgets, key=lambda budget: budget != found.budget)


def _under(found: Comparison, budget: str) -> str:
    return f" under {budget}" if len(found.budgets) > 1 else ""


def _contrasts(found: Comparison) -> Grid:
    rows = []
    for verdict in found.contrasts:
        name = verdict.name + (f" ({verdict.chosen})" if verdict.chosen else "")
        adjusted = _short(verdict.p_adjusted) if verdict.answer not in ("exploratory", "missing") else ""
        rows.append((name, _signed(verdict.difference), adjusted, verdict.answer))
    kind = "Confirmatory contrasts" if found.planned else "Contrasts"
    return Grid(
        kind,
        f"{block_title(found.plan.key)}; normalised gain",
        ("contrast", "difference", "adjusted p", "answer"),
        tuple(rows),
        frozenset({3}),
    )


def _block(found: Comparison, budget: str, block: str) -> Grid:
    base = _reference(found)
    rows = [_summary(found, row) for row in found.summary if row.budget == budget and row.block == block]
    short = base if len(base) < LABEL else "reference"
    outcome = ("; the outcome" if block == found.plan.key else "") + (f"; the reference is {base}" if short != base else "")
    for kind, word in (("baseline", "beside the settings"), ("upper_bound", "saw all target labels")):
        arms = [row.arm for row in found.summary if (row.budget, row.block) == (budget, block) and found.beside.get(row.arm) == kind]
        outcome += f"; {word}: {', '.join(arms)}" if arms else ""
    title = f"{_upper(block_title(block))}{_under(found, budget)}"
    columns = ("setting", "gain", f"minus {short}", "Δm %", "rank", "w/t/l", "worst task")
    return Grid(
        title, f"normalised gain{outcome}", columns, tuple(rows), frozenset({6}), terminal=budget == found.budget or block == found.plan.key
    )


def _summary(found: Comparison, row: SummaryRow) -> tuple[str, ...]:
    own = found.references.get(row.arm) == row.arm
    nothing = ("", "", _fixed(row.rank, 1), "", "")
    if own or not math.isfinite(row.difference.mean):
        return (row.arm, _estimate(row.gain), *nothing)
    worst = f"{row.worst.mean:+.2f} {row.worst_task}" if row.worst_task else ""
    delta = f"{100 * row.delta_m_tasks.mean:+.1f}" if math.isfinite(row.delta_m_tasks.mean) else ""
    return (row.arm, _estimate(row.gain), _signed(row.difference), delta, _fixed(row.rank, 1), f"{row.wins}/{row.ties}/{row.losses}", worst)


def _tasks(found: Comparison) -> list[Grid]:
    """Settings are rows and tasks columns; of many tasks the ends for the terminal, and for a document all of them as rows."""
    from m3tl_cli.report.many import is_many, rising
    from m3tl_cli.report.traces import Traces

    rows = [r for r in found.rows if r.budget == found.budget and r.block == found.plan.key and r.primary]
    tasks = list(dict.fromkeys(r.task for r in rows))
    known = {(r.arm, r.task): _fixed(r.gain.mean, 3) for r in rows}
    arms = [arm for arm in found.arms if any((arm, t) in known for t in tasks)]
    about = f"{block_title(found.plan.key)}; normalised gain"

    def wide(title: str, about: str, shown: Sequence[str], *, document: bool) -> Grid:
        table = tuple((arm, *(known.get((arm, t), "") for t in shown)) for arm in arms)
        return Grid(title, about, ("setting", *shown), table, narrow=True, document=document)

    if not is_many(tasks):
        return [wide("Task by task", about, tasks, document=True)]
    ranked = rising(Traces(found, Path()).ranks[found.plan.key])
    ends = [*ranked[: TASKS // 2], *ranked[-TASKS // 2 :]]
    told = f"{about}; of {len(tasks)} the {TASKS // 2} that lose and the {TASKS // 2} that gain most, all in tables/tasks.csv"
    tall = tuple((task, *(known.get((arm, task), "") for arm in arms)) for task in ranked)
    return [
        wide("Task by task", told, ends, document=False),
        Grid("Task by task", f"{about}; the largest loss first", ("task", *arms), tall, terminal=False),
    ]


def _baselines(found: Comparison) -> Grid:
    rows = [r for r in found.baselines if r.budget == found.budget and r.block == found.plan.key]
    names = list(dict.fromkeys(r.baseline for r in rows))
    known = {(r.arm, r.baseline): r for r in rows}
    own = {r.arm: r.gain for r in found.summary if r.budget == found.budget and r.block == found.plan.key}
    table = tuple(
        (
            arm,
            _fixed(own[arm].mean, 3) if arm in own else "",
            *(_fixed(known[arm, n].gain.mean, 3) if (arm, n) in known else "" for n in names),
        )
        for arm in found.arms
        if any((arm, n) in known for n in names)
    )
    return Grid("Beside its baselines", f"{block_title(found.plan.key)}; normalised gain", ("setting", "itself", *names), table)


def _effects(found: Comparison) -> Grid:
    rows = tuple((r.term, _signed(r.effect)) for r in found.effects if r.budget == found.budget and r.block == found.plan.key)
    return Grid("Effects of the switches", f"{block_title(found.plan.key)}; descriptive", ("term", "effect"), rows, terminal=False)


def _savings(found: Comparison) -> Grid:
    rows = tuple(
        (
            f"{r.arm}, {r.block}",
            ", ".join(f"{n}: {_fixed(g.mean, 3)}" for n, g in zip(r.num_shots, r.gains, strict=True)),
            "never" if r.kind == "never" else f"{'at most ' if r.kind == 'at most' else ''}{r.samples:.3g}",
            f"{'≥ ' if r.kind == 'at most' else ''}{r.saved:.2f}" if math.isfinite(r.saved) else "",
            _estimate(r.exponent),
        )
        for r in found.savings
        if r.budget == found.budget and not r.task
    )
    about = "labelled samples a task until the reference's gain at its most shots, how many times fewer, and b of 1 - gain = a n^-b"
    return Grid(
        "Data saved", about, ("setting, block", "gain by shots", "samples", "saved", "exponent"), rows, frozenset({1}), terminal=False
    )


def _costs(found: Comparison, budget: str) -> Grid:
    known = {(r.arm, r.column): r for r in found.costs if r.budget == budget and r.stage == "all"}
    arms = [arm for arm in found.arms if any(a == arm for a, _ in known)]
    columns = [column for column in COSTS if any((arm, column) in known for arm in arms)]
    names = {"flops": "FLOPs", "parameters": "params", "peak_memory": "memory", "seconds": "time"}
    rows = tuple((arm, *(_cost(known.get((arm, column))) for column in columns)) for arm in arms)
    about = "mean of a run, all stages; work shared through the cache counted in each run that needs it"
    return Grid(f"Cost{_under(found, budget)}", about, ("setting", *(names.get(c, c) for c in columns)), rows)


def _cost(row: CostRow | None) -> str:
    from m3tl_cli.report.formats import flops

    if row is None:
        return ""
    units: Mapping[str, Callable[[float], str]] = {"FLOP": flops, "s": duration, "B": _memory}
    return units.get(row.unit, _large)(row.value.mean)


def _table_one(found: Comparison) -> Grid:
    rows = tuple((r.row, r.column, r.hypothesis, r.measured, r.answer) for r in found.table_one)
    columns = ("row", "column", "survey says", "measured", "answer")
    return Grid("The survey's Table 1, measured", "", columns, rows, frozenset(range(5)), terminal=False)


def _reference(found: Comparison) -> str:
    bases = set(found.references.values())
    return next(iter(bases)) if len(bases) == 1 else found.plan.reference


def _estimate(e: Estimate) -> str:
    return f"{_fixed(e.mean, 3)}{_half(e)}"


def _signed(e: Estimate) -> str:
    return f"{e.mean:+.3f}{_half(e)}" if math.isfinite(e.mean) else ""


def _half(e: Estimate) -> str:
    return f" ± {(e.high - e.low) / 2:.3f}" if math.isfinite(e.low) and math.isfinite(e.high) else ""


def _fixed(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else ""


def _short(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else ""


def _large(value: float) -> str:
    """Four digits at most: `9800`, `98.0k`, `1.2M`."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size and value >= 1e4:
            return f"{value / size:.1f}{unit}"
    return f"{value:.0f}"


def _memory(value: float) -> str:
    return f"{value / 2**20:.0f} MB" if value < 2**30 else f"{value / 2**30:.1f} GB"


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


_TEX = {
    "&": "\\&",
    "%": "\\%",
    "_": "\\_",
    "#": "\\#",
    "$": "\\$",
    "{": "\\{",
    "}": "\\}",
    "±": "$\\pm$",
    "Δ": "$\\Delta$",
    "≥": "$\\geq$",
    "…": "\\dots{}",
}


def _tex(text: str) -> str:
    """Words with what TeX would read as commands escaped."""
    return "".join(_TEX.get(c, "\\textbackslash{}" if c == "\\" else c) for c in text)
