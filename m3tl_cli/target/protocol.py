"""How the target is asked: shots, episodes, what is tried, what is chosen on meta-validation, what is compared."""

from __future__ import annotations

import json
import math
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from m3tl_cli.core.contracts import Episode, Task, TaskName
from m3tl_cli.core.errors import ConfigError, TrainingError
from m3tl_cli.core.events import Advanced, Emit
from m3tl_cli.core.results import Choice, Curve, Score, TaskResult, block_key
from m3tl_cli.data.base import Block
from m3tl_cli.target.adaptation import Points, Spent, Trial
from m3tl_cli.task.base import TaskKind
from m3tl_cli.trainer.evaluation import MetricValues

Draw = Callable[[Block, Sequence[Task], int, int], Sequence[Episode]]
"""Episodes of a block of the data: block, tasks that their support labels, shots, how many."""


class Asked(typing.Protocol):
    """What is read of a start: `target.adaptation.Start` says what each of these is."""

    block: str
    tasks: tuple[Task, ...]
    kept: tuple[Task, ...]
    baseline: str
    closed: bool

    @property
    def labelled(self) -> tuple[Task, ...]:
        """Tasks whose labels the support must hold."""

    @property
    def unchanged(self) -> bool:
        """Whether nothing that was learnt before differs from what it was."""


Begun = TypeVar("Begun", bound=Asked, contravariant=True)


class Adapts(typing.Protocol[Begun]):
    """Learns from a support and scores the query: `target.adaptation.Adapter`, or what has no network."""

    spent: Spent

    def adapt(self, start: Begun, episode: Episode, trial: Trial, *, last: int | None = None, watch: int = -1) -> Points:
        """See `target.adaptation.Adapter.adapt`."""
        ...


From = TypeVar("From", bound=Asked)


@dataclass(frozen=True)
class Reference:
    """The zero of the scores at one block of the data.

    Args:
        kinds: With the statistics of that block's training labels.
        outputs: Constant output per task that fits these labels best: more than any number of shots can know.
    """

    kinds: Mapping[TaskName, TaskKind]
    outputs: Mapping[TaskName, Tensor]

    def score(self, episode: Episode) -> MetricValues:
        """Metrics of the constant outputs on the query."""
        meters = {t: kind.meter() for t, kind in self.kinds.items()}
        for part in episode.query:
            for task in part.tasks:
                if task in meters:
                    meters[task].update(self.outputs[task], part.batch.targets[task], part.batch.labelled[task])
        return {t: meter.compute() for t, meter in meters.items()}


def fitted_on_support(kinds: Mapping[TaskName, TaskKind], episodes: Sequence[Episode]) -> Reference:
    """A zero for tasks that exist inside episodes alone: the constant that fits the support of some episodes best."""
    outputs = {}
    for task, kind in kinds.items():
        support = [p.batch for e in episodes for p in e.support if task in p.tasks]
        targets = torch.cat([b.targets[task] for b in support])
        outputs[task] = kind.trivial(targets, torch.cat([b.labelled[task] for b in support]))
    return Reference(kinds, outputs)


@dataclass
class Outcome:
    """What the target stage found; see `Results` for the meaning of the fields."""

    blocks: dict[str, dict[TaskName, TaskResult]]
    curves: list[Curve]
    choices: list[Choice]
    baselines: dict[str, dict[str, dict[TaskName, TaskResult]]]


