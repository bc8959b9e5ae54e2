"""Where the blocks of the target start from: this run's own starts, and those of its baselines."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from m3tl_cli.core.contracts import Episode, Name, Task, TaskName
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.core.members import members, with_members
from m3tl_cli.core.results import BASELINES
from m3tl_cli.head_init.base import HeadInit
from m3tl_cli.inner.base import InnerLoop
from m3tl_cli.model import MultiTaskModel
from m3tl_cli.paradigm.base import Paradigm
from m3tl_cli.target.adaptation import Adapter, Start
from m3tl_cli.target.protocol import Protocol, Reference, results_at
from m3tl_cli.transfer.base import HandOver
from m3tl_cli.transfer.logme import logme


@dataclass(frozen=True)
class Parts:
    """What starts are made of.

    Args:
        paradigm: Its switches decide.
        trained: The model after the source stage.
        scratch: Makes a model with other tasks that nothing trained; the flag says whether its encoders come pretrained.
        seen: Tasks of the source that the target labels. new: those that only the target labels.
        inner: Inner loop after training. fresh_inner: makes one that nothing trained.
        handover: Makes a hand-over. seed: of what it adds.
        head_init: Builds fresh heads. probe: the same for baselines: a closed form.
        fresh: Seen tasks whose heads every episode builds.
        complete: The model was trained on the target's labels, those of new tasks among them: nothing is left to adapt.
    """

    paradigm: Paradigm
    trained: MultiTaskModel
    scratch: Callable[[Sequence[Task], bool], MultiTaskModel]
    seen: tuple[Task, ...]
    new: tuple[Task, ...]
    inner: InnerLoop
    fresh_inner: Callable[[], InnerLoop]
    handover: Callable[[], HandOver]
    seed: int
    head_init: HeadInit
    probe: HeadInit
    fresh: frozenset[TaskName]
    complete: bool


def make_starts(parts: Parts, protocol: Protocol, columns: Mapping[TaskName, TaskName]) -> list[Start]:
    """Starts of the run, then of its baselines.

    Args:
        parts: What they are made of.
        protocol: Says what is asked and compared.
        columns: Where tasks have networks of their own: per new task, the task whose network it starts from.
    """
    if protocol.case == 1 and not parts.paradigm.handover:
        raise ConfigError(
            "`case` must be 2 where nothing is handed over; found 1.", hint="target.case=2, or paradigm=mtl_handover", place="target.case"
        )
    if parts.complete:
        return [_as_trained(parts, block, tasks) for block, tasks in (("b", parts.seen), ("c", parts.new)) if tasks]
    starts = []
    if parts.seen:
        starts.append(_seen(parts))
    new = parts.new if protocol.case == 2 or protocol.probe else ()
    if new:
        starts.append(_new(parts, protocol, columns, "c"))
        if protocol.source_domains:
            starts.append(_new(parts, protocol, columns, "d"))
    for name in protocol.baselines:
        starts += _BASELINES[name](parts, new, columns)
    return starts


def _seen(parts: Parts) -> Start:
    names = frozenset(t.name for t in parts.seen)
    if not parts.paradigm.handover:
        return _scratch(parts, "b", parts.seen, parts.paradigm.pretrain)
    return _start(parts, "b", copy.deepcopy(parts.trained), parts.seen, parts.fresh & names, parts.inner)


def _as_trained(parts: Parts, block: str, tasks: tuple[Task, ...]) -> Start:
    """The trained model as it is: no step, and no head to build."""
    start = _start(parts, block, copy.deepcopy(parts.trained), tasks, frozenset(), parts.inner)
    start.closed = True
    return start


def _new(parts: Parts, protocol: Protocol, columns: Mapping[TaskName, TaskName], block: str) -> Start:
    if not parts.paradigm.handover:
        return _scratch(parts, block, parts.new, parts.paradigm.pretrain)
    model = grown(parts, columns)
    kept = parts.seen if protocol.keep_old != "drop" and not parts.paradigm.separate and block == "c" and protocol.case == 2 else ()
    start = _start(parts, block, model, parts.new, _networks(model, parts.new), parts.inner, donors=tuple(parts.trained.tasks))
    start.kept, start.along = kept, protocol.keep_old == "joint" and bool(kept)
    return start


def grown(parts: Parts, columns: Mapping[TaskName, TaskName]) -> MultiTaskModel:
    """The trained model with the new tasks added, each in the place of the task that `columns` names, by default the first."""
    model = copy.deepcopy(parts.trained)
    first = next(iter(model.tasks))
    sources = members(model.tasks.values())
    for task in parts.new:
        like = sources[columns.get(task.name, first)]
        for own, source in zip(with_members([task], len(like)), like, strict=True):
            model.add_task(own, source)
    return model


def _networks(model: MultiTaskModel, tasks: Sequence[Task]) -> frozenset[TaskName]:
    """Names of all members of the tasks."""
    names = {t.name for t in tasks}
    return frozenset(n for n, t in model.tasks.items() if t.original in names)


def _start(
    parts: Parts,
    block: str,
    model: MultiTaskModel,
    tasks: tuple[Task, ...],
    fresh: frozenset[TaskName],
    inner: InnerLoop,
    donors: tuple[TaskName, ...] = (),
) -> Start:
    """A start from the trained model: everything but fresh heads was learnt."""
    heads = tuple(f"head.{t}." for t in fresh)
    handed = frozenset(n for n in model.params() if not (heads and n.startswith(heads)))
    return _with_inner(parts, block, model, tasks, fresh, handed, copy.deepcopy(inner), donors)


def _scratch(parts: Parts, block: str, tasks: tuple[Task, ...], pretrained: bool, baseline: str = "") -> Start:
    """A start from encoders at most."""
    model = parts.scratch(tasks, pretrained)
    handed = frozenset(n for n in model.params() if pretrained and n.startswith("encoder."))
    start = _with_inner(parts, block, model, tasks, _networks(model, tasks), handed, parts.fresh_inner(), ())
    start.baseline = baseline
    return start


def _with_inner(
    parts: Parts,
    block: str,
    model: MultiTaskModel,
    tasks: tuple[Task, ...],
    fresh: frozenset[TaskName],
    handed: frozenset[Name],
    inner: InnerLoop,
    donors: tuple[TaskName, ...],
) -> Start:
    handover = parts.handover()
    if handed:
        new = frozenset(model.params()) - handed
        handover.prepare(model, handed, parts.seed)
        handed = frozenset(model.params()) - new
    return Start(block, model, tasks, fresh, handed, inner, handover, parts.head_init, donors=donors)


def _ridge(parts: Parts, new: tuple[Task, ...], columns: Mapping[TaskName, TaskName]) -> list[Start]:
    """A closed-form head on what the source stage left, frozen."""
    models = [("b", copy.deepcopy(parts.trained), parts.seen), ("c", grown(parts, columns), new)]
    return [_closed(parts, block, model, tasks, BASELINES["ridge"]) for block, model, tasks in models if tasks]


def _random(parts: Parts, new: tuple[Task, ...], columns: Mapping[TaskName, TaskName]) -> list[Start]:  # noqa: ARG001
    """A closed-form head on a network that nothing trained."""
    blocks = [("b", parts.seen), ("c", new)]
    return [_closed(parts, block, parts.scratch(tasks, False), tasks, BASELINES["random"]) for block, tasks in blocks if tasks]


def _from_scratch(parts: Parts, new: tuple[Task, ...], columns: Mapping[TaskName, TaskName]) -> list[Start]:  # noqa: ARG001
    """The whole network at the target, from the start, with the run's trials."""
    return [_scratch(parts, block, tasks, False, BASELINES["scratch"]) for block, tasks in (("b", parts.seen), ("c", new)) if tasks]


