"""One adaptation: from where a block starts, on the support of one episode, scored on its query at several steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace

import torch
from torch import Tensor

from m3tl_cli.balancing.base import Balancer
from m3tl_cli.core.contracts import Episode, Name, Part, Task, TaskName, generator
from m3tl_cli.core.errors import TrainingError
from m3tl_cli.core.members import members, part_for_members, with_members
from m3tl_cli.head_init.base import HeadInit
from m3tl_cli.inner.base import InnerLoop
from m3tl_cli.model import MultiTaskModel
from m3tl_cli.optimizer.base import OptimizerBuilder
from m3tl_cli.paradigm.engine import Engine
from m3tl_cli.paradigm.ensemble import Ensemble
from m3tl_cli.paradigm.flops import FlopTable, Passes
from m3tl_cli.paradigm.heads import start_heads
from m3tl_cli.task.base import TaskKind
from m3tl_cli.trainer.evaluation import MetricValues, score
from m3tl_cli.trainer.runtime import Runtime
from m3tl_cli.trainer.selection import Selection
from m3tl_cli.trainer.update import Freedom, update
from m3tl_cli.transfer.base import HandOver

Points = dict[int, MetricValues]
"""Metrics on the query after so many steps."""


@dataclass(frozen=True)
class Spent:
    """What adaptations cost: optimiser steps, samples read by steps of either sort, passes of a batch through one of the networks.

    Scoring is among the passes and not among `flops`, the floating-point operations of building heads and of steps; NaN where some were
    not counted.
    """

    updates: int = 0
    samples: int = 0
    forward: int = 0
    backward: int = 0
    flops: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: Spent) -> Spent:
        return Spent(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Trial:
    """One way to adapt.

    Args:
        label: For tables, for example `AdamW 0.003`.
        optimizer: Steps on mini-batches of the support; None: the inner loop takes them, on the whole support, without state.
    """

    label: str
    optimizer: OptimizerBuilder | None


@dataclass
class Start:
    """Where a block of the target starts: the same object for every episode, trial and number of shots.

    Args:
        block: `b`: target domains and seen tasks; `c`: target domains and new tasks; `d`: source domains and new tasks.
        model: Already grown; its parameters are overwritten, and put back before every adaptation.
        tasks: Adapted and scored.
        fresh: Those whose head is built from the support.
        baseline: Name of what this is compared as; empty for the run itself.
        closed: Whether there are no steps: fresh heads keep their closed form, others are as trained.
        head_init: Builds the fresh heads.
        handed: Names that bring something: the rest starts at random.
        inner: Inner loop; knows the model's names.
        handover: What stays frozen.
        kept: Older tasks of the model that are scored, too, after the adaptation.
        along: Whether these are trained along, from labels of the support.
        donors: Tasks from whose heads a fresh one may take its hidden layers.
    """

    block: str
    model: MultiTaskModel
    tasks: tuple[Task, ...]
    fresh: frozenset[TaskName]
    handed: frozenset[Name]
    inner: InnerLoop
    handover: HandOver
    head_init: HeadInit
    kept: tuple[Task, ...] = ()
    along: bool = False
    donors: tuple[TaskName, ...] = ()
    baseline: str = ""
    closed: bool = False
    phi: dict[Name, Tensor] = field(init=False)
    flops: FlopTable = field(init=False, default_factory=FlopTable)

    def __post_init__(self) -> None:
        self.phi = {n: p.detach().clone() for n, p in self.model.params().items()}

    @property
    def labelled(self) -> tuple[Task, ...]:
        """Tasks whose labels the support must hold."""
        return (*self.tasks, *self.kept) if self.along else self.tasks

    def trained(self, tasks: Sequence[Task]) -> tuple[Task, ...]:
        """The tasks, each with as many members as the model has of it."""
        networks = members(self.model.tasks.values())
        return tuple(member for t in tasks for member in with_members([t], len(networks[t.name])))

    @torch.no_grad()
    def put_back(self) -> None:
        """Give the model the parameters that the block starts from."""
        for name, param in self.model.params().items():
            param.copy_(self.phi[name])
            param.grad = None

    @property
    def unchanged(self) -> bool:
        """Whether no tensor of the model but its fresh heads differs from what it started with, to the bit."""
        built = fresh_names(self)
        return all(torch.equal(p, self.phi[n]) for n, p in self.model.params().items() if n not in built)

    @torch.no_grad()
    def copy_columns(self, columns: Mapping[TaskName, TaskName]) -> None:
        """Make the own networks of fresh tasks copies of other tasks' networks, here and in what is put back."""
        networks = members(self.model.tasks.values())
        for task, source in columns.items():
            for member, other in zip(networks[task], networks[source], strict=True):
                for own, like in self.model.columns(member, other).items():
                    self.phi[own].copy_(self.phi[like])
        self.put_back()


