"""The stages of a run: pretraining of encoders, training on the source, adaptation at the target."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from omegaconf import OmegaConf
from torch import Tensor

from m3tl_cli.assembly import Experiment, encoder_node, kind_of, make, new_balancer, new_model, own_seed, task_named
from m3tl_cli.balancing.sum import Sum
from m3tl_cli.core.contracts import Episode, Modality, Name, Pool, Task, TaskName, stable_seed
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.core.events import Advanced, Emit, Event, Measured, Said, StageStarted, Wrote
from m3tl_cli.core.folders import cache_folder
from m3tl_cli.core.members import pool_for_members, sampler_for_members, with_members
from m3tl_cli.core.results import StageCost, TaskResult, write_text
from m3tl_cli.core.weights import Loaded, digest
from m3tl_cli.data.base import Block, SplitName
from m3tl_cli.data.features import encoder_key, precompute
from m3tl_cli.data.store import Store, StorePool
from m3tl_cli.episodes.base import EpisodeSampler
from m3tl_cli.head_init.base import HeadInit
from m3tl_cli.inner.base import InnerLoop
from m3tl_cli.model import MultiTaskModel
from m3tl_cli.optimizer.base import OptimizerBuilder
from m3tl_cli.paradigm.base import Paradigm, Stage
from m3tl_cli.paradigm.engine import Engine
from m3tl_cli.paradigm.ensemble import Ensemble
from m3tl_cli.paradigm.transference import Transference
from m3tl_cli.sampler.base import Sampler
from m3tl_cli.target.adaptation import Adapter, Trial, handed_over
from m3tl_cli.target.protocol import Draw, Outcome, Reference, fitted_on_support
from m3tl_cli.target.starts import Parts, evidence_of_sources, make_starts, probe_sources
from m3tl_cli.task.base import TaskKind
from m3tl_cli.trainer import checkpoint
from m3tl_cli.trainer.evaluation import (
    MetricValues,
    evaluate,
    evaluate_adapted,
    evaluate_constant,
    evaluate_episodes,
    known_task,
    task_results,
    trivial_outputs,
)
from m3tl_cli.trainer.loop import BEST, LAST, Loop, Validation
from m3tl_cli.trainer.siblings import Siblings, training_key
from m3tl_cli.trainer.update import Freedom
from m3tl_cli.transfer.base import HandOver


def pretrained(parts: Experiment, emit: Emit) -> tuple[Callable[[MultiTaskModel], Loaded], StageCost | None]:
    """Pretrained encoders: read from elsewhere, or trained here once and kept in the cache.

    Returns:
        What gives them to a model, and what making them cost; None where they were made elsewhere.
    """
    cfg, source, stage = parts.cfg, parts.source, parts.stages["pretrain"]
    if not source.updates:
        emit(StageStarted("pretrain", 0, (), stage.skipped))
        return source.load, None
    data = parts.data
    data.prepare(lambda what, done, total: emit(Advanced(what, done, total, "sample")), pretrain=True)
    names = source.choose(tuple(data.tasks.values()))
    nodes = {key: OmegaConf.to_container(cfg[key], resolve=True) for key in PRETRAINING}
    nodes["trainer"] = {key: cfg.trainer[key] for key in ("precision", "accumulate", "clip", "validate_every", "patience")}
    content = {**nodes, "tasks": [OmegaConf.to_container(cfg.task[n], resolve=True) for n in names], "seed": cfg.seed}
    folder = cache_folder() / "encoders" / source.key(content)
    folder.mkdir(parents=True, exist_ok=True)
    # Processes that want the same encoders wait for the first one, which makes them.
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        finished = folder / "cost.json"
        told = json.loads(finished.read_text()) if finished.is_file() else {}
        if "flops" in told:
            cost = StageCost(**told | {"cached": True})
            emit(StageStarted("pretrain", 0, names, f"these encoders were trained before, in {cost.seconds:.0f} s"))
        else:
            cost = _pretrain(parts, names, folder, emit, resume=not told)  # anew where operations were not yet counted
            write_text(finished, json.dumps(vars(cost)))
        state = checkpoint.load(folder / BEST)["model"]
    tensors = {n: t for n, t in state.items() if n.startswith("encoder.")}
    return lambda model: source.load(model, tensors), cost


PRETRAINING = ("data", "encoder", "fusion", "backbone", "heads", "sampler", "optimizer", "scheduler")
"""Nodes of the config that decide what pretrained encoders are; of the trainer's only some numbers do, its length not."""