class Protocol:
    """Adapt to many target episodes, at several numbers of shots, and score each on its own query.

    Every trial (a stateful optimiser at each of `lrs`, and the inner loop) is run on `num_validation` episodes of the meta-validation
    domains; the trial and the number of steps with the best mean error reduction over tasks are taken for that block and number of
    shots. Every corner of the cube is asked in this way, with the same number of trials, and on the same target episodes: an episode
    depends on the seed and on its number, the support of more shots contains that of fewer, and the query is the same for all.

    Source: the evaluation of "A Closer Look at Few-shot Classification" (Chen et al., ICLR 2019) widened to unlike tasks; choosing
    steps and rates on held-out episodes as in "A Baseline for Few-Shot Image Classification" (Dhillon et al., ICLR 2020).

    Args:
        case: 2: adapt. 1: the source network as it is, no step, no tensor changes (Fig. 7 of the survey); new tasks only as `probe`.
        probe: With case 1: a closed-form head on the frozen network for the new tasks.
        num_shots: Labelled samples a task.
        num_episodes: Target episodes for each number of shots.
        num_validation: Meta-validation episodes for each number of shots.
        num_query: Samples that an episode is scored on, at most.
        per_class: Shots count for every class of a vector classification task, not for the task.
        lrs: Rates at which the run's optimiser is tried.
        inner: Whether the inner loop is tried, too.
        steps: Points of the curve beside 0; the last is the most steps.
        batch_size: Samples of a step, at most.
        keep_old: Seen tasks while new ones are added: `frozen`, their heads stay, and are scored afterwards; `joint`, they are
            trained along; `drop`, they are left behind.
        source_domains: Whether new tasks are asked on source domains, too: the fourth cell of {seen, unseen} task x domain.
        baselines: `ridge`: a closed-form head on the frozen network; `random`: the same on a network that nothing trained; `scratch`:
            the whole network from the start, with the same trials.
    """

    def __init__(
        self,
        *,
        case: Literal[1, 2],
        probe: bool,
        num_shots: list[Annotated[int, Ge(1)]],
        num_episodes: Annotated[int, Ge(1)],
        num_validation: Annotated[int, Ge(0)],
        num_query: Annotated[int, Ge(1)],
        per_class: bool,
        lrs: list[Annotated[float, Gt(0)]],
        inner: bool,
        steps: list[Annotated[int, Ge(1)]],
        batch_size: Annotated[int, Ge(1)],
        keep_old: Literal["frozen", "joint", "drop"],
        source_domains: bool,
        baselines: list[Literal["ridge", "random", "scratch"]],
    ) -> None:
        if not num_shots or list(num_shots) != sorted(set(num_shots)):
            raise ConfigError(
                f"`num_shots` must rise; found {list(num_shots)}.", hint="target.num_shots=[1,5,10]", place="target.num_shots"
            )
        if not steps or list(steps) != sorted(set(steps)):
            raise ConfigError(f"`steps` must rise; found {list(steps)}.", hint="target.steps=[1,5,20]", place="target.steps")
        if not lrs and not inner:
            raise ConfigError("`lrs` must name a rate where `inner` is off; found none.", hint="target.lrs=[0.003]", place="target.lrs")
        self.case, self.probe = case, probe
        self.num_shots, self.num_query, self.per_class = tuple(num_shots), num_query, per_class
        self.num_episodes, self.num_validation = num_episodes, num_validation
        self.lrs, self.inner = tuple(lrs) if case == 2 else (), inner and case == 2
        self.steps = (0, *steps) if case == 2 else (0,)
        self.batch_size, self.keep_old, self.source_domains = batch_size, keep_old, source_domains
        self.baselines = tuple(baselines)

    def run(
        self,
        starts: Sequence[From],
        trials: Sequence[Trial],
        adapter: Adapts[From],
        *,
        draw: Draw,
        references: Mapping[Block, Reference],
        record: Path,
        emit: Emit,
    ) -> Outcome:
        """Adapt from every start.

        Args:
            starts: The run's own, and those of baselines.
            trials: Ways to adapt.
            adapter: Does it.
            draw: Gives the episodes.
            references: Zero of the scores per block of the data.
            record: File in which every finished adaptation is kept, so that a killed run goes on where it stopped.
            emit: Told what happens.
        """
        outcome = Outcome({}, [], [], {})
        done = _Record(record)
        validated = bool(self.num_validation) and "validation" in references and len(trials) * len(self.steps) > 1
        per_start = {
            id(s): len(self.num_shots)
            * (
                self.num_episodes
                if s.closed
                else self.num_episodes * self._num_shown(trials) + self.num_validation * validated * len(trials)
            )
            for s in starts
        }
        total, count = sum(per_start.values()), 0

        def adapt(start: From, episode: Episode, trial: Trial, at: str, shots: int, number: int, *, watch: int = -1) -> Points:
            nonlocal count
            key = f"{start.baseline}|{start.block}|{at}|{shots}|{number}|{trial.label}"
            if key in done:
                adapter.spent += done[key].spent
            else:
                before = adapter.spent
                points = adapter.adapt(start, episode, trial, last=0 if start.closed else None, watch=watch)
                if self.case == 1 and not start.unchanged:
                    raise TrainingError("case 1 must change no tensor of the source network; found one that differs", place="target.case")
                done[key] = Adaptation(points, adapter.spent - before)
            count += 1
            emit(Advanced("adapt", count, total, "adaptation"))
            return done[key].points

        drawn: dict[tuple[object, ...], tuple[Sequence[Episode], list[MetricValues]]] = {}

        def episodes_of(at: Block, tasks: Sequence[Task], shots: int, number: int) -> tuple[Sequence[Episode], list[MetricValues]]:
            """Episodes and the zero of their scores: several starts meet the same ones."""
            asked = (at, *(t.name for t in tasks), shots)
            if asked not in drawn:
                found = draw(at, tasks, shots, number)
                drawn[asked] = found, [references[at].score(e) for e in found]
            return drawn[asked]

        for start in starts:
            block: Block = "source" if start.block == "d" else "target"
            reference = references[block]
            for shots in self.num_shots:
                key = block_key(start.block, shots)
                chosen, step = trials[0], self.steps[-1]
                judged: list[_Judged] = []
                if not start.closed and validated:
                    held_out, below = episodes_of("validation", start.labelled, shots, self.num_validation)
                    for trial in trials:
                        found = [adapt(start, e, trial, "validation", shots, i) for i, e in enumerate(held_out)]
                        judged.append(_judge(trial, found, below, start, references["validation"].kinds, self.steps))
                    best = max(judged, key=lambda j: j.score)
                    chosen, step = best.trial, best.step
                    if not start.baseline:
                        told = tuple((j.trial.label, j.score) for j in judged)
                        outcome.choices.append(Choice(key, chosen.label, step, best.score, told))
                tasks = tuple({t.name: t for t in (*start.labelled, *start.kept)}.values())
                episodes, zeros = episodes_of(block, tasks, shots, self.num_episodes)
                shown = self._shown(trials, judged, chosen, start)
                for trial in shown:
                    watch = step if trial is chosen and start.kept else -1
                    found = [adapt(start, e, trial, block, shots, i, watch=watch) for i, e in enumerate(episodes)]
                    if trial is chosen:
                        at = 0 if start.closed else step
                        results = results_at(start.tasks, found, zeros, reference.kinds, at)
                        into = outcome.baselines.setdefault(start.baseline, {}) if start.baseline else outcome.blocks
                        into[key] = results
                        if start.kept:
                            outcome.blocks[block_key("old", shots)] = results_at(start.kept, found, zeros, reference.kinds, at)
                    if not start.baseline and not start.closed and len(self.steps) > 1:
                        own = next((j.step for j in judged if j.trial is trial), self.steps[-1])
                        outcome.curves += _curves(start, shots, trial, found, zeros, reference.kinds, self.steps, trial is chosen, own)
        return outcome

    def _num_shown(self, trials: Sequence[Trial]) -> int:
        return len({t.optimizer is None for t in trials})

    def _shown(self, trials: Sequence[Trial], judged: Sequence[_Judged], chosen: Trial, start: Asked) -> list[Trial]:
        """What target episodes are adapted with: the chosen trial, and the best one of the other sort, so that both curves are seen."""
        if start.closed:
            return [chosen]
        other = [t for t in trials if (t.optimizer is None) != (chosen.optimizer is None)]
        if not other:
            return [chosen]
        ranked = {j.trial.label: j.score for j in judged}
        return [chosen, max(other, key=lambda t: ranked.get(t.label, 0.0))]


