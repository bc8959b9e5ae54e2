"""From a config to a run. Read me first: every part is named once, in the order of the data flow."""

from __future__ import annotations

import inspect
import json
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from m3tl_cli.backbone.base import Backbone
from m3tl_cli.balancing.base import Balancer
from m3tl_cli.core.contracts import ModalityInfo, Signature, Task, TaskName, components
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.core.events import Advanced, Emit, Event, Measured, Said, StageStarted, Wrote, silent
from m3tl_cli.core.results import Cost, Results, write_text
from m3tl_cli.data.base import Data
from m3tl_cli.drawing import Gallery, draw_gallery
from m3tl_cli.encoder.base import Encoder
from m3tl_cli.fusion.base import Fusion
from m3tl_cli.heads.base import Head
from m3tl_cli.model import MultiTaskModel
from m3tl_cli.optimizer.base import OptimizerBuilder
from m3tl_cli.paradigm.base import Paradigm
from m3tl_cli.paradigm.engine import Engine
from m3tl_cli.report import page
from m3tl_cli.sampler.base import Sampler
from m3tl_cli.scheduler.base import Scheduler
from m3tl_cli.sharing.base import Sharing
from m3tl_cli.task.base import TaskKind
from m3tl_cli.tracking.base import Ending, RunInfo, Tracker
from m3tl_cli.tracking.environment import environment
from m3tl_cli.trainer import checkpoint
from m3tl_cli.trainer.evaluation import evaluate, evaluate_constant, task_results, trivial_outputs
from m3tl_cli.trainer.journal import Journal
from m3tl_cli.trainer.loop import LAST, Loop, Validation

Part = TypeVar("Part")


@dataclass
class Experiment:
    """Every part of a run, made from a config but for what needs prepared data."""

    cfg: DictConfig
    data: Data
    tasks: dict[TaskName, Task]
    kinds: dict[TaskName, TaskKind]
    model: MultiTaskModel
    balancer: Balancer
    paradigm: Paradigm
    optimizer: OptimizerBuilder
    scheduler: Scheduler
    loop: Loop

    @staticmethod
    def from_config(cfg: DictConfig, prepare: Callable[[Data], object] = lambda _: None) -> Experiment:
        """Make the parts.

        Args:
            cfg: Composed and validated.
            prepare: Called with the data before its tasks are read: makes the store, or leaves it out where only shapes are wanted.

        Raises:
            ConfigError: If parts do not fit together.
        """
        data = make(cfg.data, Data)
        prepare(data)
        tasks = {name: _task(data, name) for name in cfg.tasks or [n for n in cfg.task if "source" in _task(data, n).at]}
        kinds = {name: make(cfg.task[name], TaskKind, task=task) for name, task in tasks.items()}
        paradigm = Paradigm(**cfg.paradigm)
        fixed: dict[str, Any] = {"sharing": cfg.sharing, "balancing": cfg.balancing} | paradigm.fixed_parts()
        model = MultiTaskModel(
            encoders={m: _encoder(cfg.encoder, info) for m, info in data.modalities.items()},
            fusion=lambda inputs: make(cfg.fusion, Fusion, inputs=inputs),
            backbone=lambda inputs: make(cfg.backbone, Backbone, inputs=inputs),
            sharing=lambda num_stages: make(fixed["sharing"], Sharing, num_stages=num_stages),
            head=lambda task, inputs: _head(cfg.heads, task, inputs),
            seed=cfg.seed,
        )
        model.start(tuple(tasks.values()))
        balancer = make(fixed["balancing"], Balancer, seed=cfg.seed)
        return Experiment(
            cfg=cfg,
            data=data,
            tasks=tasks,
            kinds=kinds,
            model=model,
            balancer=balancer,
            paradigm=paradigm,
            optimizer=make(cfg.optimizer, OptimizerBuilder),
            scheduler=make(cfg.scheduler, Scheduler),
            loop=make(cfg.trainer, Loop),
        )


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
        made = data.prepare(lambda what, done, total: emit(Advanced(what, done, total, "sample")))

    parts = Experiment.from_config(cfg, prepare)
    seconds_prepare = time.perf_counter() - begun if made else 0.0
    data, model, kinds, loop = parts.data, parts.model, parts.kinds, parts.loop
    size = loop.eval_batch_size
    model.to(loop.runtime.device)
    train, validate, test = (data.pool(split) for split in ("train", "val", "test"))
    trivial = trivial_outputs(kinds, train, size)
    sampler = make(cfg.sampler, Sampler, pool=train, tasks=tuple(parts.tasks.values()), seed=cfg.seed)
    trainable = frozenset().union(*(model.reads(t) for t in parts.tasks))
    engine = Engine(model=model, kinds=kinds, balancer=parts.balancer, trainable=trainable, autocast=loop.runtime.autocast)
    stages = parts.paradigm.stages(tuple(parts.tasks), loop.updates)
    from_weights = (note for module in model.modules() if isinstance(module, Encoder) for note in module.notes)
    for note in dict.fromkeys((*parts.paradigm.notes(), *from_weights)):
        emit(Said(note))
    counters = loop.fit(
        stages[0],
        model=model,
        kinds=kinds,
        engine=engine,
        balancer=parts.balancer,
        sampler=sampler,
        optimizer=parts.optimizer,
        scheduler=parts.scheduler,
        validation=Validation(validate, trivial),
        folder=folder,
        seed=cfg.seed,
        emit=emit,
        resume=resume,
        about={"config": plain, "ledger": model.ledger()},
    )
    emit(StageStarted(stages[1].name, 0, stages[1].tasks))
    started = time.perf_counter()
    values = evaluate(model, kinds, test, loop.runtime, size, advanced=lambda n, total: emit(Advanced("evaluate", n, total, "sample")))
    constant = evaluate_constant(kinds, trivial, test, size)
    emit(Measured(counters.updates, {f"test/{t}/{m}": v for t, found in values.items() for m, v in found.items()}))
    results = Results(
        paradigm=plain["paradigm"]["name"],
        seed=cfg.seed,
        tasks=tuple(parts.tasks),
        blocks={"a": task_results(kinds, values, constant)},
        cost=Cost(
            parameters=sum(p.numel() for p in model.params().values()),
            trainable=sum(p.numel() for n, p in model.params().items() if n in trainable),
            networks=len(components(model, tuple(parts.tasks))),
            updates=counters.updates,
            samples=counters.samples,
            forward=engine.passes.forward,
            backward=engine.passes.backward,
            seconds=counters.seconds + time.perf_counter() - started,
            seconds_prepare=seconds_prepare,
            peak_memory=loop.runtime.peak_memory(),
        ),
        notes=parts.paradigm.notes(),
    )
    results.write(folder / "results.json")
    if loop.num_pictures:
        _gallery(parts, "test", loop.num_pictures, predict=True).write(folder)
    return results


