"""From a config to a finished run. Read me first: `assembly` makes the parts, `stages` walks them, this file keeps the record."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from m3tl_cli.assembly import Experiment, make, own_seed
from m3tl_cli.core.contracts import Batch, Name, TaskName, components
from m3tl_cli.core.events import Advanced, Emit, Event, Measured, Said, StageStarted, Wrote, silent
from m3tl_cli.core.results import Cost, Results, Score, TaskResult, total_flops, write_text
from m3tl_cli.core.weights import Loaded
from m3tl_cli.data.base import Data
from m3tl_cli.drawing import Gallery, draw_gallery
from m3tl_cli.encoder.base import Encoder
from m3tl_cli.fitted import FittedRun, refuse, what_is_unused
from m3tl_cli.model import MultiTaskModel
from m3tl_cli.paradigm.ensemble import Ensemble
from m3tl_cli.report import page
from m3tl_cli.stages import SourceStage, TargetStage, pretrained
from m3tl_cli.target.protocol import Outcome
from m3tl_cli.tracking.base import Ending, RunInfo, Tracker
from m3tl_cli.tracking.environment import environment
from m3tl_cli.trainer import checkpoint
from m3tl_cli.trainer.journal import Journal
from m3tl_cli.trainer.loop import LAST
from m3tl_cli.transfer.base import HandOver


def run(
    cfg: DictConfig,
    *,
    folder: Path,
    emit: Emit = silent,
    resume: bool = False,
    overrides: Sequence[str] = (),
    flags: Sequence[str] = (),
    group: str = "",
    outputs: Path | None = None,
) -> Results:
    """Train, evaluate and leave everything in the run folder.

    Args:
        cfg: Composed and validated.
        folder: Run folder.
        emit: Told what happens; the terminal's side of it.
        resume: The folder holds an earlier part of this run.
        overrides: What was typed to get this config; kept so that the run can be repeated.
        flags: The same for the options of the command.
        group: Name shared by the runs of one sweep; empty outside a sweep.
        outputs: Where the tracking store lives by default; None: `outputs` of the working directory.

    Raises:
        M3TLError: As its subclasses say.
        SystemExit: With 128 + n after signal n.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plain: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    if not resume:
        write_text(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
        write_text(folder / "overrides.yaml", OmegaConf.to_yaml(list(overrides)))
        write_text(folder / "environment.json", json.dumps(environment(["m3tl", "train", *flags, *overrides]), indent=1))
    step = checkpoint.updates(folder / LAST) if resume else 0
    tracker = make(cfg.tracking, Tracker, outputs=outputs or Path("outputs").resolve())
    tracker.start(_run_info(plain, folder, group=group, resumed=resume, step=step))
    ending: Ending = "FAILED"
    try:
        with Journal(folder, step) as journal:

            def tell(event: Event) -> None:
                if isinstance(event, Measured):
                    journal.write(event.step, event.values)
                    tracker.metrics(event.step, event.values)
                elif isinstance(event, Wrote):
                    tracker.artifact(event.path)
                emit(event)

            results = _run(cfg, plain, folder, tell, resume)
            written = page.write(folder)
            records = ("config.yaml", "overrides.yaml", "environment.json", "metrics.jsonl", "results.json")
            for path in (written, folder / "tables", folder / "plots", *(folder / name for name in records)):
                tell(Wrote(path))
        ending = "FINISHED"
        return results
    except (KeyboardInterrupt, SystemExit):
        ending = "KILLED"
        raise
    finally:
        tracker.finish(ending)
        if tracker.trouble:
            emit(Said(f"tracking: {tracker.trouble}", "warning"))


def _run(cfg: DictConfig, plain: Mapping[str, Any], folder: Path, emit: Emit, resume: bool) -> Results:
    begun = time.perf_counter()
    made = False

    def prepare(data: Data) -> None:
        nonlocal made
        if cfg.estimator:
            refuse(cfg, data)
        made = data.prepare(lambda what, done, total: emit(Advanced(what, done, total, "sample")))

    parts = Experiment.from_config(cfg, prepare)
    seconds_prepare = time.perf_counter() - begun if made else 0.0
    if cfg.estimator:
        fitted = FittedRun(parts, folder, emit)
        return _kept(fitted.results(seconds_prepare), parts, folder, emit, fitted.outputs)
    model, loop, stages = parts.model, parts.loop, parts.stages
    model.to(loop.runtime.device)
    costs = []
    load: Callable[[MultiTaskModel], Loaded] | None = None
    handed: frozenset[Name] = frozenset()
    if parts.paradigm.pretrain and cfg.start:
        handed = frozenset(n for n in model.params() if n.startswith("encoder."))
    elif parts.paradigm.pretrain:
        load, cost = pretrained(parts, emit)
        costs += [cost] if cost else []
        loaded = load(model)
        emit(Said(f"encoders: {loaded}"))
        handed = frozenset(loaded.loaded)
    else:
        emit(StageStarted("pretrain", 0, (), stages["pretrain"].skipped))
    if handed:
        fresh = frozenset(model.params()) - handed
        make(cfg.transfer.handover, HandOver).prepare(model, handed, own_seed(cfg))
        handed = frozenset(model.params()) - fresh
    from_weights = (note for module in model.modules() if isinstance(module, Encoder) for note in module.notes)
    for note in dict.fromkeys((*parts.paradigm.notes(), *parts.notes, *from_weights)):
        emit(Said(note))
    source = SourceStage(parts, plain, folder, emit, handed)
    if cfg.start:
        source.take(Path(cfg.start))
    else:
        costs += source.run(resume)
    first = sum(c.updates for c in costs if c.stage != "pretrain")
    blocks: dict[str, dict[TaskName, TaskResult]] = {}
    outcome = Outcome({}, [], [], {})
    sources: dict[TaskName, dict[TaskName, float]] = {}
    notes = [*parts.paradigm.notes(), *parts.notes, *source.notes]
    if stages["adapt"].skipped:
        emit(StageStarted("adapt", 0, stages["adapt"].tasks, stages["adapt"].skipped))
    else:
        emit(StageStarted("adapt", 0, stages["adapt"].tasks))
        target = TargetStage(parts, source.inner, load, folder, emit)
        outcome = target.run()
        sources, more = target.sources, target.notes
        notes += more
        costs.append(target.cost)
    emit(StageStarted("evaluate", 0, stages["evaluate"].tasks))
    if not cfg.start:
        blocks, evaluating = source.evaluate()
        costs.append(evaluating)
    blocks |= outcome.blocks
    trainable = source.freedom.names

    def predict(batch: Batch) -> dict[TaskName, Tensor]:
        here = batch.to(loop.runtime.device)
        outputs = Ensemble(model, parts.kinds).outputs(model.params(), here, tuple(parts.tasks))
        return {t: o.float().cpu() for t, o in outputs.items()}

    results = Results(
        paradigm=plain["paradigm"]["name"],
        seed=cfg.seed,
        tasks=tuple(parts.tasks),
        blocks=blocks,
        cost=Cost(
            parameters=sum(p.numel() for p in model.params().values()),
            trainable=sum(p.numel() for n, p in model.params().items() if n in trainable),
            networks=len(components(model, tuple(parts.trained))),
            updates=first,
            samples=sum(c.samples for c in costs),
            forward=sum(c.forward for c in costs),
            backward=sum(c.backward for c in costs),
            seconds=sum(c.seconds for c in costs if not c.cached),
            seconds_prepare=seconds_prepare,
            peak_memory=loop.runtime.peak_memory(),
            labels=source.labels,
            flops=total_flops(costs),
        ),
        notes=tuple(notes),
        curves=tuple(outcome.curves),
        baselines=outcome.baselines,
        choices=tuple(outcome.choices),
        stages=tuple(costs),
        sources=sources,
        transference=source.transference.matrix,
    )
    return _kept(results, parts, folder, emit, predict if source.pooled else None)


def _kept(
    results: Results, parts: Experiment, folder: Path, emit: Emit, predict: Callable[[Batch], dict[TaskName, Tensor]] | None
) -> Results:
    """Tell the test scores, write the results, and draw what `predict` puts out."""
    blocks = results.blocks
    scores = {f"test/{b}/{t}/{m}" if b != "a" else f"test/{t}/{m}": s.value for b, t, m, s in _scores(blocks)}
    emit(Measured(results.cost.updates, scores))
    results.write(folder / "results.json")
    if parts.loop.num_pictures and predict:
        _gallery(parts, "test", parts.loop.num_pictures, predict).write(folder)
    return results


def _scores(blocks: Mapping[str, Mapping[TaskName, TaskResult]]) -> Iterator[tuple[str, TaskName, str, Score]]:
    for block, tasks in blocks.items():
        for task, result in tasks.items():
            for metric, score in result.scores.items():
                yield block, task, metric, score


def describe(cfg: DictConfig) -> dict[str, Any]:
    """Stages, and which modules are shared or task-specific, without reading data. JSON types."""
    parts = Experiment.from_config(cfg, (lambda data: refuse(cfg, data)) if cfg.estimator else (lambda _: None))
    stages = [vars(s) | {"tasks": list(s.tasks)} for s in parts.stages.values()]
    if cfg.estimator:
        without_updates = [s | {"updates": 0} for s in stages if s["name"] != "warm_up"]
        return {"stages": without_updates, "modules": [], "networks": 0, "notes": [what_is_unused(cfg)]}
    tasks = tuple(parts.trained)
    modules: dict[str, dict[str, Any]] = {}
    for name, param in parts.model.params().items():
        module = ".".join(name.split(".")[:2]) if not name.startswith("encoder.") else ".".join(name.split(".")[:3])
        row = modules.setdefault(module, {"module": module, "parameters": 0, "tasks": [t for t in tasks if name in parts.model.reads(t)]})
        row["parameters"] += param.numel()
    return {
        "stages": stages,
        "modules": list(modules.values()),
        "networks": len(components(parts.model, tasks)),
        "notes": [*parts.paradigm.notes(), *parts.notes],
    }


def draw_samples(cfg: DictConfig, num: int, emit: Emit = silent) -> Gallery:
    """Samples of the training split with their labels."""
    parts = Experiment.from_config(cfg, lambda data: data.prepare(lambda what, done, total: emit(Advanced(what, done, total, "sample"))))
    return _gallery(parts, "train", num)


def _gallery(parts: Experiment, split: Any, num: int, predict: Callable[[Batch], dict[TaskName, Tensor]] | None = None) -> Gallery:
    pool = parts.data.pool(split)
    # Evenly over the pool, whose order follows the domains, so that every kind of sample is seen.
    index = torch.linspace(0, len(pool) - 1, min(num, len(pool))).round().long()
    batch = pool.read(index)
    with torch.no_grad():
        outputs = predict(batch) if predict else None
    return draw_gallery(batch, parts.data.modalities, parts.kinds, parts.data.domains, outputs)


def _run_info(plain: Mapping[str, Any], folder: Path, *, group: str, resumed: bool, step: int) -> RunInfo:
    def flatten(value: Any, key: str) -> dict[str, str]:
        if isinstance(value, Mapping) and value:
            return {k: v for name, child in value.items() for k, v in flatten(child, f"{key}.{name}" if key else str(name)).items()}
        return {key: json.dumps(value) if isinstance(value, list | dict) else str(value)}

    process = psutil.Process()
    return RunInfo(
        name=folder.name,
        folder=folder,
        experiment=str(plain["name"]),
        params=flatten(plain, ""),
        tags={
            "m3tl.paradigm": plain["paradigm"]["name"],
            "m3tl.seed": str(plain["seed"]),
            "m3tl.host": socket.gethostname(),
            "m3tl.pid": str(os.getpid()),
            "m3tl.process_start": str(process.create_time()),
        },
        group=group,
        resumed=resumed,
        step=step,
    )
