"""What is measured of an arm beside its raw scores: gains, both Delta_m, ranks, negative transfer, savings, Pareto fronts.

All numbers are signed so that more is better, and shares, not percent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

from m3tl_cli.comparison.statistics import Array
from m3tl_cli.core.results import Cost, Results, Score, StageCost, total_flops

Metrics = Mapping[str, Mapping[str, float]]
"""Task to metric to value."""

Direction = Literal["higher", "lower"]

# A gain counts as reached from this far below: the same scores, averaged in another order, differ by less.
REACHED = 1e-6

COST_UNITS: Mapping[str, str] = {"flops": "FLOP", "seconds": "s", "seconds_prepare": "s", "peak_memory": "B"}


class Crossing(NamedTuple):
    """Where a curve reaches a target: `exact` between two points, `at most` the first point, `never` up to the last one."""

    at: float
    kind: Literal["exact", "at most", "never"]


class PowerLaw(NamedTuple):
    """error = `scale` n^(-`exponent`): the error at one sample, and how fast it falls."""

    scale: float
    exponent: float


def normalised_gain(value: float, trivial: float, reference: float) -> float:
    """Share of the way from the trivial predictor to a reference that was covered: (M - trivial) / (reference - trivial).

    0 is the trivial predictor, 1 the reference; the direction of the metric needs no saying. NaN where the two are the same.
    """
    distance = reference - trivial
    return (value - trivial) / distance if distance != 0 else math.nan


def score_gain(score: Score, reference: float | None = None) -> float:
    """Normalised gain of a score; the reference is the perfect score by default.

    NaN where the reference is not better than the trivial predictor, or unknown: nothing can be measured between them.
    """
    goal = score.perfect if reference is None else reference
    better = goal - score.trivial if score.direction == "higher" else score.trivial - goal
    return normalised_gain(score.value, score.trivial, goal) if better > 0 else math.nan


def relative_change(value: float, baseline: float, denominator: float, direction: Direction) -> float:
    """(value - baseline) / |denominator|, above 0 where it is better; NaN where the denominator is 0."""
    change = value - baseline if direction == "higher" else baseline - value
    return change / abs(denominator) if denominator != 0 else math.nan


def delta_m(
    values: Metrics, baseline: Metrics, directions: Mapping[str, Mapping[str, Direction]], denominators: Metrics | None = None
) -> tuple[float, float]:
    """Both definitions of Delta_m, as shares: (mean over metrics, mean over tasks of the mean over their metrics).

    Their sign can differ on one table: with NYUv2's 2, 2 and 5 metrics the first weights surface normals five ninths.

    Source: "Attentive Single-Tasking of Multiple Tasks" (Maninis et al., CVPR 2019). By metrics as in the Nash-MTL line; by tasks as in
    LibMTL and "Multi-Task Learning for Dense Prediction Tasks" (Vandenhende et al., PAMI 2021).

    Args:
        values: Of the method.
        baseline: Of single tasks, paired with `values`; tasks and metrics that only one has are left out.
        directions: Which way is better, per task and metric.
        denominators: The baseline's mean over seeds; `baseline` by default.

    Returns:
        NaN twice where nothing is comparable. A metric whose denominator is 0 is left out.
    """
    below = baseline if denominators is None else denominators
    per_task: list[list[float]] = []
    for task, metrics in values.items():
        changes = [
            relative_change(value, baseline[task][metric], below[task][metric], directions[task][metric])
            for metric, value in metrics.items()
            if metric in baseline.get(task, {}) and metric in below.get(task, {})
        ]
        if known := [c for c in changes if math.isfinite(c)]:
            per_task.append(known)
    if not per_task:
        return math.nan, math.nan
    every = [c for changes in per_task for c in changes]
    return math.fsum(every) / len(every), math.fsum(math.fsum(c) / len(c) for c in per_task) / len(per_task)


def average_ranks(gains: Array) -> Array:
    """Mean rank of each arm [A], 1 is best, ties share; over the cases (task and seed) that all arms have.

    Args:
        gains: [A, N], more is better; a case with NaN is left out.
    """
    known = np.asarray(gains, dtype=np.float64)
    known = known[:, np.isfinite(known).all(axis=0)]
    if known.shape[1] == 0:
        return np.full(len(known), math.nan)
    ranks: Array = stats.rankdata(-known, axis=0).mean(axis=1)
    return ranks


def win_tie_loss(differences: Sequence[float] | Array, tie: float) -> tuple[int, int, int]:
    """How many of `differences` are above `tie`, within it, below it; NaN counts nowhere."""
    known = [float(d) for d in differences if math.isfinite(d)]
    wins, losses = sum(d > tie for d in known), sum(d < -tie for d in known)
    return wins, len(known) - wins - losses, losses


def negative_transfer(value: float, single: float, direction: Direction) -> float:
    """What a task lost against being trained alone: max(0, (M_stl - M) / |M_stl|), sign-corrected; NaN where M_stl is 0."""
    change = relative_change(value, single, single, direction)
    return max(0.0, -change) if math.isfinite(change) else math.nan


def samples_to_target(num_shots: Sequence[int], scores: Sequence[float], target: float) -> Crossing:
    """Number of labelled samples at which a learning curve first reaches `target`, straight between points in log n.

    Args:
        num_shots: Rising, above 0.
        scores: More is better; points that are NaN are left out.
        target: The score to reach.
    """
    points = [(n, s) for n, s in zip(num_shots, scores, strict=True) if math.isfinite(s)]
    if not points or not math.isfinite(target):
        return Crossing(math.nan, "never")
    if points[0][1] >= target - REACHED:
        return Crossing(float(points[0][0]), "at most")
    for (n, low), (m, high) in pairwise(points):
        if high >= target - REACHED:
            share = min(1.0, (target - low) / (high - low))
            return Crossing(math.exp(math.log(n) + (math.log(m) - math.log(n)) * share), "exact")
    return Crossing(math.inf, "never")


def power_law(num_shots: Sequence[int], errors: Sequence[float]) -> PowerLaw:
    """Fit error = a n^(-b) to a learning curve: least squares of log error on log n, in float64.

    Source: "Learning curves: asymptotic values and rate of convergence" (Cortes et al., NeurIPS 1993); that it holds for deep networks
    over orders of magnitude of n: "Deep learning scaling is predictable, empirically" (Hestness et al., 2017).
    Differs from the first: no asymptote, which a handful of points cannot tell from a smaller b; so a curve that levels off has a
    smaller b than its rate of convergence.

    Args:
        num_shots: Each above 0 and each once.
        errors: Paired with `num_shots`; points that are not finite or not above 0 are left out.

    Returns:
        NaN twice below two points; through two points the law is exact, and says nothing of whether there is one.
    """
    points = [(n, e) for n, e in zip(num_shots, errors, strict=True) if math.isfinite(e) and e > 0]
    if len(points) < 2:
        return PowerLaw(math.nan, math.nan)
    x, y = np.log(np.asarray(points, dtype=np.float64)).T
    centred = x - x.mean()
    slope = float(centred @ (y - y.mean()) / (centred @ centred))
    return PowerLaw(math.exp(float(y.mean()) - slope * float(x.mean())), -slope)


def steps_to_target(steps: Sequence[int], scores: Sequence[float], target: float) -> Crossing:
    """First scored adaptation step whose score reaches `target`; nothing is read between two scored steps."""
    for step, score in zip(steps, scores, strict=True):
        if math.isfinite(score) and score >= target - REACHED:
            return Crossing(float(step), "exact")
    return Crossing(math.inf, "never")


def pareto_front(points: Mapping[str, tuple[float, float]]) -> tuple[str, ...]:
    """Names whose (cost, score) no other point beats: none costs less at no lower score, or scores more at no higher cost.

    In rising order of cost; points with NaN are left out.
    """
    known = {name: point for name, point in points.items() if all(map(math.isfinite, point))}
    front = [
        name
        for name, (cost, score) in known.items()
        if not any(c <= cost and s >= score and (c < cost or s > score) for c, s in known.values())
    ]
    return tuple(sorted(front, key=lambda name: known[name]))


def cost_columns(results: Results) -> dict[tuple[str, str], float]:
    """Every cost of a run: (column, stage) to number.

    The stage `all` counts work that was read from an earlier run as if this run had done it, so that cells which share it compare;
    `without pretraining` leaves that stage out; the others are the run's stages, those of the same name added. What no stage counts
    stands under `all` alone. Floating-point operations that nobody counted have no number, nor have sums that lack some.
    """
    found = {(f.name, "all"): float(getattr(results.cost, f.name)) for f in fields(Cost) if f.name != "flops"}
    flops = {"all": total_flops(results.stages) if results.stages else results.cost.flops}
    flops["without pretraining"] = total_flops(s for s in results.stages if s.stage != "pretrain")
    flops |= {name: total_flops(s for s in results.stages if s.stage == name) for name in dict.fromkeys(s.stage for s in results.stages)}
    found |= {("flops", stage): value for stage, value in flops.items() if value}
    if results.stages:
        for column in (f.name for f in fields(StageCost) if f.name not in ("stage", "cached", "flops")):
            by_stage: dict[str, float] = {}
            for stage in results.stages:
                by_stage[stage.stage] = by_stage.get(stage.stage, 0.0) + float(getattr(stage, column))
            found |= {(column, stage): value for stage, value in by_stage.items()}
            found[column, "all"] = math.fsum(by_stage.values())
            found[column, "without pretraining"] = math.fsum(v for s, v in by_stage.items() if s != "pretrain")
    return found
