"""A run without a network: an estimator fitted to each task by itself, scored where and as a network is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from m3tl_cli.assembly import Experiment, kind_of, make, own_seed
from m3tl_cli.core.contracts import Batch, Episode, Pool, Task, TaskName
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.core.events import Advanced, Emit, Measured, Said, StageStarted
from m3tl_cli.core.results import Cost, Results, StageCost, TaskResult
from m3tl_cli.data.base import Block, Data
from m3tl_cli.estimator.base import Estimator, Fitted, Labels, Rows
from m3tl_cli.stages import drawn_from, reference_at
from m3tl_cli.target.adaptation import Points, Spent, Trial
from m3tl_cli.target.protocol import Outcome
from m3tl_cli.task.base import TaskKind
from m3tl_cli.trainer.evaluation import evaluate_constant, task_results, trivial_outputs

WITHOUT = "take `gradient_boosting` out of baselines=[...], or estimator=null"


def refuse(cfg: DictConfig, data: Data) -> None:
    """Refuse what an estimator cannot be fitted to.

    Raises:
        ConfigError: The data has more than tables, a task is dense, or the config asks for what only a network can do.
    """
    switches = [name for name in ("pretrain", "joint", "bilevel", "handover") if cfg.paradigm[name]]
    if switches:
        raise ConfigError(
            f"`paradigm` must be stl where an estimator is fitted, each task by itself; found {', '.join(switches)} on.",
            hint="baseline=gradient_boosting",
            place="estimator",
        )
    for key, without in (("start", None), ("with_target", False), ("members", 1)):
        if cfg[key] != without:
            raise ConfigError(f"`{key}` must be left out where an estimator is fitted; found {cfg[key]}.", hint=WITHOUT, place=key)
    for name, info in data.modalities.items():
        if info.kind != "table":
            raise ConfigError(f"`estimator` must meet tables alone; found modality `{name}`: {info.kind}.", hint=WITHOUT, place="estimator")
    for task in data.tasks.values():
        if task.name in cfg.task and task.dense:
            raise ConfigError(f"`estimator` must meet one label a row; found dense task `{task.name}`.", hint=WITHOUT, place="estimator")


def what_is_unused(cfg: DictConfig) -> str:
    """What a reader of the config should know."""
    name = str(cfg.estimator["_target_"]).rpartition(".")[2]
    return (
        f"no network: {name} is fitted to each task by itself; encoder, fusion, backbone, sharing, heads, balancing, sampler, episodes, "
        "inner, optimizer, scheduler and the length of training are not used"
    )


class FittedRun:
    """Fit every task on its training rows, choose the rounds on its validation rows, score block a; at a target fit every support.

    Args:
        parts: Of the run; the model is not used.
        folder: Run folder.
        emit: Told what happens.
    """

    def __init__(self, parts: Experiment, folder: Path, emit: Emit) -> None:
        self.parts, self.folder, self.emit = parts, folder, emit
        self._size = parts.loop.eval_batch_size
        self._fitted: dict[TaskName, tuple[Fitted, int]] = {}

    def results(self, seconds_prepare: float) -> Results:
        """Everything that a network's run says, with 0 updates.

        In `Cost` parameters are leaves of the trees that are used, networks the tasks, samples the rows that were fitted, each once.
        """
        parts, cfg = self.parts, self.parts.cfg
        self.emit(StageStarted("pretrain", 0, (), parts.stages["pretrain"].skipped))
        notes = [what_is_unused(cfg)]
        self.emit(Said(notes[0]))
        train, val, test = (parts.data.pool(split) for split in ("train", "val", "test"))
        kinds = {name: kind for name, kind in parts.kinds.items() if name in train.labelled}
        costs = [self._fit(kinds, train, val)]
        if rounds := [used for _, used in self._fitted.values()]:
            notes.append(f"validation chose {min(rounds)} to {max(rounds)} rounds, in the median {np.median(rounds):g}")
            self.emit(Said(notes[-1]))
        adapt, outcome = parts.stages["adapt"], Outcome({}, [], [], {})
        self.emit(StageStarted("adapt", 0, adapt.tasks, adapt.skipped))
        if not adapt.skipped:
            outcome, cost = self._adapt()
            costs.append(cost)
        self.emit(StageStarted("evaluate", 0, parts.stages["evaluate"].tasks))
        found, cost = self._evaluate(kinds, train, test)
        leaves = sum(fitted.num_parameters(used) for fitted, used in self._fitted.values())
        costs.append(cost)
        return Results(
            paradigm=cfg.paradigm.name,
            seed=cfg.seed,
            tasks=tuple(parts.tasks),
            blocks={"a": found} | outcome.blocks,
            cost=Cost(
                parameters=leaves,
                trainable=leaves,
                networks=len(kinds),
                updates=0,
                samples=sum(c.samples for c in costs),
                forward=0,
                backward=0,
                seconds=sum(c.seconds for c in costs),
                seconds_prepare=seconds_prepare,
                peak_memory=parts.loop.runtime.peak_memory(),
                labels=sum(int(train.labelled[name].sum()) for name in kinds),
            ),
            notes=tuple(notes),
            curves=tuple(outcome.curves),
            choices=tuple(outcome.choices),
            stages=tuple(costs),
        )

    def outputs(self, batch: Batch) -> dict[TaskName, Tensor]:
        """What a network's heads would put out, per task that was fitted."""
        x = rows_of(batch)
        return {task: fitted.outputs(x, [used])[0] for task, (fitted, used) in self._fitted.items()}

    def _fit(self, kinds: Mapping[TaskName, TaskKind], train: Pool, val: Pool) -> StageCost:
        begun, samples = time.perf_counter(), 0
        self.emit(StageStarted("train", 0, tuple(kinds)))
        values: dict[str, float] = {}
        for done, (task, kind) in enumerate(kinds.items(), 1):
            x, target, labelled = self._read(train, task)
            fitted = _estimator(self.parts).fit(x, labels_of(kind, target, labelled))
            samples += len(x)
            x, target, labelled = self._read(val, task)
            rounds = range(1, fitted.num_rounds + 1)
            used = fitted.num_rounds
            if len(x) and rounds:
                losses = [float(kind.loss(output, target, labelled)) for output in fitted.outputs(x, rounds)]
                used = rounds[int(np.argmin(losses))]
            self._fitted[task] = fitted, used
            meter = kind.meter()
            meter.update(fitted.outputs(x, [used])[0], target, labelled)
            values |= {f"val/{task}/{metric}": value for metric, value in meter.compute().items()}
            self.emit(Advanced("train", done, len(kinds), "task"))
        self.emit(Measured(0, values))
        return StageCost("train", 0, samples, 0, 0, time.perf_counter() - begun)

    def _evaluate(self, kinds: Mapping[TaskName, TaskKind], train: Pool, test: Pool) -> tuple[dict[TaskName, TaskResult], StageCost]:
        """Block a, of every task the rows that label it."""
        begun = time.perf_counter()
        constant = evaluate_constant(kinds, trivial_outputs(kinds, train, self._size), test, self._size)
        reached = {}
        for done, (task, kind) in enumerate(kinds.items(), 1):
            fitted, used = self._fitted[task]
            x, target, labelled = self._read(test, task)
            meter = kind.meter()
            meter.update(fitted.outputs(x, [used])[0], target, labelled)
            reached[task] = meter.compute()
            self.emit(Advanced("evaluate", done, len(kinds), "task"))
        return task_results(kinds, reached, constant), StageCost("evaluate", 0, 0, 0, 0, time.perf_counter() - begun)

    def _adapt(self) -> tuple[Outcome, StageCost]:
        """The target, asked as a network is that starts there from scratch; meta-validation chooses the rounds."""
        begun, parts, protocol = time.perf_counter(), self.parts, self.parts.protocol
        if protocol.case == 1:
            raise ConfigError(
                "`case` must be 2 where nothing is handed over; found 1.", hint=f"target.case=2, or {WITHOUT}", place="target.case"
            )
        there = [t for t in (parts.tasks | parts.new).values() if "target" in t.at]
        seen, new = (tuple(t for t in there if (t.name in parts.new) is later) for later in (False, True))
        blocks = {"b": seen, "c": new, "d": new if protocol.source_domains else ()}
        asked: tuple[Block, ...] = ("validation", "target", "source") if protocol.source_domains else ("validation", "target")
        fitter = _Fitter(parts)
        outcome = protocol.run(
            [_Asked(block, tasks) for block, tasks in blocks.items() if tasks],
            [Trial(type(_estimator(parts)).__name__, None)],
            fitter,
            draw=drawn_from(parts),
            references={at: reference_at(parts, at, (*seen, *new)) for at in asked if parts.data.blocks.get(at)},
            record=self.folder / "adaptations.jsonl",
            emit=self.emit,
        )
        return outcome, StageCost("adapt", 0, fitter.spent.samples, 0, 0, time.perf_counter() - begun)

    def _read(self, pool: Pool, task: TaskName) -> tuple[Rows, Tensor, Tensor]:
        """Rows, targets and flags of the samples that label a task."""
        index = pool.labelled[task].nonzero()[:, 0]
        read = [pool.read(some, (task,)) for some in index.split(self._size)]
        x = np.concatenate([rows_of(batch) for batch in read])
        return x, torch.cat([b.targets[task] for b in read]), torch.cat([b.labelled[task] for b in read])


