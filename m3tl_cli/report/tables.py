"""The run's numbers as rows, and as CSV files for a spreadsheet or a paper."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from m3tl_cli.core.results import (
    Choice,
    Cost,
    Curve,
    Results,
    Score,
    StageCost,
    TaskResult,
    block_order,
    block_parts,
    mean,
    write_text,
)
from m3tl_cli.report.blocks import is_shot_block, primaries, reduction
from m3tl_cli.report.formats import count, duration, flops, size
from m3tl_cli.report.read import Series

COST: Mapping[str, str] = {
    "flops": "FLOPs of training",
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
    "labels": "labelled samples seen, pretraining included",
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
        return reduction(self.score)


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
        return mean(self.reductions.values())


def lines(blocks: Mapping[str, Mapping[str, TaskResult]]) -> list[Line]:
    """Every score, by block, then by task and metric in the order of the results; a task's primary metric comes first."""
    made = []
    for block in sorted(blocks, key=block_order):
        for task, result in blocks[block].items():
            for metric in sorted(result.scores, key=lambda m, r=result: m != r.primary):  # type: ignore[misc]
                primary = metric == result.primary
                made.append(Line(block, task, result.kind, result.role, metric, primary, result.scores[metric]))
    return made


def summary(results: Results) -> Summary | None:
    """The first block in short, of its kind the one with the most shots; None where no main task has its primary metric."""
    found = [key for key in sorted(results.blocks, key=block_order) if primaries(results.blocks[key])]
    if not found:
        return None
    alike = [key for key in found if block_parts(key)[0] == block_parts(found[0])[0] and is_shot_block(key)]
    block = alike[-1] if alike else found[0]
    return Summary(block, {task: reduction(score) for task, score in primaries(results.blocks[block]).items()})


def cost_rows(cost: Cost) -> list[tuple[str, str]]:
    """What the run cost: what is counted, and the number in words."""
    shown = {"flops": flops, "seconds": duration, "seconds_prepare": duration, "peak_memory": size}
    words = {name: text for name, text in COST.items() if name not in ("labels", "flops") or getattr(cost, name)}
    return [(text, shown.get(name, count)(getattr(cost, name))) for name, text in words.items()]


def blocks_csv(results: Results) -> str:
    """All scores of the run, under the name of its paradigm, and of its baselines, one line each."""
    header = ["model", "block", "num_shots", "task", "kind", "role", "metric", "primary", "value", "unit", "direction"]
    rows: list[list[object]] = []
    for model, blocks in ((results.paradigm, results.blocks), *results.baselines.items()):
        for x in lines(blocks):
            what = (model, *_place(x.block), x.task, x.kind, x.role, x.metric, int(x.primary))
            rows.append([*what, x.score.value, x.score.unit, x.score.direction, x.score.trivial, x.score.perfect, x.error_reduction])
    return _csv([*header, "trivial", "perfect", "error_reduction"], rows)


def curves_csv(curves: Sequence[Curve]) -> str:
    """Every adaptation curve, one line per step: mean and standard deviation over the episodes that have a number."""
    header = ["block", "num_shots", "task", "optimizer", "chosen", "chosen_step", "metric", "step", "num_episodes", "mean", "std"]
    rows: list[list[object]] = []
    for curve in curves:
        what = (curve.block, curve.num_shots, curve.task, curve.optimizer, int(curve.chosen), curve.chosen_step, curve.metric)
        for i, step in enumerate(curve.steps):
            known = [row[i] for row in curve.episodes if math.isfinite(row[i])]
            score, spread = curve.at(step), statistics.stdev(known) if len(known) > 1 else math.nan
            rows.append([*what, step, len(known), score.value, spread, curve.direction, curve.trivial, curve.perfect, reduction(score)])
    return _csv([*header, "direction", "trivial", "perfect", "error_reduction"], rows)


def choices_csv(choices: Sequence[Choice]) -> str:
    """Everything that was tried on meta-validation, one line each; the number of steps stands beside what was chosen."""
    rows = []
    for choice in choices:
        for label, score in choice.trials:
            chosen = label == choice.optimizer
            rows.append([*_place(choice.block), label, score, int(chosen), choice.steps if chosen else ""])
    return _csv(["block", "num_shots", "optimizer", "score", "chosen", "steps"], rows)


def stages_csv(stages: Sequence[StageCost]) -> str:
    """What each stage cost; no number where operations were not counted."""
    header = [f.name for f in fields(StageCost)]
    known = (asdict(stage) | ({} if stage.flops > 0 else {"flops": ""}) for stage in stages)
    return _csv(header, ([int(v) if isinstance(v, bool) else v for v in stage.values()] for stage in known))


def sources_csv(sources: Mapping[str, Mapping[str, float]]) -> str:
    """The score of every source task for every new one."""
    return _csv(["task", "source", "score"], ([task, source, x] for task, found in sources.items() for source, x in found.items()))


def transference_csv(transference: Mapping[str, Mapping[str, float]]) -> str:
    """`tables/transference.csv`: what a step on one task removed of another's loss, as a share."""
    return _csv(["step_on", "task", "share"], ([i, j, share] for i, row in transference.items() for j, share in row.items()))


def cost_csv(cost: Cost) -> str:
    """What the run cost, in the units of `Cost`: seconds and bytes; without operations where they were not counted."""
    return _csv(["quantity", "value"], ([k, v] for k, v in asdict(cost).items() if k != "flops" or v))


def history_csv(history: Mapping[str, Series]) -> str:
    """Every logged number, one line each, by metric and step."""
    return _csv(["metric", "step", "value"], ([key, s, v] for key, series in history.items() for s, v in zip(*series, strict=True)))


def write_tables(folder: Path, results: Results | None, history: Mapping[str, Series]) -> list[Path]:
    """Write what there is to `folder`; returns the files."""
    texts = {"history.csv": history_csv(history)} if history else {}
    if results is not None:
        texts |= {"blocks.csv": blocks_csv(results), "cost.csv": cost_csv(results.cost)}
        texts |= {"curves.csv": curves_csv(results.curves)} if results.curves else {}
        texts |= {"choices.csv": choices_csv(results.choices)} if results.choices else {}
        texts |= {"stages.csv": stages_csv(results.stages)} if results.stages else {}
        texts |= {"sources.csv": sources_csv(results.sources)} if results.sources else {}
        texts |= {"transference.csv": transference_csv(results.transference)} if results.transference else {}
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def _place(block: str) -> tuple[str, int | str]:
    """A block's kind and number of shots; its whole key and nothing where it has none."""
    kind, number = block_parts(block)
    return (kind, number) if number is not None and is_shot_block(block) else (block, "")


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return out.getvalue()
