"""Scores of a model on a pool, beside those of the trivial predictor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from m3tl_cli.core.contracts import Batch, Episode, Model, Params, Part, Pool, Task, TaskName, generator
from m3tl_cli.core.results import Score, TaskResult
from m3tl_cli.paradigm.engine import Engine
from m3tl_cli.task.base import Meter, TaskKind
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
    params: Params | None = None,
    meters: Mapping[TaskName, Meter] | None = None,
    rows: Tensor | None = None,
) -> MetricValues:
    """Every metric of every task of `kinds` on the whole pool.

    Args:
        model: Model.
        kinds: Tasks to score.
        pool: Samples.
        runtime: Device and precision.
        size: Samples a batch.
        advanced: Told how many samples of how many are done.
        params: Instead of the model's own.
        meters: Instead of fresh ones: several parts of a pool can be scored as one.
        rows: Positions [N] in the pool, instead of all.
    """
    tasks = tuple(kinds)
    meters = meters or {t: kind.meter() for t, kind in kinds.items()}
    done = 0
    everything = torch.arange(len(pool)) if rows is None else rows
    with torch.no_grad():
        for index in everything.split(size):
            here = pool.read(index, tasks).to(runtime.device)
            score(model, model.params() if params is None else params, here, meters, runtime)
            done += len(index)
            if advanced:
                advanced(done, len(everything))
    return {t: meter.compute() for t, meter in meters.items()}


def score(model: Model, params: Params, batch: Batch, meters: Mapping[TaskName, Meter], runtime: Runtime) -> None:
    """Count the outputs of one batch, which is on the device already."""
    with torch.no_grad(), runtime.autocast():
        outputs = model.outputs(params, batch, tuple(meters))
    for task, meter in meters.items():
        meter.update(outputs[task].float(), batch.targets[task], batch.labelled[task])


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


def known_task(kind: TaskKind, pool: Pool, size: int) -> Task:
    """The kind's task, with the statistics of the labels of `pool`."""
    name = kind.task.name
    rows = torch.linspace(0, len(pool) - 1, min(TRIVIAL_SAMPLES, len(pool))).round().long()
    read = [pool.read(index, (name,)) for index in rows.split(size)]
    return kind.standardised(torch.cat([b.targets[name] for b in read]), torch.cat([b.labelled[name] for b in read]))


def evaluate_adapted(
    engine: Engine,
    kinds: Mapping[TaskName, TaskKind],
    *,
    support: Pool,
    query: Pool,
    runtime: Runtime,
    size: int,
    num_shots: int,
    single: bool,
    seed: int,
    advanced: Callable[[int, int], None] | None = None,
) -> MetricValues:
    """Every metric after the inner loop's own number of steps, domain by domain, on support drawn from training data.

    Args:
        engine: With an inner loop.
        kinds: Tasks to score.
        support: Where support is drawn from.
        query: What is scored, all of it.
        runtime: Device and precision.
        size: Samples a batch.
        num_shots: Support samples of a domain.
        single: Each task adapts alone; else all together.
        seed: Of the support.
        advanced: Told how many samples of how many are done.
    """
    meters = {t: kind.meter() for t, kind in kinds.items()}
    groups = [(t,) for t in kinds] if single else [tuple(kinds)]
    done, steps = 0, engine.inner.num_inner_steps if engine.inner else 0
    for domain in query.domain.unique().tolist():
        rows = (query.domain == domain).nonzero()[:, 0]
        there = (support.domain == domain).nonzero()[:, 0]
        drawn = there[torch.randperm(len(there), generator=generator(seed, "adapted", domain))[:num_shots]]
        for group in groups:
            params = engine.params()
            if len(drawn):
                part = Part(support.read(drawn, group).to(runtime.device), group)
                params = engine.adapted(params, (part,), steps=steps)
            own = {t: meters[t] for t in group}
            evaluate(engine.model, {t: kinds[t] for t in group}, query, runtime, size, params=params, meters=own, rows=rows)
        done += len(rows)
        if advanced:
            advanced(done, len(query))
    return {t: meter.compute() for t, meter in meters.items()}


def evaluate_episodes(
    engine: Engine, kinds: Mapping[TaskName, TaskKind], episodes: Sequence[Episode], runtime: Runtime, advanced: Callable[[int, int], None]
) -> MetricValues:
    """Every metric over the queries of all episodes, after the inner loop's own number of steps on each one's support."""
    meters = {t: kind.meter() for t, kind in kinds.items()}
    for done, episode in enumerate(episodes, 1):
        here = episode.to(runtime.device)
        params = engine.adapted_to(here)
        for part in here.query:
            score(engine.model, params, part.batch, {t: meters[t] for t in part.tasks if t in meters}, runtime)
        advanced(done, len(episodes))
    return {t: meter.compute() for t, meter in meters.items()}