@dataclass
class Adapter:
    """What every adaptation of a run has in common.

    Args:
        kind: Makes the kind of a task, with the statistics that the task carries.
        balancer: Makes a balancer, as new.
        runtime: Device and precision.
        steps: Points of the curve, rising, from 0.
        batch_size: Samples of a step of a stateful optimiser, at most.
        clip: Largest gradient norm of a component.
        seed: Of the order of the support.
    """

    kind: Callable[[Task], TaskKind]
    balancer: Callable[[], Balancer]
    runtime: Runtime
    steps: tuple[int, ...]
    batch_size: int
    clip: float | None
    seed: int
    spent: Spent = Spent()

    def kinds(self, start: Start, episode: Episode) -> dict[TaskName, TaskKind]:
        """Kinds of the start's tasks; new ones take mean and deviation from the support, as nothing else of them is known."""
        kinds = {t.name: self.kind(t) for t in start.trained((*start.tasks, *start.kept))}
        if start.block != "b":
            for part in episode.support:
                for name in part.tasks:
                    if name in start.fresh:
                        known = kinds[name].standardised(part.batch.targets[name], part.batch.labelled[name])
                        kinds[name] = self.kind(known)
        return kinds

    def begin(self, start: Start, episode: Episode, kinds: Mapping[TaskName, TaskKind]) -> None:
        """Put the start's parameters back and build the fresh heads from the support."""
        start.put_back()
        if not start.fresh:
            return
        passes = Passes()
        with torch.no_grad():
            params = start.model.params()
            with start.flops.block(None, passes):  # the size of a closed form depends on which labels are known
                found = start_heads(start.model, params, kinds, start.head_init, episode.support, start.fresh, start.donors)
            for name, value in found.items():
                if value is not params[name]:
                    params[name].copy_(value)
        self.spent += Spent(flops=passes.flops)

    def score(
        self, start: Start, episode: Episode, kinds: Mapping[TaskName, TaskKind], params: Mapping[Name, Tensor], kept: bool = False
    ) -> MetricValues:
        """Every metric of the start's tasks, and where asked for of those kept, on the query."""
        tasks = [t.name for t in (*start.tasks, *(start.kept if kept else ()))]
        meters = {t: kinds[t].meter() for t in tasks}
        for part in episode.query:
            here = {t: meters[t] for t in part.tasks if t in meters}
            if here:
                score(Ensemble(start.model, kinds), params, part.batch, here, self.runtime)
                self.spent += Spent(forward=1)
        return {t: meter.compute() for t, meter in meters.items()}

    def unadapted(self, start: Start, episode: Episode) -> Points:
        """Score the query before the first step; a fresh head is as its support built it."""
        episode = _for_members(episode, start).to(self.runtime.device)
        kinds = self.kinds(start, episode)
        self.begin(start, episode, kinds)
        return {0: self.score(start, episode, kinds, start.model.params())}

    def adapt(self, start: Start, episode: Episode, trial: Trial, *, last: int | None = None, watch: int = -1) -> Points:
        """Adapt to the support and score the query.

        Args:
            start: Its model ends with the adapted parameters.
            episode: Support and query.
            trial: How.
            last: Stop after so many steps; None: after the curve's last point.
            watch: Number of steps after which the kept tasks are scored, too, as they are before the first step; -1: never.

        Returns:
            Metrics by number of steps. A descent whose loss is no longer finite keeps its last scores to the end.
        """
        episode = _for_members(_for_tasks(episode, start.labelled), start).to(self.runtime.device)
        kinds = self.kinds(start, episode)
        self.begin(start, episode, kinds)
        points: Points = {0: self.score(start, episode, kinds, start.model.params(), kept=watch >= 0)}
        wanted = [s for s in self.steps if s > 0 and (last is None or s <= last)]
        if not wanted:
            return points
        if trial.optimizer is None:
            self._by_inner_loop(start, episode, kinds, wanted, points, watch)
        else:
            self._by_optimizer(start, episode, kinds, trial.optimizer, wanted, points, watch)
        if watch in wanted and watch not in points:  # the descent ended before; what is kept is scored where it ended
            points[watch] = self.score(start, episode, kinds, start.model.params(), kept=True)
        reached = points[max(points)]
        return points | {s: reached for s in wanted if s not in points}

    def _by_optimizer(
        self,
        start: Start,
        episode: Episode,
        kinds: Mapping[TaskName, TaskKind],
        builder: OptimizerBuilder,
        wanted: Sequence[int],
        points: Points,
        watch: int,
    ) -> None:
        active = tuple(t.name for t in start.trained(start.labelled))
        balancer = self.balancer()
        balancer.reset(active)
        params = start.model.params()
        names = frozenset().union(*(start.model.reads(t) for t in active))
        freedom = handed_over(start.handover, start.model, names, start.handed - fresh_names(start), wanted[-1])
        engine = Engine(
            model=start.model,
            kinds=kinds,
            balancer=balancer,
            trainable=freedom.names,
            autocast=self.runtime.autocast,
            flops=start.flops,
        )
        trained = {n: params[n] for n in params if n in freedom.names}
        optimizer = builder.build(trained, freedom.rate)
        components = Selection(engine, active, None).components
        for step in range(wanted[-1]):
            query = tuple(self._batch(part, step) for part in episode.support)
            plain = Episode(episode.uid, (), query, episode.tasks)
            try:
                update(
                    engine, [plain], step=step, freedom=freedom, components=components, params=trained, optimizer=optimizer, clip=self.clip
                )
            except TrainingError:
                break
            self.spent += Spent(updates=1, samples=sum(len(p.batch) for p in query))
            if step + 1 in wanted:
                points[step + 1] = self.score(start, episode, kinds, params, kept=step + 1 == watch)
        self.spent += Spent(forward=engine.passes.forward, backward=engine.passes.backward, flops=engine.passes.flops)

    def _by_inner_loop(
        self, start: Start, episode: Episode, kinds: Mapping[TaskName, TaskKind], wanted: Sequence[int], points: Points, watch: int
    ) -> None:
        engine = Engine(
            model=start.model,
            kinds=kinds,
            balancer=self.balancer(),
            trainable=frozenset(start.model.params()),
            inner=start.inner,
            autocast=self.runtime.autocast,
            flops=start.flops,
        )

        def on_step(k: int, params: Mapping[Name, Tensor]) -> None:
            if k == 1:  # also where a descent that diverged starts anew: what it had reached does not count
                for step in [s for s in points if s]:
                    del points[step]
            self.spent += Spent(samples=sum(len(p.batch) for p in episode.support))
            if k in wanted:
                points[k] = self.score(start, episode, kinds, params, kept=k == watch)

        phi = start.model.params()
        theta = engine.adapted(engine.params(), episode.support, steps=wanted[-1], on_step=on_step)
        self.spent += Spent(forward=engine.passes.forward, backward=engine.passes.backward, flops=engine.passes.flops)
        moved = [n for n in phi if theta[n] is not phi[n]]
        if not moved:  # every descent diverged, and was taken back
            for step in [s for s in points if s]:
                del points[step]
        with torch.no_grad():
            for name in moved:
                phi[name].copy_(theta[name])

    def _batch(self, part: Part, step: int) -> Part:
        """A mini-batch of the support: whole where it is small, else from a new order in every pass over it."""
        size = len(part.batch)
        if size <= self.batch_size:
            return part
        epoch, place = divmod(step, size // self.batch_size)
        order = torch.randperm(size, generator=generator(self.seed, "support", epoch))
        index = order[place * self.batch_size : (place + 1) * self.batch_size]
        return replace(part, batch=part.batch.take(index.to(part.batch.index.device)))


def _for_tasks(episode: Episode, tasks: Sequence[Task]) -> Episode:
    """The episode with a support for `tasks` alone: what is only scored afterwards must not be learnt from."""
    names = {t.name for t in tasks}
    support = (replace(p, tasks=tuple(t for t in p.tasks if t in names)) for p in episode.support)
    return replace(episode, support=tuple(p for p in support if p.tasks))


def _for_members(episode: Episode, start: Start) -> Episode:
    """The episode with a support that every member of the start's tasks learns from alike."""
    return replace(episode, support=tuple(part_for_members(p, start.model.tasks.values()) for p in episode.support))


def fresh_names(start: Start) -> frozenset[Name]:
    """Names of the heads that the support builds."""
    heads = tuple(f"head.{t}." for t in start.fresh)
    return frozenset(n for n in start.phi if heads and n.startswith(heads))


def handed_over(handover: HandOver, model: MultiTaskModel, names: frozenset[Name], handed: frozenset[Name], steps: int) -> Freedom:
    """What a stage may change where `handed` of its `names` were learnt before, and the rest is new.

    Args:
        handover: Decides.
        model: Its parameters are where the hand-over's penalty pulls to; its sharing may add another penalty.
        names: Everything that the stage's tasks read.
        handed: Names that bring something.
        steps: Of the stage.
    """
    params = {n: p for n, p in model.params().items() if n in names}
    fresh = frozenset(params) - handed
    # Most sharings pull nothing, which one look tells: it depends on the names.
    pull = model.sharing.penalty if model.sharing.penalty(params) is not None else None
    if len(fresh) == len(params):
        return Freedom(names, penalty=pull)
    start = {n: p.detach().clone() for n, p in params.items() if n not in fresh}
    rates = handover.rates(params, fresh)
    return Freedom(
        names=handover.trainable(params, fresh, max(0, steps - 1), steps),  # what may change only grows
        trainable=lambda step: handover.trainable(params, fresh, step, steps),
        rate=lambda name: rates.get(name, 1.0),
        penalty=lambda at: _sum(handover.penalty(at, start), pull(at) if pull else None),
    )


def _sum(*penalties: Tensor | None) -> Tensor | None:
    found = [p for p in penalties if p is not None]
    return torch.stack(found).sum() if found else None
