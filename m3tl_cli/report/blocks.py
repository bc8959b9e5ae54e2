"""The blocks of a finished run, arranged as the terminal and the page show them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from m3tl_cli.core.results import Curve, Results, Score, TaskResult, block_key, block_order, block_parts, mean
from m3tl_cli.report.many import picked


@dataclass(frozen=True)
class Cell:
    """A task's primary metric after adaptation, and before its first step where that was measured.

    Args:
        after: The score that counts.
        before: The same after zero steps.
    """

    after: Score
    before: Score | None


@dataclass(frozen=True)
class Row:
    """One task over the numbers of shots."""

    task: str
    result: TaskResult
    cells: Mapping[int, Cell]


@dataclass(frozen=True)
class ShotTable:
    """All blocks of one kind.

    Args:
        kind: As in `core.results.BLOCKS`.
        num_shots: Rising.
        rows: Tasks in the order of the results.
    """

    kind: str
    num_shots: tuple[int, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Quadrants:
    """Mean error reduction over main tasks, for {seen, new} tasks in {source, target} domains; NaN where not measured.

    Args:
        num_shots: Of new tasks and of target domains. Seen tasks in source domains have all their training labels.
    """

    num_shots: int
    seen_source: float
    seen_target: float
    new_source: float
    new_target: float

    @property
    def rows(self) -> tuple[tuple[str, float, float], ...]:
        """Name, source and target domains, of the tasks of which at least one was measured."""
        both = (("seen tasks", self.seen_source, self.seen_target), ("new tasks", self.new_source, self.new_target))
        return tuple(row for row in both if any(map(math.isfinite, row[1:])))


@dataclass(frozen=True)
class Means:
    """Mean error reduction over main tasks of the run and of its baselines.

    Args:
        keys: Block keys, in order: the columns.
        rows: Name and mean per key, which may lack some: the run itself, under the name of its paradigm, comes first.
    """

    keys: tuple[str, ...]
    rows: tuple[tuple[str, Mapping[str, float]], ...]


def reduction(score: Score) -> float:
    """As `Score.error_reduction`; NaN where a number is missing."""
    return score.error_reduction if all(map(math.isfinite, (score.value, score.trivial, score.perfect))) else math.nan


def primaries(tasks: Mapping[str, TaskResult]) -> dict[str, Score]:
    """The primary scores of the main tasks that have one."""
    return {name: task.scores[task.primary] for name, task in tasks.items() if task.role == "main" and task.primary in task.scores}


def mean_reduction(tasks: Mapping[str, TaskResult]) -> float:
    """Mean error reduction over main tasks; NaN without any."""
    return mean(map(reduction, primaries(tasks).values()))


def keys(results: Results) -> list[str]:
    """Of all blocks, in the order to show."""
    return sorted(results.blocks, key=block_order)


def is_shot_block(key: str) -> bool:
    """Whether the number of a block's key is a number of shots."""
    kind, number = block_parts(key)
    return number is not None and kind != "a"


def shot_tables(results: Results) -> list[ShotTable]:
    """One table per kind of block that depends on the number of shots."""
    kinds = dict.fromkeys(block_parts(key)[0] for key in keys(results) if is_shot_block(key))
    return [_shot_table(results, kind) for kind in kinds]


def quadrants(results: Results) -> list[Quadrants]:
    """Seen and new tasks in source and target domains, per number of shots; empty where there is only block a."""
    shots = sorted({n for kind, n in map(block_parts, results.blocks) if kind in ("b", "c", "d") and n is not None})

    def value(key: str) -> float:
        return mean_reduction(results.blocks.get(key, {}))

    return [Quadrants(n, value("a"), *(value(block_key(kind, n)) for kind in ("b", "d", "c"))) for n in shots]


def means(results: Results) -> Means | None:
    """The run beside its baselines, on every block on which a baseline was measured; None without baselines."""
    measured = {key for blocks in results.baselines.values() for key in blocks}
    if not measured:
        return None
    columns = tuple(sorted(measured, key=block_order))
    everything = {results.paradigm: results.blocks, **results.baselines}
    return Means(
        columns,
        tuple((name, {key: mean_reduction(blocks[key]) for key in columns if key in blocks}) for name, blocks in everything.items()),
    )


def drawn(results: Results, kind: str) -> tuple[str, ...]:
    """Tasks of a kind of block that a page draws: all, or of many a few by their error reduction, with the most shots."""
    last = [key for key in keys(results) if block_parts(key)[0] == kind][-1]
    tasks = results.blocks[last].items()
    return picked({t: reduction(r.scores[r.primary]) if r.primary in r.scores else math.nan for t, r in tasks})


def chosen_curves(results: Results) -> dict[tuple[str, str], Curve]:
    """By block key and task: the curve of the trial that meta-validation chose, of the task's primary metric."""
    found = {}
    for curve in results.curves:
        task = results.blocks.get(curve.key, {}).get(curve.task)
        if curve.chosen and (task is None or task.primary == curve.metric):
            found[curve.key, curve.task] = curve
    return found


def few(numbers: Sequence[int], at_most: int) -> tuple[int, ...]:
    """Some of `numbers`, evenly spread, the first and the last among them."""
    if len(numbers) <= at_most:
        return tuple(numbers)
    return tuple(numbers[round(i * (len(numbers) - 1) / (at_most - 1))] for i in range(at_most))


def _shot_table(results: Results, kind: str) -> ShotTable:
    numbered = {n: results.blocks[block_key(kind, n)] for k, n in map(block_parts, keys(results)) if k == kind and n is not None}
    curves = chosen_curves(results)
    rows = []
    for task in dict.fromkeys(t for tasks in numbered.values() for t in tasks):
        cells = {}
        for n, tasks in numbered.items():
            if task in tasks and tasks[task].primary in tasks[task].scores:
                curve = curves.get((block_key(kind, n), task))
                before = curve.at(0) if curve is not None and 0 in curve.steps else None
                cells[n] = Cell(tasks[task].scores[tasks[task].primary], before)
        rows.append(Row(task, next(tasks[task] for tasks in numbered.values() if task in tasks), cells))
    return ShotTable(kind, tuple(numbered), tuple(rows))
