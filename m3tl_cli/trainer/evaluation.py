"""Scores of a model on a pool, beside those of the trivial predictor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from m3tl_cli.core.contracts import Batch, Model, Pool, TaskName
from m3tl_cli.core.results import Score, TaskResult
from m3tl_cli.task.base import TaskKind
from m3tl_cli.trainer.runtime import Runtime

MetricValues = dict[TaskName, dict[str, float]]

TRIVIAL_SAMPLES = 5000
"""Training labels that the trivial predictor is fitted on, at most: a per-pixel median over more would not move."""


def batches(pool: Pool, size: int, tasks: Sequence[TaskName]) -> Iterator[Batch]:
    """The whole pool in order."""
    for index in torch.arange(len(pool)).split(size):
        yield pool.read(index, tasks)


def trivial_outputs(kinds: Mapping[TaskName, TaskKind], pool: Pool, size: int) -> dict[TaskName, Tensor]:
    """The constant output of each task's trivial predictor, fitted on the labels of `pool`."""
    targets: dict[TaskName, list[Tensor]] = {t: [] for t in kinds}
    labelled: dict[TaskName, list[Tensor]] = {t: [] for t in kinds}
    # Evenly over the pool, whose order may follow the domains.
    rows = torch.linspace(0, len(pool) - 1, min(TRIVIAL_SAMPLES, len(pool))).round().long()
    for index in rows.split(size):
        batch = pool.read(index, tuple(kinds))
        for task in kinds:
            targets[task].append(batch.targets[task])
            labelled[task].append(batch.labelled[task])
    return {t: kind.trivial(torch.cat(targets[t]), torch.cat(labelled[t])) for t, kind in kinds.items()}


def evaluate(
    model: Model,
    kinds: Mapping[TaskName, TaskKind],
    pool: Pool,
    runtime: Runtime,
    size: int,
    *,
    advanced: Callable[[int, int], None] | None = None,
) -> MetricValues:
    """Every metric of every task of `kinds` on the whole pool.

    Args:
        model: Its own parameters are used.
        kinds: Tasks to score.
        pool: Samples.
        runtime: Device and precision.
        size: Samples a batch.
        advanced: Told how many samples of how many are done.
    """
    tasks = tuple(kinds)
    meters = {t: kind.meter() for t, kind in kinds.items()}
    done = 0
    with torch.no_grad():
        for batch in batches(pool, size, tasks):
            here = batch.to(runtime.device)
            with runtime.autocast():
                outputs = model.outputs(model.params(), here, tasks)
            for task in tasks:
                meters[task].update(outputs[task].float(), here.targets[task], here.labelled[task])
            done += len(batch)
            if advanced:
                advanced(done, len(pool))
    return {t: meter.compute() for t, meter in meters.items()}


def evaluate_constant(kinds: Mapping[TaskName, TaskKind], outputs: Mapping[TaskName, Tensor], pool: Pool, size: int) -> MetricValues:
    """Metrics of constant outputs, as `trivial_outputs` gives them."""
    meters = {t: kind.meter() for t, kind in kinds.items()}
    for batch in batches(pool, size, tuple(kinds)):
        for task, meter in meters.items():
            meter.update(outputs[task], batch.targets[task], batch.labelled[task])
    return {t: meter.compute() for t, meter in meters.items()}


def task_results(kinds: Mapping[TaskName, TaskKind], values: MetricValues, trivial: MetricValues) -> dict[TaskName, TaskResult]:
    """Put values, trivial values and their meaning together."""
    return {
        t: TaskResult(
            kind=kind.task.kind,
            primary=kind.primary,
            role=kind.task.role,
            scores={
                name: Score(values[t][name], trivial[t][name], info.perfect, info.direction, info.unit)
                for name, info in kind.metrics.items()
            },
        )
        for t, kind in kinds.items()
    }
