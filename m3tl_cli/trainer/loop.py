"""The one loop: draw, differentiate, balance, clip, step; validate, checkpoint, stop. It knows no method by name."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Lt

from m3tl_cli.balancing.base import Balancer
from m3tl_cli.core.contracts import Episode, Params, Sampler, Stateful, TaskName, stable_seed
from m3tl_cli.core.events import Advanced, Emit, Measured, Said, StageStarted, Wrote
from m3tl_cli.optimizer.base import OptimizerBuilder
from m3tl_cli.paradigm.base import Stage
from m3tl_cli.paradigm.engine import Engine
from m3tl_cli.paradigm.flops import Passes
from m3tl_cli.paradigm.transference import Transference
from m3tl_cli.scheduler.base import Scheduler
from m3tl_cli.task.base import TaskKind
from m3tl_cli.trainer import checkpoint
from m3tl_cli.trainer.evaluation import MetricValues, task_results
from m3tl_cli.trainer.interrupt import Interrupt
from m3tl_cli.trainer.runtime import Runtime
from m3tl_cli.trainer.selection import Selection
from m3tl_cli.trainer.update import Freedom, update

LAST, BEST = "checkpoints/last.safetensors", "checkpoints/best.safetensors"


@dataclass
class Counters:
    """What training has cost so far; survives a resume."""

    updates: int = 0
    samples: int = 0
    seconds: float = 0.0


Advance = Callable[[int, int], None]
"""Told how many samples of how many are done."""


@dataclass(frozen=True)
class Validation:
    """How a stage is judged while it trains.

    Args:
        constant: What constant outputs reach on the held-out samples: the zero of the judgement.
        scores: Metrics of some tasks there, at the network's present parameters.
    """

    constant: MetricValues
    scores: Callable[[Mapping[TaskName, TaskKind], Advance], MetricValues]


class Loop:
    """Train a stage.

    Args:
        device: `auto`, `cpu`, `cuda`, `cuda:<n>` or `mps`.
        precision: 32, or `bf16` for autocast.
        threads: Of torch on the CPU; None: torch's own choice. Another number may change the last bits of a result.
        updates: Optimiser steps of the source stage.
        warm_up: Share of them that a bilevel run takes on plain mini-batches before its episodes.
        accumulate: Draws of the sampler whose gradients one update averages.
        clip: Largest gradient norm of a component of tasks; None: no clipping.
        validate_every: Updates between validations; the last update is always followed by one.
        patience: Validations without improvement before a component of tasks stops; None: never.
        checkpoint_every: Updates between checkpoints.
        log_every: Updates between measurements of the training losses.
        transference_every: Updates on mini-batches between measurements of what a step on one task does to the others' losses; the last
            one is always followed by one; None: never.
        eval_batch_size: Samples a batch when scoring.
        num_pictures: Test samples that the report draws.
    """

    def __init__(
        self,
        *,
        device: str,
        precision: Literal[32, "bf16"],
        threads: Annotated[int, Ge(1)] | None,
        updates: Annotated[int, Ge(1)],
        warm_up: Annotated[float, Ge(0), Lt(1)],
        accumulate: Annotated[int, Ge(1)],
        clip: Annotated[float, Gt(0)] | None,
        validate_every: Annotated[int, Ge(1)],
        patience: Annotated[int, Ge(1)] | None,
        checkpoint_every: Annotated[int, Ge(1)],
        log_every: Annotated[int, Ge(1)],
        transference_every: Annotated[int, Ge(1)] | None,
        eval_batch_size: Annotated[int, Ge(1)],
        num_pictures: Annotated[int, Ge(0)],
    ) -> None:
        self.runtime = Runtime(device=device, precision=precision, threads=threads)
        self.updates, self.warm_up, self.accumulate, self.clip = updates, warm_up, accumulate, clip
        self.validate_every, self.patience, self.checkpoint_every = validate_every, patience, checkpoint_every
        self.log_every, self.eval_batch_size, self.num_pictures = log_every, eval_batch_size, num_pictures
        self.transference_every = transference_every

    def fit(
        self,
        stage: Stage,
        *,
        kinds: Mapping[TaskName, TaskKind],
        engine: Engine,
        balancer: Balancer,
        sampler: Sampler,
        optimizer: OptimizerBuilder,
        scheduler: Scheduler,
        validation: Validation | None,
        folder: Path,
        seed: int,
        emit: Emit,
        resume: bool = False,
        about: Mapping[str, Any] | None = None,
        freedom: Freedom | None = None,
        first: int = 0,
        transference: Transference | None = None,
    ) -> Counters:
        """Train until the stage's updates are done or every component has stopped; leave the model at its best.

        Args:
            stage: Tasks and number of updates.
            kinds: Of at least the stage's tasks.
            engine: Makes gradients with `balancer`; its model is grown already and on the device.
            balancer: Reset here.
            sampler: Draws on the CPU.
            optimizer: Builds an optimiser over the engine's trainable names.
            scheduler: Factor of the learning rate.
            validation: None: no validation, and the last parameters are kept.
            folder: Run folder; checkpoints go below it.
            seed: Of whatever is random inside a network (dropout): each update starts torch's generator from (seed, update).
            emit: Told what happens.
            resume: Continue from the folder's last checkpoint, if it has one and it is of this stage.
            about: JSON types stored in checkpoints beside the state (ledger, config).
            freedom: What may change, and how fast; None: the engine's trainable names at the optimiser's rate.
            first: Updates of earlier stages, so that the record counts on.
            transference: Measures on the way; a stage of episodes only keeps it.

        Raises:
            TrainingError: If a loss or gradient is not finite.
            SystemExit: With 128 + n after signal n, when a checkpoint is written.
        """
        params = engine.params()
        freedom = freedom or Freedom(engine.trainable)
        trained = {n: params[n] for n in params if n in freedom.names}
        torch_optimizer = optimizer.build(trained, freedom.rate)
        names = {id(p): n for n, p in trained.items()}
        selection = Selection(engine, stage.tasks, self.patience)
        balancer.reset(stage.tasks)
        counters = Counters()
        parts: dict[str, Stateful] = {"balancer": balancer, "sampler": sampler, "selection": selection}
        parts |= {} if transference is None else {"transference": transference}
        state = checkpoint.load(folder / LAST) if resume and (folder / LAST).is_file() else {}
        if state.get("stage") == stage.name:
            with torch.no_grad():
                for name, value in state["model"].items():
                    params[name].copy_(value)
            checkpoint.restore_optimizer(torch_optimizer, trained, state["optimizer"])
            for key, part in parts.items():
                part.load_state_dict(state[key])
            counters = Counters(**state["counters"])
            forward, backward, *flops = state["passes"]
            engine.passes = Passes(forward, backward, *(flops or [math.nan]))  # a checkpoint from before they were counted
            emit(Said(f"resumed at update {counters.updates} of {stage.updates}"))
        emit(StageStarted(stage.name, stage.updates, stage.tasks))
        begun = time.perf_counter() - counters.seconds

        def keep() -> None:
            counters.seconds = time.perf_counter() - begun
            state = {
                "stage": stage.name,
                "first": first,
                "about": about or {},
                "model": params,
                "optimizer": checkpoint.optimizer_state(torch_optimizer, names),
                "counters": vars(counters),
                "passes": astuple(engine.passes),
                **{key: part.state_dict() for key, part in parts.items()},
            }
            checkpoint.save(folder / LAST, state)

        with Interrupt() as interrupt:
            while counters.updates < stage.updates and selection.active:
                step = counters.updates
                for group in torch_optimizer.param_groups:
                    group["lr"] = group["initial_lr"] * scheduler.factor(step, stage.updates)
                torch.manual_seed(stable_seed(seed, stage.name, step))
                active = selection.active
                drawn = (e for k in range(self.accumulate) for e in sampler.draw(step * self.accumulate + k))
                episodes = [self._placed(e, active) for e in drawn]
                measures = update(
                    engine,
                    episodes,
                    step=step,
                    freedom=freedom,
                    components=selection.components,
                    params=trained,
                    optimizer=torch_optimizer,
                    clip=self.clip,
                )
                losses = measures.losses
                sampler.update(losses)
                counters.updates = done = step + 1
                counters.samples += sampler.samples_per_step * self.accumulate
                last = done == stage.updates
                if done % self.log_every == 0 or last:
                    values = {f"train/{t}/loss": v for t, v in losses.items()}
                    values |= {f"balancing/{t}/weight": float(w) for t, w in engine.weights.items()}
                    values |= {f"train/grad_norm/{'+'.join(tasks)}": v for tasks, v in measures.norms.items()}
                    values |= engine.inner.measured() if engine.inner else {}
                    values["optimizer/lr"] = torch_optimizer.param_groups[0]["lr"]
                    values["speed/updates_per_second"] = done / (time.perf_counter() - begun)
                    emit(Measured(first + done, values))
                emit(Advanced(stage.name, done, stage.updates, "update", {"loss": sum(losses.values())}))
                if transference and self.transference_every and not stage.episodes and (done % self.transference_every == 0 or last):
                    transference.measure(engine, episodes, torch_optimizer.param_groups[0]["lr"])
                if done % self.validate_every == 0 or last:
                    passes = replace(engine.passes)  # what looks on is no training, and costs nothing where budgets are compared
                    if stage.episodes and math.isfinite(cosine := engine.order_cosine(episodes)):
                        emit(Measured(first + done, {"inner/order_cosine": cosine}))
                    if validation:
                        self._validate(first, done, kinds, validation, selection, params, emit)
                    engine.passes = passes
                if interrupt.number:
                    keep()
                    emit(Said(f"stopped by signal {interrupt.number} after update {done}; `m3tl train --resume` goes on", "warning"))
                    interrupt.leave()
                if done % self.checkpoint_every == 0 and not last:
                    keep()
            keep()
        selection.restore_best(params)
        checkpoint.save(folder / BEST, {"about": about or {}, "model": params, "counters": vars(counters)})
        emit(Wrote(folder / "checkpoints"))
        return counters

    def _placed(self, episode: Episode, active: tuple[TaskName, ...]) -> Episode:
        keep = frozenset(active)
        query = tuple(replace(p, tasks=tuple(t for t in p.tasks if t in keep)) for p in episode.query)
        support = tuple(replace(p, tasks=tuple(t for t in p.tasks if t in keep)) for p in episode.support)
        weight = episode.weight / self.accumulate
        return replace(episode, query=query, support=support, weight=weight).to(self.runtime.device)

    @staticmethod
    def _validate(
        first: int,
        done: int,
        kinds: Mapping[TaskName, TaskKind],
        validation: Validation,
        selection: Selection,
        params: Params,
        emit: Emit,
    ) -> None:
        active = {t: kinds[t] for t in selection.active}
        values = validation.scores(active, lambda n, total: emit(Advanced("validate", n, total, "sample")))
        emit(Measured(first + done, {f"val/{t}/{m}": v for t, metrics in values.items() for m, v in metrics.items()}))
        results = task_results(active, values, validation.constant)
        scores = {t: r.scores[r.primary].error_reduction for t, r in results.items()}
        for component in selection.judge(done, scores, params):
            emit(Said(f"{', '.join(component.tasks)}: no improvement since update {component.best_step}; stopped early"))