def _closed(parts: Parts, block: str, model: MultiTaskModel, tasks: tuple[Task, ...], baseline: str) -> Start:
    start = _with_inner(parts, block, model, tasks, _networks(model, tasks), frozenset(), parts.fresh_inner(), ())
    start.baseline, start.closed, start.head_init = baseline, True, parts.probe
    return start


_BASELINES = {"ridge": _ridge, "random": _random, "scratch": _from_scratch}


def probe_sources(
    parts: Parts, adapter: Adapter, episodes: Sequence[Episode], reference: Reference
) -> dict[TaskName, dict[TaskName, float]]:
    """Score every source task's network for every new task: a closed-form head on it, frozen, without a step.

    Args:
        parts: The trained model has a network per task.
        adapter: Does it.
        episodes: Of the meta-validation domains, or of the target where there are none.
        reference: Zero of the scores there.

    Returns:
        New task to source task to error reduction of the primary metric, mean over the episodes.
    """
    found: dict[TaskName, dict[TaskName, float]] = {t.name: {} for t in parts.new}
    start = _closed(parts, "c", grown(parts, {}), parts.new, "")
    zeros = [reference.score(e) for e in episodes]
    for source in members(parts.trained.tasks.values()):
        start.copy_columns({t.name: source for t in parts.new})
        reached = [adapter.unadapted(start, e) for e in episodes]
        for task, result in results_at(parts.new, reached, zeros, reference.kinds, 0).items():
            gain = result.scores[result.primary].error_reduction
            found[task][source] = gain if math.isfinite(gain) else -math.inf
    return found


def evidence_of_sources(parts: Parts, episodes: Sequence[Episode]) -> dict[TaskName, dict[TaskName, float]]:
    """Score every source task's network for every new vector task by LogME, on support labels alone.

    Args:
        parts: The trained model has a network per task.
        episodes: Whose support is read.

    Returns:
        New vector task to source task to LogME, mean over the episodes; a dense task, or one whose support says nothing, is not
        among them.
    """
    found: dict[TaskName, dict[TaskName, float]] = {t.name: {} for t in parts.new if not t.dense}
    if not found:
        return {}
    start = _closed(parts, "c", grown(parts, {}), parts.new, "")
    for source in members(parts.trained.tasks.values()):
        start.copy_columns({t.name: source for t in parts.new})
        scores: dict[TaskName, list[float]] = {t: [] for t in found}
        for part in (part for episode in episodes for part in episode.support):
            for task in (t for t in part.tasks if t in found):
                labelled = part.batch.labelled[task]
                targets = part.batch.targets[task][labelled]
                if len(targets) < 2 or (not targets.is_floating_point() and len(targets.unique()) < 2):
                    continue  # says nothing of any source
                with torch.no_grad():
                    features = start.model.head_features(start.model.params(), part.batch, task)
                scores[task].append(logme(features[labelled], targets))
        for task, values in scores.items():
            if values:
                found[task][source] = sum(values) / len(values)
    return {task: scores for task, scores in found.items() if scores}