@dataclass(frozen=True)
class _Judged:
    trial: Trial
    step: int
    score: float


def _judge(
    trial: Trial,
    found: Sequence[Points],
    zeros: Sequence[MetricValues],
    start: Asked,
    kinds: Mapping[TaskName, TaskKind],
    steps: Sequence[int],
) -> _Judged:
    """The best number of steps, by the error reduction of the primary metrics, meaned over episodes and tasks."""

    def score(step: int) -> float:
        results = results_at(start.tasks, found, zeros, kinds, step)
        known = [v for t in results.values() if math.isfinite(v := t.scores[t.primary].error_reduction)]
        return sum(known) / len(known) if known else -math.inf

    scores = {step: score(step) for step in steps}
    step = max(scores, key=lambda s: scores[s])
    return _Judged(trial, step, scores[step])


def results_at(
    tasks: Sequence[Task], found: Sequence[Points], zeros: Sequence[MetricValues], kinds: Mapping[TaskName, TaskKind], step: int
) -> dict[TaskName, TaskResult]:
    """Means over the episodes in which both the model and the constant have a number."""
    results = {}
    for task in tasks:
        kind = kinds[task.name]
        scores = {}
        for metric, info in kind.metrics.items():
            pairs = [(p[step][task.name][metric], z[task.name][metric]) for p, z in zip(found, zeros, strict=True)]
            known = [(v, z) for v, z in pairs if math.isfinite(v) and math.isfinite(z)]
            value, trivial = (sum(c) / len(known) for c in zip(*known, strict=True)) if known else (math.nan, math.nan)
            scores[metric] = Score(value, trivial, info.perfect, info.direction, info.unit)
        results[task.name] = TaskResult(kind=task.kind, primary=kind.primary, scores=scores, role=task.role)
    return results


