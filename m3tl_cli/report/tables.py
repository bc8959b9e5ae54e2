"""The run's numbers as rows, and as CSV files for a spreadsheet or a paper."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from m3tl_cli.core.results import Cost, Results, Score, TaskResult, write_text
from m3tl_cli.report.formats import count, duration, size
from m3tl_cli.report.read import Series

BLOCKS = {"a": "held-out samples of the source domains"}

COST: Mapping[str, str] = {
    "parameters": "parameters of all networks",
    "trainable": "parameters that were trained",
    "networks": "separate networks",
    "updates": "optimiser steps",
    "samples": "training samples read",
    "forward": "forward passes",
    "backward": "backward passes",
    "seconds": "training time, evaluation included",
    "seconds_prepare": "time to prepare the data",
    "peak_memory": "peak memory",
}


@dataclass(frozen=True)
class Line:
    """One metric of one task on one block of samples."""

    block: str
    task: str
    kind: str
    role: str
    metric: str
    primary: bool
    score: Score

    @property
    def error_reduction(self) -> float:
        """As `Score.error_reduction`; NaN where a number is missing."""
        known = all(math.isfinite(x) for x in (self.score.value, self.score.trivial, self.score.perfect))
        return self.score.error_reduction if known else math.nan


@dataclass(frozen=True)
class Summary:
    """The main tasks of one block by their primary metric.

    Args:
        block: Its name.
        reductions: Error reduction per task; NaN where a number is missing.
    """

    block: str
    reductions: Mapping[str, float]

    @property
    def beat_trivial(self) -> tuple[str, ...]:
        """Tasks that are better than the trivial predictor."""
        return tuple(t for t, r in self.reductions.items() if r > 0)

    @property
    def mean(self) -> float:
        """Mean error reduction over the tasks whose numbers are there; NaN without any."""
        known = [r for r in self.reductions.values() if math.isfinite(r)]
        return math.fsum(known) / len(known) if known else math.nan


def block_name(block: str) -> str:
    """A block in words."""
    return BLOCKS.get(block, f"block {block}")


def lines(results: Results) -> list[Line]:
    """Every score, by block, task and metric in the order of the results; a task's primary metric comes first."""
    made = []
    for block, tasks in results.blocks.items():
        for task, result in tasks.items():
            for metric in sorted(result.scores, key=lambda m, r=result: m != r.primary):  # type: ignore[misc]
                primary = metric == result.primary
                made.append(Line(block, task, result.kind, result.role, metric, primary, result.scores[metric]))
    return made


def summary(results: Results) -> Summary | None:
    """The first block in short; None where no main task has its primary metric."""
    for block, tasks in results.blocks.items():
        main: dict[str, TaskResult] = {t: r for t, r in tasks.items() if r.role == "main" and r.primary in r.scores}
        if main:
            made = {t: Line(block, t, r.kind, r.role, r.primary, True, r.scores[r.primary]).error_reduction for t, r in main.items()}
            return Summary(block, made)
    return None


def cost_rows(cost: Cost) -> list[tuple[str, str]]:
    """What the run cost: what is counted, and the number in words."""
    shown = {"seconds": duration, "seconds_prepare": duration, "peak_memory": size}
    return [(words, shown.get(name, count)(getattr(cost, name))) for name, words in COST.items()]


def results_csv(results: Results) -> str:
    """All scores, one line each."""
    header = ["block", "task", "kind", "role", "metric", "primary", "value", "unit", "direction", "trivial", "perfect", "error_reduction"]
    rows: list[list[object]] = []
    for x in lines(results):
        numbers = (x.score.trivial, x.score.perfect, x.error_reduction)
        rows.append([x.block, x.task, x.kind, x.role, x.metric, int(x.primary), x.score.value, x.score.unit, x.score.direction, *numbers])
    return _csv(header, rows)


def cost_csv(cost: Cost) -> str:
    """What the run cost, in the units of `Cost`: seconds and bytes."""
    return _csv(["quantity", "value"], ([k, v] for k, v in asdict(cost).items()))


def history_csv(history: Mapping[str, Series]) -> str:
    """Every logged number, one line each, by metric and step."""
    return _csv(["metric", "step", "value"], ([key, s, v] for key, series in history.items() for s, v in zip(*series, strict=True)))


def write_tables(folder: Path, results: Results | None, history: Mapping[str, Series]) -> list[Path]:
    """Write what there is to `folder`; returns the files."""
    texts = {"history.csv": history_csv(history)} if history else {}
    if results is not None:
        texts |= {"results.csv": results_csv(results), "cost.csv": cost_csv(results.cost)}
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return out.getvalue()