def _on_pool(
    model: MultiTaskModel, kinds: Mapping[TaskName, TaskKind], pool: Pool, trivial: Mapping[TaskName, Tensor], loop: Loop
) -> Validation:
    """Judge a stage by the model's outputs on a pool."""
    size = loop.eval_batch_size
    constant = evaluate_constant(kinds, trivial, pool, size)
    return Validation(constant, lambda asked, advance: evaluate(model, asked, pool, loop.runtime, size, advanced=advance))


def _pretrain(parts: Experiment, names: Sequence[TaskName], folder: Path, emit: Emit, *, resume: bool) -> StageCost:
    cfg, data, loop = parts.cfg, parts.data, parts.loop
    train, validate = data.pool("train", "pretrain"), data.pool("val", "pretrain")
    tasks = {n: known_task(kind_of(cfg, task_named(data, n)), train, loop.eval_batch_size) for n in names}
    kinds = {n: kind_of(cfg, task) for n, task in tasks.items()}
    together = Paradigm("pretraining", pretrain=False, joint=True, bilevel=False, handover=False)
    model = new_model(cfg, data, together)
    model.start(tuple(tasks.values()))
    model.to(loop.runtime.device)
    balancer = Sum()
    names_read = frozenset().union(*(model.reads(n) for n in names))
    engine = Engine(model=model, kinds=kinds, balancer=balancer, trainable=names_read, autocast=loop.runtime.autocast)

    def tell(event: Event) -> None:
        if isinstance(event, Measured):
            values = {k.replace("train/", "pretrain/", 1): v for k, v in event.values.items() if k.startswith("train/")}
            emit(Measured(event.step, values))
        elif not isinstance(event, Wrote):
            emit(event)

    counters = loop.fit(
        replace(parts.stages["pretrain"], tasks=tuple(names)),
        kinds=kinds,
        engine=engine,
        balancer=balancer,
        sampler=make(cfg.sampler, Sampler, pool=train, tasks=tuple(tasks.values()), seed=cfg.seed),
        optimizer=parts.optimizer,
        scheduler=parts.scheduler,
        validation=_on_pool(model, kinds, validate, trivial_outputs(kinds, train, loop.eval_batch_size), loop),
        folder=folder,
        seed=cfg.seed,
        emit=tell,
        resume=resume,
        freedom=Freedom(names_read, penalty=model.sharing.penalty),
    )
    passes = engine.passes
    return StageCost("pretrain", counters.updates, counters.samples, passes.forward, passes.backward, counters.seconds, flops=passes.flops)


AFTER_TRAINING = ("name", "tracking", "baselines", "compared_as", "probe", "transfer.source_task", "trainer.num_pictures")
"""Keys of the config that nothing reads before the source stage is over."""