def describe(cfg: DictConfig) -> dict[str, Any]:
    """Stages, and which modules are shared or task-specific, without reading data. JSON types."""
    parts = Experiment.from_config(cfg)
    tasks = tuple(parts.tasks)
    modules: dict[str, dict[str, Any]] = {}
    for name, param in parts.model.params().items():
        module = ".".join(name.split(".")[:2]) if not name.startswith("encoder.") else ".".join(name.split(".")[:3])
        row = modules.setdefault(module, {"module": module, "parameters": 0, "tasks": [t for t in tasks if name in parts.model.reads(t)]})
        row["parameters"] += param.numel()
    stages = parts.paradigm.stages(tasks, parts.loop.updates)
    return {
        "stages": [vars(s) | {"tasks": list(s.tasks)} for s in stages],
        "modules": list(modules.values()),
        "networks": len(components(parts.model, tasks)),
        "notes": list(parts.paradigm.notes()),
    }


def draw_samples(cfg: DictConfig, num: int, emit: Emit = silent) -> Gallery:
    """Samples of the training split with their labels."""
    parts = Experiment.from_config(cfg, lambda data: data.prepare(lambda what, done, total: emit(Advanced(what, done, total, "sample"))))
    return _gallery(parts, "train", num, predict=False)


def _gallery(parts: Experiment, split: Any, num: int, *, predict: bool) -> Gallery:
    pool = parts.data.pool(split)
    # Evenly over the pool, whose order follows the domains, so that every kind of sample is seen.
    index = torch.linspace(0, len(pool) - 1, min(num, len(pool))).round().long()
    batch = pool.read(index)
    outputs = None
    if predict:
        with torch.no_grad():
            here = batch.to(parts.loop.runtime.device)
            outputs = {t: o.float().cpu() for t, o in parts.model.outputs(parts.model.params(), here, tuple(parts.tasks)).items()}
    return draw_gallery(batch, parts.data.modalities, parts.kinds, parts.data.domains, outputs)


def make(node: DictConfig | Mapping[str, Any], kind: type[Part], **runtime: Any) -> Part:
    """Make the part that a config node names.

    Args:
        node: `_target_` and hyper-parameters.
        kind: What it must be.
        **runtime: Given where the constructor asks for it: what is known only while a run is put together.

    Raises:
        ConfigError: If the node names something else.
    """
    found = get_class(node["_target_"])
    if not issubclass(found, kind):
        raise ConfigError(f"must name a {kind.__name__}; found {found.__name__}", place=str(node["_target_"]))
    accepted = inspect.signature(found).parameters
    # Partial, then called: Hydra would turn runtime objects such as a Task into configs.
    factory = instantiate(node, _partial_=True, _convert_="all")
    part: Part = factory(**{name: value for name, value in runtime.items() if name in accepted})
    return part


def _task(data: Data, name: TaskName) -> Task:
    if name not in data.tasks:
        raise ConfigError(f"must be among the data's tasks ({', '.join(data.tasks)}); found `{name}`", place="tasks")
    return data.tasks[name]


def _encoder(nodes: DictConfig, info: ModalityInfo) -> Callable[[], Encoder]:
    # A node named after the modality wins over its kind's.
    node = nodes.get(info.name) or nodes.get(info.kind)
    if node is None:
        raise ConfigError(f"must have a node for modality `{info.name}` or its kind `{info.kind}`; found {list(nodes)}", place="encoder")
    return lambda: make(node, Encoder, modality=info)


def _head(nodes: DictConfig, task: Task, inputs: Signature) -> Head:
    node = nodes.get(task.name) or nodes.get("dense" if task.dense else "vector")
    if node is None:
        raise ConfigError(f"must have a node for task `{task.name}` or its kind of head; found {list(nodes)}", place="heads")
    return make(node, Head, task=task, inputs=inputs)


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