@dataclass
class _Asked:
    """A block of the target, for the protocol: its tasks, and nothing that was learnt before."""

    block: str
    tasks: tuple[Task, ...]
    kept: tuple[Task, ...] = ()
    baseline: str = ""
    closed: bool = False

    @property
    def labelled(self) -> tuple[Task, ...]:
        return self.tasks

    @property
    def unchanged(self) -> bool:
        return True


class _Fitter:
    """Fits the support of an episode; a step is a round, and before the first stands the support's prior."""

    def __init__(self, parts: Experiment) -> None:
        self.parts, self.spent = parts, Spent()

    def adapt(self, start: _Asked, episode: Episode, trial: Trial, *, last: int | None = None, watch: int = -1) -> Points:  # noqa: ARG002
        steps = [s for s in self.parts.protocol.steps if last is None or s <= last]
        points: Points = {s: {} for s in steps}
        for task in start.tasks:
            x, target, labelled = _support(episode, task.name)
            kind = kind_of(self.parts.cfg, task)
            if start.block != "b":  # of a new task nothing is known but its support
                kind = kind_of(self.parts.cfg, kind.standardised(target, labelled))
            fitted = _estimator(self.parts).fit(x, labels_of(kind, target, labelled))
            self.spent += Spent(samples=len(x))
            meters = {s: kind.meter() for s in steps}
            for batch in (part.batch for part in episode.query if task.name in part.tasks):
                for meter, output in zip(meters.values(), fitted.outputs(rows_of(batch), steps), strict=True):
                    meter.update(output, batch.targets[task.name], batch.labelled[task.name])
            for s, meter in meters.items():
                points[s][task.name] = meter.compute()
        return points


def _support(episode: Episode, task: TaskName) -> tuple[Rows, Tensor, Tensor]:
    """The rows of an episode's support that label a task."""
    taken = [b.take(b.labelled[task].nonzero()[:, 0]) for b in (p.batch for p in episode.support if task in p.tasks)]
    x = np.concatenate([rows_of(batch) for batch in taken])
    return x, torch.cat([b.targets[task] for b in taken]), torch.cat([b.labelled[task] for b in taken])


def rows_of(batch: Batch) -> Rows:
    """The columns of all tables side by side, [B, D] float64; NaN where a cell, or the whole table of a sample, is missing."""
    tables = [torch.where(batch.present[m][:, None], x.cpu().double(), torch.nan) for m, x in batch.inputs.items()]
    return torch.cat(tables, 1).numpy()


def labels_of(kind: TaskKind, target: Tensor, labelled: Tensor) -> Labels:
    """What an estimator learns from a task's targets."""
    ideal, known = kind.ideal_output(target, labelled)
    return Labels(ideal, known, kind.prior(target, labelled), kind.activation)


def _estimator(parts: Experiment) -> Estimator:
    return make(parts.cfg.estimator, Estimator, seed=own_seed(parts.cfg))