class SourceStage:
    """Warm-up and training on the source, and what they reach there.

    Args:
        parts: Of the run.
        plain: Config as plain types, for checkpoints.
        folder: Run folder.
        emit: Told what happens.
        handed: Names of the model that were learnt before.
    """

    def __init__(self, parts: Experiment, plain: Mapping[str, Any], folder: Path, emit: Emit, handed: frozenset[Name]) -> None:
        self.parts, self.plain, self.folder, self.emit = parts, plain, folder, emit
        self.inner, self.size = parts.inner, parts.loop.eval_batch_size
        self.train: Pool
        self.val: Pool
        self.test: Pool
        self.train, self.val, self.test = (parts.data.pool(split) for split in ("train", "val", "test"))
        source = {n: k for n, k in parts.kinds.items() if n in self.train.labelled and n not in parts.new}
        self.trivial = trivial_outputs(source, self.train, self.size)  # the zero of block a, of source labels alone
        if parts.cfg.with_target:
            self._add_target()
        self.pooled = {n: k for n, k in parts.kinds.items() if n in self.train.labelled}
        names = frozenset().union(*(parts.model.reads(t) for t in parts.trained))
        handover = make(parts.cfg.transfer.handover, HandOver)
        self.freedom = handed_over(handover, parts.model, names, handed, parts.stages["train"].updates)
        self._store_frozen()
        self.train, self.val = (pool_for_members(pool, parts.trained.values()) for pool in (self.train, self.val))
        self._plain: Validation | None = None  # made once: warm-up and training are judged on the same samples
        self.labels = sum(int(self.train.labelled[n].sum()) for n in self.pooled)
        self.notes: list[str] = []
        self.transference = Transference()

    def run(self, resume: bool) -> list[StageCost]:
        """Train, or with `reuse` take what a run beside this one made of the same training."""
        if not self.parts.cfg.reuse:
            return self._trained(resume)
        siblings = Siblings(self.folder, self._key())
        with siblings.alone(lambda: self.emit(Said("a run beside this one trains the same source networks: waiting for them"))):
            found = siblings.trained()
            if found is None:
                costs = self._trained(resume)
                siblings.leave(costs, self.transference.state_dict())
                return costs
        self.take(found.folder)
        self.transference.load_state_dict(found.beside)
        about = {"config": self.plain, "ledger": self.parts.model.ledger(), "stages": [vars(c) for c in found.stages[:-1]]}
        checkpoint.save(self.folder / BEST, checkpoint.load(found.folder / BEST) | {"about": about})
        for step, values in found.measured():
            self.emit(Measured(step, values))
        for cost in found.stages:
            self.emit(StageStarted(cost.stage, 0, tuple(self.parts.tasks), f"trained in {found.folder.name}, in {cost.seconds:.0f} s"))
        self.emit(Wrote(self.folder / "checkpoints"))
        self.notes.append(f"the source networks are those of {found.folder.name}, whose training is the same to the bit")
        return [replace(cost, cached=True) for cost in found.stages]

    def _key(self) -> str:
        parts = self.parts
        # With episodes, tasks that have no labels outside them are judged by the target's protocol.
        after = AFTER_TRAINING if parts.paradigm.bilevel else (*AFTER_TRAINING, "target")
        new = () if parts.cfg.with_target else ("new_tasks",)
        stores = [p.store.folder.name for p in (self.train, self.val) if isinstance(p, StorePool)]
        left_out = frozenset((*after, *new, *parts.paradigm.idle()))
        return training_key(self.plain, left_out, stores, digest(parts.model.state_dict()))

    def _trained(self, resume: bool) -> list[StageCost]:
        """Train; a stage that an earlier part of this run finished is not repeated."""
        parts = self.parts
        costs: list[StageCost] = []
        before = checkpoint.about(self.folder / LAST) if resume else {}
        for name in ("warm_up", "train"):
            stage = parts.stages[name]
            known = [StageCost(**c) for c in before.get("stages", ()) if c["stage"] == name]
            if known:
                costs += known
            elif stage.skipped:
                if parts.paradigm.bilevel:
                    self.emit(StageStarted(name, 0, stage.tasks, stage.skipped))
            else:
                costs.append(self._fit(stage, costs, resume))
        return costs

    def _add_target(self) -> None:
        """Train and validate on the target's labels, too; new tasks take mean and deviation from them."""
        parts = self.parts
        joined = []
        asked: tuple[tuple[Pool, SplitName], ...] = ((self.train, "train"), (self.val, "val"))
        for pool, split in asked:
            there = parts.data.pool(split, "target") if parts.data.blocks.get("target") else None
            if not isinstance(pool, StorePool) or not isinstance(there, StorePool) or pool.store.folder != there.store.folder:
                raise ConfigError(
                    "`with_target` must meet data whose target lies beside its source; found no target, or one of other data.",
                    hint="name data.target_domains, or leave the baseline out: baselines=[]",
                    place="with_target",
                )
            joined.append(pool.with_rows_of(there))
        self.train, self.val = joined
        for name, task in parts.new.items():
            parts.tasks[name] = parts.new[name] = known_task(kind_of(parts.cfg, task), self.train, self.size)
            parts.kinds[name] = kind_of(parts.cfg, parts.tasks[name])

    def _store_frozen(self) -> None:
        """Compute the outputs of encoders that no step of this stage moves once, and read them from now on."""
        parts = self.parts
        moving = self.freedom.names | frozenset(n for n in parts.model.params() if self.inner.adapts(n) and parts.paradigm.bilevel)
        pools = [self.train, self.val, self.test]
        encode: dict[Modality, Callable[[Tensor], Tensor]] = {}
        keys: dict[Modality, str] = {}
        for modality, info in parts.data.modalities.items():
            nets = parts.model.encoders(modality)
            config = OmegaConf.to_container(encoder_node(parts.cfg.encoder, info), resolve=True)
            assert isinstance(config, dict)
            about = {str(k): v for k, v in config.items()}
            names = {f"encoder.{column}.{modality}." for column in nets}
            same = {encoder_key(net.state_dict(), about) for net in nets.values()}
            if len(same) == 1 and not any(n.startswith(tuple(names)) for n in moving):
                net = next(iter(nets.values())).eval()
                encode[modality] = lambda x, net=net: net(x.to(parts.loop.runtime.device))  # type: ignore[misc]
                keys[modality] = Store.key(samples=[p.store.folder.name for p in pools if isinstance(p, StorePool)], encoder=same.pop())
        if encode and all(isinstance(p, StorePool) for p in pools):
            self.emit(Said(f"frozen encoders run once: {', '.join(encode)}"))
            progress = lambda what, done, total: self.emit(Advanced(what, done, total, "sample"))  # noqa: E731
            self.train, self.val, self.test = precompute(pools, encode, keys, batch_size=self.size, progress=progress)

    def take(self, run: Path) -> None:
        """Take what a finished run learnt instead of training."""
        state = checkpoint.load(run / BEST)["model"]
        params = self.engine().params()
        lacking = [n for n in self.parts.model.params() if n not in state]
        if lacking:
            raise ConfigError(
                f"the run's network must be the one that this config makes; found no `{lacking[0]}` in it",
                hint="leave encoder, fusion, backbone, sharing and transfer as they were",
                place="start",
            )
        with torch.no_grad():
            for name, value in state.items():
                if name in params:
                    params[name].copy_(value)
        self.emit(Said(f"took the network of {run}, {len(self.parts.tasks)} tasks"))

    def _fit(self, stage: Stage, before: Sequence[StageCost], resume: bool) -> StageCost:
        parts, cfg = self.parts, self.parts.cfg
        tasks = tuple(parts.trained.values())
        engine = self.engine() if stage.episodes else self._engine(None)
        freedom = self.freedom
        if stage.episodes:
            learned = frozenset(engine.params()) - frozenset(parts.model.params())
            base = freedom
            freedom = replace(
                base,
                names=base.names | learned,
                trainable=None if base.trainable is None else lambda step: base.at(step) | learned,
                rate=lambda n: self.inner.rate_factor if n in learned else base.rate(n),
            )
            engine.trainable = freedom.names
            sampler: Any = make(
                cfg.episodes, EpisodeSampler, pool=self.train, tasks=tasks, seed=own_seed(cfg), single=parts.paradigm.single
            )
        else:

            def draw_for(some: Sequence[Task], seed: int) -> Sampler:
                return make(cfg.sampler, Sampler, pool=self.train, tasks=some, seed=seed)

            sampler = sampler_for_members(draw_for, tasks, own_seed(cfg))
        counters = parts.loop.fit(
            replace(stage, tasks=tuple(parts.trained)),
            kinds=parts.trained_kinds,
            engine=engine,
            balancer=parts.balancer,
            sampler=sampler,
            optimizer=parts.optimizer,
            scheduler=parts.scheduler,
            validation=self._validation(stage, engine),
            folder=self.folder,
            seed=own_seed(cfg),
            emit=self.emit,
            resume=resume,
            about={"config": self.plain, "ledger": parts.model.ledger(), "stages": [vars(c) for c in before]},
            freedom=freedom,
            first=sum(c.updates for c in before),
            transference=self.transference,
        )
        passes = engine.passes
        return StageCost(
            stage.name, counters.updates, counters.samples, passes.forward, passes.backward, counters.seconds, flops=passes.flops
        )

    def engine(self) -> Engine:
        """An engine that adapts in an inner loop."""
        return self._engine(self.inner)

    def _engine(self, inner: InnerLoop | None) -> Engine:
        parts = self.parts
        return Engine(
            model=parts.model,
            kinds=parts.trained_kinds,
            balancer=parts.balancer,
            trainable=self.freedom.names,
            inner=inner,
            head_init=make(parts.cfg.head_init, HeadInit),
            donors=tuple(parts.trained),
            autocast=parts.loop.runtime.autocast,
            emit=self.emit,
        )

    def _validation(self, stage: Stage, engine: Engine) -> Validation | None:
        parts = self.parts
        if not self.pooled:
            return self._on_episodes(engine) if parts.data.blocks.get("validation") and stage.episodes else None
        if self._plain is None:
            zero = trivial_outputs(self.pooled, self.train, self.size) if parts.cfg.with_target else self.trivial
            # Each member is judged by itself: which of its parameters are best, and whether it goes on.
            judged = {n: kind for n, kind in parts.trained_kinds.items() if kind.task.original in self.pooled}
            zero = {n: zero[kind.task.original] for n, kind in judged.items()}
            self._plain = _on_pool(parts.model, judged, self.val, zero, parts.loop)
        plain = self._plain
        if not stage.episodes:
            return plain
        return Validation(plain.constant, lambda kinds, advance: self._adapted(engine, kinds, self.val, advance))

    def _on_episodes(self, engine: Engine) -> Validation:
        """Judge tasks that exist inside episodes alone, by those of the meta-validation classes."""
        parts, protocol = self.parts, self.parts.protocol
        drawn = parts.data.episodes(
            "validation",
            tuple(parts.tasks.values()),
            num_shots=protocol.num_shots[0],
            num_query=protocol.num_query,
            number=max(1, protocol.num_validation),
            per_class=protocol.per_class,
            seed=parts.cfg.seed,
        )
        fresh = frozenset(parts.tasks) if parts.cfg.episodes.fresh == 1 else frozenset()
        episodes = [replace(e, fresh=fresh) for e in drawn]
        reference = fitted_on_support(parts.kinds, episodes)
        zeros = [reference.score(e) for e in episodes]
        constant = {task: {m: sum(z[task][m] for z in zeros) / len(zeros) for m in kind.metrics} for task, kind in parts.kinds.items()}
        return Validation(constant, lambda kinds, advance: evaluate_episodes(engine, kinds, episodes, parts.loop.runtime, advance))

    def _adapted(self, engine: Engine, kinds: Mapping[TaskName, TaskKind], pool: Pool, advance: Callable[[int, int], None]) -> MetricValues:
        return evaluate_adapted(
            engine,
            kinds,
            support=self.train,
            query=pool,
            runtime=self.parts.loop.runtime,
            size=self.size,
            num_shots=self.parts.cfg.episodes.num_shots,
            single=self.parts.paradigm.single,
            seed=self.parts.cfg.seed,
            advanced=advance,
        )

    def evaluate(self) -> tuple[dict[str, dict[TaskName, TaskResult]], StageCost]:
        """Block a, and where episodes were trained on its zero-step scores beside."""
        begun = time.perf_counter()
        if not self.pooled:
            return {}, StageCost("evaluate", 0, 0, 0, 0, 0.0)
        parts, runtime = self.parts, self.parts.loop.runtime

        def advance(n: int, total: int) -> None:
            self.emit(Advanced("evaluate", n, total, "sample"))

        asked = {n: self.pooled[n] for n in self.trivial}
        constant = evaluate_constant(asked, self.trivial, self.test, self.size)
        plain = evaluate(Ensemble(parts.model, asked), asked, self.test, runtime, self.size, advanced=advance)
        blocks = {"a": task_results(asked, plain, constant)}
        if parts.stages["train"].episodes:
            adapted = self._adapted(self.engine(), asked, self.test, advance)
            blocks = {"a": task_results(asked, adapted, constant), "a@0": blocks["a"]}
        return blocks, StageCost("evaluate", 0, 0, 0, 0, time.perf_counter() - begun)


