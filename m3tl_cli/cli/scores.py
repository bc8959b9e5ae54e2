"""The tables at the end of a run: a block each, seen against new, baselines, and what each stage cost. They fit 80 columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from m3tl_cli.cli.sink import duration
from m3tl_cli.core.results import block_order, block_parts, block_title

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from m3tl_cli.core.results import Cost, Results, Score, StageCost
    from m3tl_cli.report.blocks import Means, Quadrants, ShotTable

SHOTS = 4  # columns for numbers of shots, at most: more do not fit; the report has them all
NOTES = 4  # lines for notes, at most
ARROWS = {"higher": "↑", "lower": "↓"}
OWN_TABLE = ("b", "c")  # blocks whose tasks are listed; of the others the means are shown


def outcome(found: Results) -> list[RenderableType]:
    """Everything that a finished run says, from top to bottom.

    Args:
        found: Of a run with or without a target.
    """
    from rich.text import Text

    from m3tl_cli.report import blocks

    tables = {table.kind: table for table in blocks.shot_tables(found)}
    parts: list[list[RenderableType]] = []
    if "a" in found.blocks:
        # Where there is nothing else, the panel's title says what it is.
        parts.append([*([_title(block_title("a"))] if tables else []), _source(found), *_left_out(found)])
    what = "error reduction in %, before → adapted"
    parts += [[_title(block_title(kind), what), _shots(tables[kind])] for kind in OWN_TABLE if kind in tables]
    squares = blocks.quadrants(found)
    if squares:
        about = f"new tasks and target domains with {shots(squares[-1].num_shots)}"
        parts.append([_title("mean error reduction", about), _square(squares[-1])])
    if "old" in tables:
        parts.append([_forgetting(found, tables["old"].num_shots[-1])])
    beside = blocks.means(found)
    if beside is not None:
        parts.append([_title("beside its baselines", "mean error reduction in %, by block and shots"), _means(beside)])
    notes = [Text(f"note: {note}", "dim") for note in found.notes[:NOTES]]
    left = len(found.notes) - len(notes)
    more = [Text(f"and {left} more {'note' if left == 1 else 'notes'} in the report", "dim")] if left else []
    parts.append([*([_stages(found.stages)] if found.stages else []), Text(cost(found.cost), "dim"), *notes, *more])
    lines: list[RenderableType] = []
    for part in parts:
        lines += [*([Text()] if lines else []), *part]
    return lines


def shots(num: int) -> str:
    """`1 shot`, `5 shots`."""
    return f"{num} shot" if num == 1 else f"{num} shots"


def cost(found: Cost) -> str:
    """What a run cost, in a line or two."""
    networks = "1 network" if found.networks == 1 else f"{found.networks} networks"
    memory = f"{found.peak_memory / 2**20:.0f} MB" if found.peak_memory < 2**30 else f"{found.peak_memory / 2**30:.1f} GB"
    made = f" (+ {duration(found.seconds_prepare)} for the data)" if found.seconds_prepare >= 1 else ""
    labels = f" · {found.labels:,} labelled samples" if found.labels else ""
    return f"{found.parameters:,} parameters in {networks} · {found.updates} updates in {duration(found.seconds)}{made} · {memory}{labels}"


def _source(found: Results) -> Table:
    """Block a, with the score before the first inner step where there is one."""
    from m3tl_cli.report.blocks import reduction
    from m3tl_cli.report.many import picked

    start, results = found.blocks.get("a@0", {}), found.blocks["a"]
    table = _table("task", padding=1 if start else 2)
    for name in ("metric", "value", "trivial", "error reduction", *(["0 steps"] if start else [])):
        table.add_column(name, justify="left" if name == "metric" else "right", no_wrap=name != "metric")
    for name in picked({n: reduction(r.scores[r.primary]) for n, r in results.items()}):
        result = results[name]
        score = result.scores[result.primary]
        label = name if result.role == "main" else f"{name} (auxiliary)"
        cells: list[str | Text] = [label, _metric(result.primary, score), _value(score), _number(score.trivial), _share(reduction(score))]
        if name in start:
            cells.append(_share(reduction(start[name].scores[result.primary])))
        table.add_row(*cells)
    return table


def _left_out(found: Results) -> list[RenderableType]:
    """Of many tasks, what the table leaves out, and the mean over all of them."""
    from rich.text import Text

    from m3tl_cli.core.results import mean
    from m3tl_cli.report.blocks import reduction
    from m3tl_cli.report.many import ENDS, is_many

    results = found.blocks["a"]
    if not is_many(results):
        return []
    average = mean(reduction(r.scores[r.primary]) for r in results.values())
    which = f"{ENDS} worst, median, {ENDS} best of {len(results)} tasks, all in tables/"
    return [Text(f"{which}; mean {_percent(average)} %", "dim")]


def _shots(found: ShotTable) -> Table:
    """A line per task, a column per number of shots, and the metric itself at the most shots."""
    from rich.text import Text

    from m3tl_cli.report.blocks import few, reduction

    columns = few(found.num_shots, SHOTS)
    table = _table("task", padding=1)
    for n in columns:
        table.add_column(f"n={n}", justify="right", no_wrap=True)
    table.add_column("metric", no_wrap=True, overflow="ellipsis")
    table.add_column(f"at n={columns[-1]}", justify="right", no_wrap=True)
    table.add_column("trivial", justify="right", no_wrap=True)
    for row in found.rows:
        cells: list[str | Text] = [row.task]
        for n in columns:
            cell = row.cells.get(n)
            if cell is None:
                cells.append("")
                continue
            cut = reduction(cell.after)
            before = f"{_percent(reduction(cell.before))}→" if cell.before is not None else ""
            cells.append(Text(before, "dim").append(_percent(cut), f"not dim {_colour(cut)}"))
        last = row.cells.get(columns[-1])
        if last is not None:
            cells += [_metric(row.result.primary, last.after), _value(last.after), _number(last.after.trivial)]
        table.add_row(*cells)
    return table


def _square(found: Quadrants) -> Table:
    table = _table("")
    for name in ("source domains", "target domains"):
        table.add_column(name, justify="right")
    for name, *values in found.rows:
        table.add_row(name, *(_share(v) if math.isfinite(v) else "" for v in values))
    return table


def _forgetting(found: Results, num_shots: int) -> Text:
    from rich.text import Text

    from m3tl_cli.core.results import block_key
    from m3tl_cli.report.blocks import mean_reduction

    after = mean_reduction(found.blocks[block_key("old", num_shots)])
    first = found.blocks.get(block_key("b", num_shots))
    before = f"{mean_reduction(first):.1%} → " if first is not None else ""
    return (
        Text("Forgetting", "bold")
        .append(f" · seen tasks in target domains once new ones were added, {shots(num_shots)}\n", "not bold dim")
        .append(f"{before}{after:.1%}", f"not bold {_colour(after)}")
    )


def _means(found: Means) -> Table:
    """The run and its baselines, a line each; the columns of a kind of block begin with its letter."""
    from rich.text import Text

    from m3tl_cli.report.blocks import few

    numbers: dict[str, list[int]] = {}
    for kind, number in map(block_parts, found.keys):
        numbers.setdefault(kind, []).extend([] if number is None else [number])
    chosen = sorted(
        (key for key in found.keys if (p := block_parts(key))[1] is None or p[1] in few(numbers[p[0]], SHOTS)), key=block_order
    )[: 2 * SHOTS + 1]
    table = _table("", padding=1)
    seen: set[str] = set()
    for key in chosen:
        kind, number = block_parts(key)
        name = {"a": "source", "b": "seen", "c": "new"}.get(kind, kind) if kind not in seen else ""
        seen.add(kind)
        table.add_column(f"{name} {number}".strip() if number is not None else name, justify="right", no_wrap=True)
    for i, (label, values) in enumerate(found.rows):
        known = [(_percent(values[key]), values[key]) if key in values else ("", 0.0) for key in chosen]
        table.add_row(Text(label, "bold" if i == 0 else "not bold"), *(Text(words, _colour(value)) for words, value in known))
    return table


def _stages(found: Sequence[StageCost]) -> Table:
    from m3tl_cli.report.formats import flops

    table = _table("stage")
    for name in ("FLOPs", "updates", "samples", "forward", "backward", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in found:
        numbers = (stage.updates, stage.samples, stage.forward, stage.backward)
        label = f"{stage.stage} (cached)" if stage.cached else stage.stage
        table.add_row(label, flops(stage.flops), *(f"{n:,}" for n in numbers), duration(stage.seconds))
    return table


def _table(first: str, padding: int = 2) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, padding, 0, 0), header_style="dim")
    table.add_column(first, style="bold", no_wrap=bool(first))
    return table


def _title(text: str, soft: str = "") -> Text:
    from rich.text import Text

    return Text(text[:1].upper() + text[1:], "bold").append(f" · {soft}" if soft else "", "not bold dim")


def _colour(cut: float) -> str:
    return "green" if cut > 0 else "red"


def _share(cut: float) -> Text:
    from rich.text import Text

    return Text(f"{cut:.1%}" if math.isfinite(cut) else "n/a", _colour(cut))


def _percent(cut: float) -> str:
    """A share in percent without the sign, as short as it goes: far below the trivial predictor is far below it."""
    if not math.isfinite(cut):
        return "n/a"
    return str(round(100 * cut)) if cut > -0.995 else "<-99"


def _metric(name: str, score: Score) -> str:
    """The arrow stands first: a name that is too long loses its end."""
    return f"{ARROWS[score.direction]} {name}"


def _value(score: Score) -> str:
    return f"{_number(score.value)} {score.unit}".strip()


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"
