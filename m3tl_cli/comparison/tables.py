"""Every table of a comparison, in plain types that go to JSON and come back.

All gains and relative changes are shares, signed so that more is better. `runs` are positions in `Comparison.runs`: the runs that a row
was computed from. A number that does not exist is NaN, and null in JSON.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from m3tl_cli.comparison.plan import Plan
from m3tl_cli.comparison.statistics import Estimate
from m3tl_cli.comparison.verdict import Verdict
from m3tl_cli.core.errors import DataError
from m3tl_cli.core.results import write_text

Runs = tuple[int, ...]


@dataclass(frozen=True)
class RunRef:
    """A run that numbers come from. `folder` is absolute; `budgets` are those in which it stands."""

    folder: str
    arm: str
    setting: str
    axes: Mapping[str, str]
    seed: int
    budgets: tuple[str, ...]


@dataclass(frozen=True)
class TaskRow:
    """One metric of one task on one block by one arm.

    Args:
        block: Key, as in `Results.blocks`.
        primary: Whether comparisons use this metric.
        role: `main`, or `auxiliary`, which no mean over tasks counts.
        value: In the metric's unit.
        trivial: Of the trivial predictor, mean over seeds.
        gain: Normalised gain.
        difference: Paired difference of `value` to the reference arm, in the metric's unit and sign.
        gain_difference: The same of `gain`.
        relative: The same, divided by the reference's mean over seeds and signed; the task lost where it is below 0.
        negative_transfer: max(0, -relative's mean).
        shrunk: James-Stein estimate of `gain_difference` over the block's tasks (primary metric, 4 tasks or more); NaN elsewhere.
    """

    budget: str
    block: str
    arm: str
    task: str
    kind: str
    role: str
    metric: str
    unit: str
    direction: Literal["higher", "lower"]
    primary: bool
    value: Estimate
    trivial: float
    gain: Estimate
    difference: Estimate
    gain_difference: Estimate
    relative: Estimate
    negative_transfer: float
    shrunk: float
    runs: Runs


@dataclass(frozen=True)
class SummaryRow:
    """One arm on one block, over its main tasks.

    Args:
        gain: Mean normalised gain of the primary metrics.
        difference: Paired difference of that to the reference arm.
        delta_m_metrics: Delta_m, mean over metrics. delta_m_tasks: mean over tasks of the mean over their metrics.
        rank: Mean over tasks and seeds, among the settings; 1 is best. NaN of what stands beside them.
        wins, ties, losses: Cases (task and seed) more than the plan's margin above, within it, below the reference.
        worst_task: The task with the lowest mean gain difference. worst: that difference.
        hurt: Tasks whose interval of relative change lies below 0: negative transfer.
        across_tasks: Interval of the mean gain difference with tasks as the unit, where there are 8 tasks or more: what may be claimed
            of other such tasks. NaN with fewer.
        shrink_factor: c of the James-Stein estimates; NaN where there are none.
    """

    budget: str
    block: str
    arm: str
    num_tasks: int
    gain: Estimate
    difference: Estimate
    delta_m_metrics: Estimate
    delta_m_tasks: Estimate
    rank: float
    wins: int
    ties: int
    losses: int
    worst_task: str
    worst: Estimate
    hurt: tuple[str, ...]
    across_tasks: Estimate
    shrink_factor: float
    runs: Runs


@dataclass(frozen=True)
class BaselineRow:
    """A baseline that an arm's runs measured beside themselves: its mean gain, and how far the arm is above it, paired."""

    budget: str
    block: str
    arm: str
    baseline: str
    gain: Estimate
    advantage: Estimate
    runs: Runs


@dataclass(frozen=True)
class EffectRow:
    """A main effect or interaction of the 2 x 2 x 2 factorial on one block, descriptive; `term` is like `pretrain x joint`."""

    budget: str
    block: str
    term: str
    order: int
    effect: Estimate
    runs: Runs


@dataclass(frozen=True)
class SavingRow:
    """Labelled samples that an arm needs for the score that the reference reaches with the most.

    Args:
        block: Kind of block. task: empty for the mean gain over main tasks.
        num_shots, gains: The arm's learning curve, means over seeds.
        target: The reference's gain at the most shots.
        samples: Shots at which the arm reaches it; infinite where it never does.
        kind: `exact` by interpolation in log n, `at most` where its first point is there already, `never` up to the last.
        saved: Data saved: the reference's own samples to the target over the arm's, a lower bound where `at most`; NaN where never.
        exponent: b of the power law a n^(-b) that is fitted to each seed's 1 - gain; above 0 where the error falls.
    """

    budget: str
    block: str
    arm: str
    task: str
    num_shots: tuple[int, ...]
    gains: tuple[Estimate, ...]
    target: float
    samples: float
    kind: Literal["exact", "at most", "never"]
    saved: float
    exponent: Estimate
    runs: Runs


@dataclass(frozen=True)
class StepRow:
    """How an arm's chosen trial went while it adapted, and when it reached the reference's final gain.

    Args:
        task: Empty for the mean gain over main tasks.
        steps, gains: The curve, with intervals over seeds.
        target: The reference's gain after its chosen number of steps.
        reached: First scored step at the target; infinite where none is.
    """

    budget: str
    block: str
    arm: str
    task: str
    steps: tuple[int, ...]
    gains: tuple[Estimate, ...]
    target: float
    reached: float
    runs: Runs


@dataclass(frozen=True)
class CostRow:
    """One cost of an arm; `stage` is `all` (work shared with other cells counted), `without pretraining` or a stage.

    `ratio` is the mean over that of the reference arm.
    """

    budget: str
    arm: str
    column: str
    stage: str
    unit: str
    value: Estimate
    ratio: float
    runs: Runs


@dataclass(frozen=True)
class ParetoRow:
    """Cost against the plan's outcome: every arm's point, and the arms that none beats, in rising order of cost."""

    budget: str
    block: str
    column: str
    stage: str
    points: Mapping[str, tuple[float, float]]
    front: tuple[str, ...]


@dataclass(frozen=True)
class TransferenceRow:
    """What a step on one task removed of another's loss while an arm trained, as a share; below 0: it added.

    Args:
        source: Task whose gradient was followed. target: task whose loss was looked at; the same on the diagonal.
        value: Mean over seeds of the means over training.
    """

    budget: str
    arm: str
    source: str
    target: str
    value: Estimate
    runs: Runs


@dataclass(frozen=True)
class StatementRow:
    """A cell of the survey's Table 1, measured.

    Args:
        row: Of the table. column: transfer, multi-task or meta.
        hypothesis: What the survey says.
        definition: What was measured to check it.
        arm: On whose runs; empty where there are none.
        measured: The finding in words.
        value: Its number, where it has one.
        answer: Whether the finding agrees; undecided where the interval covers both, below 6 seeds, or where it cannot be measured.
    """

    row: str
    column: str
    hypothesis: str
    definition: str
    arm: str
    measured: str
    value: Estimate | None
    answer: Literal["agrees", "disagrees", "undecided"]
    runs: Runs


@dataclass(frozen=True)
class MissingRow:
    """A run that is not there, and why; `folder` is empty where there is none."""

    arm: str
    seed: int | None
    folder: str
    reason: str


@dataclass(frozen=True)
class Comparison:
    """Who won, how surely, at what cost.

    Args:
        plan: The family that was tested.
        planned: Whether it was made before the runs.
        verdict: Two sentences.
        budget: Which budget decided.
        budgets: All that there are runs of.
        arms, seeds, blocks, tasks: In the order of the tables.
        references: Arm to the arm that its differences are taken from.
        beside: Arm to `baseline` or `upper_bound`, of those that are no setting and take no part in ranks and verdicts.
        flags: What a reader must know before believing a number.
        validation: Rival to its mean validation score, by which the best other was chosen.
    """

    plan: Plan
    planned: bool
    verdict: str
    budget: str
    budgets: tuple[str, ...]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    blocks: tuple[str, ...]
    tasks: tuple[str, ...]
    references: Mapping[str, str]
    beside: Mapping[str, str]
    runs: tuple[RunRef, ...]
    missing: tuple[MissingRow, ...]
    flags: tuple[str, ...]
    validation: Mapping[str, float]
    contrasts: tuple[Verdict, ...]
    summary: tuple[SummaryRow, ...]
    rows: tuple[TaskRow, ...]
    baselines: tuple[BaselineRow, ...]
    effects: tuple[EffectRow, ...]
    savings: tuple[SavingRow, ...]
    steps: tuple[StepRow, ...]
    costs: tuple[CostRow, ...]
    pareto: tuple[ParetoRow, ...]
    transference: tuple[TransferenceRow, ...]
    table_one: tuple[StatementRow, ...]

    def folders(self, runs: Runs) -> tuple[str, ...]:
        """The run folders behind a row."""
        return tuple(self.runs[i].folder for i in runs)

    def to_json(self) -> dict[str, Any]:
        """Plain types that JSON knows: numbers that do not exist are null."""
        found: dict[str, Any] = _plain(dataclasses.asdict(self))
        return found

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> Comparison:
        """Inverse of `to_json`, but for infinite numbers, which come back as NaN."""
        found: Comparison = _revive(Comparison, raw)
        return found

    def write(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_text(path, json.dumps(self.to_json(), separators=(",", ":"), allow_nan=False))

    @staticmethod
    def read(path: Path) -> Comparison:
        """Inverse of `write`.

        Raises:
            DataError: If there is none, or it is damaged.
        """
        try:
            return Comparison.from_json(json.loads(path.read_text()))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            text = " ".join(str(error).split())[:200] or type(error).__name__
            raise DataError(f"`{path.name}` must be a comparison as it was written; found {text}.", place=str(path)) from error


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


@lru_cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _revive(kind: Any, raw: Any) -> Any:
    """Build what an annotation describes from what JSON made of it."""
    if dataclasses.is_dataclass(kind):
        hints = _hints(kind)  # type: ignore[arg-type]
        return kind(**{f.name: _revive(hints[f.name], raw[f.name]) for f in dataclasses.fields(kind)})  # type: ignore[operator]
    if kind is float:
        return math.nan if raw is None else float(raw)
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return None if raw is None else _revive(next(a for a in inside if a is not type(None)), raw)
    if origin is tuple:
        each = inside[:1] * len(raw) if inside[-1] is Ellipsis else inside
        return tuple(_revive(a, v) for a, v in zip(each, raw, strict=True))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {key: _revive(inside[1], v) for key, v in raw.items()}
    return raw