def drawn_from(parts: Experiment) -> Draw:
    """The episodes that the target's protocol asks for; the same ones in every run of a seed."""
    data, protocol, seed = parts.data, parts.protocol, parts.cfg.seed

    def draw(at: Block, tasks: Sequence[Task], num_shots: int, number: int) -> Sequence[Episode]:
        return data.episodes(
            at, tasks, num_shots=num_shots, num_query=protocol.num_query, number=number, per_class=protocol.per_class, seed=seed
        )

    return draw


def reference_at(parts: Experiment, at: Block, tasks: Sequence[Task]) -> Reference:
    """The zero of the scores of `tasks` at a block: the constants that fit its training labels best, else those of some supports."""
    cfg, size = parts.cfg, parts.loop.eval_batch_size
    pool = parts.data.pool("train", at)
    kinds: dict[TaskName, TaskKind] = {}
    outputs: dict[TaskName, Tensor] = {}
    for task in tasks:
        if task.name in pool.labelled:
            kinds[task.name] = kind_of(cfg, known_task(kind_of(cfg, task), pool, size))
            outputs |= trivial_outputs({task.name: kinds[task.name]}, pool, size)
        else:
            drawn = drawn_from(parts)(at, [task], parts.protocol.num_shots[0], parts.protocol.num_episodes)
            found = fitted_on_support({task.name: kind_of(cfg, task)}, drawn)
            kinds |= found.kinds
            outputs |= found.outputs
    return Reference(kinds, outputs)