def _curves(
    start: Asked,
    shots: int,
    trial: Trial,
    found: Sequence[Points],
    zeros: Sequence[MetricValues],
    kinds: Mapping[TaskName, TaskKind],
    steps: tuple[int, ...],
    chosen: bool,
    chosen_step: int,
) -> Iterator[Curve]:
    for task in start.tasks:
        metric = kinds[task.name].primary
        info = kinds[task.name].metrics[metric]
        trivial = [z[task.name][metric] for z in zeros if math.isfinite(z[task.name][metric])]
        yield Curve(
            block=start.block,
            num_shots=shots,
            task=task.name,
            optimizer=trial.label,
            metric=metric,
            steps=steps,
            episodes=tuple(tuple(p[s][task.name][metric] for s in steps) for p in found),
            trivial=sum(trivial) / len(trivial) if trivial else math.nan,
            perfect=info.perfect,
            direction=info.direction,
            chosen=chosen,
            chosen_step=chosen_step,
        )


@dataclass(frozen=True)
class Adaptation:
    """A finished adaptation: its scores, and what it cost."""

    points: Points
    spent: Spent


class _Record:
    """Finished adaptations by key, a JSON line each; a line that a kill cut short is not read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Adaptation] = {}
        if path.is_file():
            for line in path.read_text().splitlines():
                try:
                    key, points, (updates, samples, forward, backward, *flops) = json.loads(line)
                except ValueError:
                    continue
                spent = Spent(updates, samples, forward, backward, *(flops or [math.nan]))  # a line from before they were counted
                self._known[key] = Adaptation({int(step): values for step, values in points.items()}, spent)

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> Adaptation:
        return self._known[key]

    def __setitem__(self, key: str, done: Adaptation) -> None:
        self._known[key] = done
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps([key, done.points, astuple(done.spent)]) + "\n")