class TargetStage:
    """Adaptation at the target: the run's own and that of its baselines.

    Args:
        parts: Of the run; the model is trained.
        inner: As trained.
        load: Gives a model pretrained encoders; None where there are none.
        folder: Run folder.
        emit: Told what happens.
    """

    def __init__(
        self, parts: Experiment, inner: InnerLoop, load: Callable[[MultiTaskModel], Loaded] | None, folder: Path, emit: Emit
    ) -> None:
        self.parts, self.folder, self.emit = parts, folder, emit
        cfg, loop, self.size = parts.cfg, parts.loop, parts.loop.eval_batch_size
        self.sources: dict[TaskName, dict[TaskName, float]] = {}
        self.notes: list[str] = []
        self.cost = StageCost("adapt", 0, 0, 0, 0, 0.0)
        at_target = {n: t for n, t in (parts.tasks | parts.new).items() if "target" in t.at}
        self.seen = tuple(t for n, t in at_target.items() if n not in parts.new)
        self.new = tuple(t for n, t in at_target.items() if n in parts.new)
        self.device = loop.runtime.device

        def scratch(tasks: Sequence[Task], pretrained: bool) -> MultiTaskModel:
            model = new_model(cfg, parts.data, parts.paradigm, seed=stable_seed(own_seed(cfg), "target"))
            model.start(with_members(tasks, cfg.members))
            model.to(self.device)
            if pretrained and load is not None:
                load(model)
            return model

        self.starts = Parts(
            paradigm=parts.paradigm,
            trained=parts.model,
            scratch=scratch,
            seen=self.seen,
            new=self.new,
            inner=inner,
            fresh_inner=lambda: make(cfg.inner, InnerLoop),
            handover=lambda: make(cfg.transfer.handover, HandOver),
            seed=own_seed(cfg),
            head_init=make(cfg.head_init, HeadInit),
            probe=make(cfg.probe, HeadInit),
            fresh=frozenset(parts.tasks) if parts.paradigm.bilevel and cfg.episodes.fresh == 1 else frozenset(),
            complete=cfg.with_target,
        )
        self.adapter = Adapter(
            kind=lambda task: kind_of(cfg, task),
            balancer=lambda: new_balancer(cfg, parts.paradigm),
            runtime=loop.runtime,
            steps=parts.protocol.steps,
            batch_size=parts.protocol.batch_size,
            clip=loop.clip,
            seed=own_seed(cfg),
        )

    def run(self) -> Outcome:
        """Everything that the protocol asks."""
        begun = time.perf_counter()
        parts, protocol = self.parts, self.parts.protocol
        # The source is read again only where new tasks are asked there, too: a target starts from what was learnt, not from its data.
        asked: tuple[Block, ...] = ("validation", "target", "source") if protocol.source_domains else ("validation", "target")
        references = {at: reference_at(parts, at, (*self.seen, *self.new)) for at in asked if parts.data.blocks.get(at)}
        trials = self._trials()
        columns = self._columns(references) if parts.paradigm.separate and parts.paradigm.handover else {}
        starts = make_starts(self.starts, protocol, columns)
        outcome = protocol.run(
            starts,
            trials,
            self.adapter,
            draw=drawn_from(parts),
            references=references,
            record=self.folder / "adaptations.jsonl",
            emit=self.emit,
        )
        spent, seconds = self.adapter.spent, time.perf_counter() - begun
        self.cost = StageCost("adapt", spent.updates, spent.samples, spent.forward, spent.backward, seconds, flops=spent.flops)
        return outcome

    def _trials(self) -> list[Trial]:
        cfg, protocol = self.parts.cfg, self.parts.protocol
        name = str(cfg.optimizer["_target_"]).rpartition(".")[2]
        trials = [Trial(f"{name} {lr:g}", make(OmegaConf.merge(cfg.optimizer, {"lr": lr}), OptimizerBuilder)) for lr in protocol.lrs]
        return trials + ([Trial("inner loop", None)] if protocol.inner or not trials else [])

    def _columns(self, references: Mapping[Block, Reference]) -> dict[TaskName, TaskName]:
        """Whose network each new task starts from."""
        asked = self.parts.cfg.transfer.source_task
        if asked != "auto":
            if asked not in self.parts.tasks:
                found = ", ".join(self.parts.tasks)
                raise ConfigError(f"`source_task` must be auto or a trained task ({found}); found `{asked}`", place="transfer.source_task")
            return {t.name: asked for t in self.new}
        if not self.new:
            return {}
        at: Block = "validation" if "validation" in references else "target"
        draw, shots = drawn_from(self.parts), self.parts.protocol.num_shots[-1]
        episodes = [e.to(self.device) for e in draw(at, self.new, shots, max(1, self.parts.protocol.num_validation))]
        self.sources = probe_sources(self.starts, self.adapter, episodes, references[at])
        evidence: dict[TaskName, dict[TaskName, float]] = {}
        if shots >= FEWEST_FOR_LOGME:
            support = [e.to(self.device) for e in draw("target", self.new, shots, self.parts.protocol.num_episodes)]
            evidence = evidence_of_sources(self.starts, support)
        chosen = {}
        for task, scores in self.sources.items():
            judge = evidence.get(task, scores)
            chosen[task] = max(judge, key=lambda s: judge[s])
            by = f"LogME on {shots} shots of the target" if task in evidence else f"a closed-form head on each at {at}"
            oracle, mean = max(scores.values()), sum(scores.values()) / len(scores)
            self.notes.append(
                f"{task} starts from {chosen[task]}'s network, best by {by}; "
                f"probe there: {scores[chosen[task]]:.3f}, mean over sources {mean:.3f}, best {oracle:.3f}"
            )
            self.emit(Said(self.notes[-1]))
        return chosen


FEWEST_FOR_LOGME = 5
"""Shots below which evidence says too little: the choice is then made on meta-validation."""
