"""What may be concluded from paired outcomes of a few seeds: intervals, tests of a family of contrasts, equivalence, effects of switches.

The replicate is the seed. Everything is float64 and exact or enumerated; nothing is resampled at random up to `MAX_ENUMERATED` seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[np.float64]

MIN_SEEDS = 6
"""Fewest seeds that carry a verdict: the smallest two-sided p of a sign-flip test is 2^(1 - S), .0625 at 5 seeds and .031 at 6."""

MAX_ENUMERATED = 20
"""Seeds up to which all sign flips are enumerated: half a million, each of which stands for its opposite too."""

SWITCHES = ("pretrain", "joint", "bilevel")
"""The factors of the 2 x 2 x 2 factorial, in the order of the cube's corners."""

# Statistics are in [0, 1]; a flip that ties with the observed one in exact arithmetic must count as a tie.
_TIE = 1e-12


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its t interval.

    Args:
        mean: NaN without a seed.
        low, high: Ends of the two-sided interval; NaN below two seeds.
        seeds: Seeds behind it.
        level: Confidence of the interval.
    """

    mean: float
    low: float
    high: float
    seeds: int
    level: float = 0.95

    @property
    def exploratory(self) -> bool:
        """Whether there are too few seeds for a verdict."""
        return self.seeds < MIN_SEEDS


class MaxT(NamedTuple):
    """The test of a family of C contrasts, each array [..., C].

    Args:
        t: Paired t statistics; infinite where every seed has the same difference and it is not 0.
        p: Two-sided sign-flip p of each contrast alone.
        adjusted: Step-down max-T p: rejecting where it is at most alpha keeps the family-wise error at alpha.
    """

    t: Array
    p: Array
    adjusted: Array


class Choice(NamedTuple):
    """A contrast with the best of R rivals, and what says which is best.

    Args:
        differences: [..., S, R]: the contrast at seed s, were rival r the chosen one. Finite.
        scores: [..., S, R]: of rival r at seed s, higher is better; other measurements than those of the differences. Finite; 0 for
            all rivals at a seed that shall have no say in the choice.
    """

    differences: Array
    scores: Array


@lru_cache(maxsize=4096)
def _quantile(level: float, degrees: int) -> float:
    return float(stats.t.ppf(0.5 + level / 2, degrees))


def estimate(values: Sequence[float] | Array, level: float = 0.95) -> Estimate:
    """Mean over the finite ones of `values`, one per seed, with its t interval at `level`."""
    known = np.asarray([v for v in values if math.isfinite(v)], dtype=np.float64)
    if known.size == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, level)
    mean = float(known.mean())
    if known.size == 1:
        return Estimate(mean, math.nan, math.nan, 1, level)
    half = _quantile(level, known.size - 1) * float(known.std(ddof=1)) / math.sqrt(known.size)
    return Estimate(mean, mean - half, mean + half, int(known.size), level)


@lru_cache(maxsize=8)
def sign_flips(num_seeds: int) -> Array:
    """Signs of whole seeds [F, S], the identity first.

    One of each pair of opposite flips, as both give a contrast the same two-sided statistic: F = 2^(S - 1) stands for all 2^S. Beyond
    `MAX_ENUMERATED` seeds a fixed random sample of 2^15 with the identity in it, which keeps the test valid.
    """
    if num_seeds < 1:
        raise ValueError(f"`num_seeds` must be 1 or more; found {num_seeds}.")
    if num_seeds > MAX_ENUMERATED:
        signs: Array = np.random.default_rng(0).choice(np.array([-1.0, 1.0]), size=(2**15, num_seeds))
        signs[0] = 1.0
        return signs
    bits = np.arange(2 ** (num_seeds - 1))[:, None] >> np.arange(num_seeds)[None, :]
    return np.where(bits & 1, -1.0, 1.0)


def best_rival(choice: Choice) -> npt.NDArray[np.intp]:
    """Which rival [...] the scores choose: the highest mean over seeds, the first of those that tie."""
    return _first_highest(choice.scores.sum(axis=-2), np.abs(choice.scores).sum(axis=-2))


def max_t(differences: Array, choices: Mapping[int, Choice] | None = None) -> MaxT:
    """Test every contrast of a family, two-sided, with one family-wise error.

    Step-down max-T of paired t statistics; the null distribution is that of flipping the signs of whole seeds, the same flips for all
    contrasts, so that their correlation is kept. Exact where each difference is symmetric about 0 under the null.

    Where a rival was chosen by scores, each flip chooses again: it flips a seed's scores together with its outcomes, takes the rival
    with the highest mean flipped score, and then that rival's statistic. So the advantage that a rival owes to errors which its score
    and its outcome share stands in the null distribution too. Exact where the deviations of a seed's scores and outcomes from the
    seed's mean over arms are jointly symmetric about 0: all arms are alike. (Means of seeds cancel in contrasts and in choices, so
    they need not be taken off.) Where only some rivals are as good it is no longer exact, but erred to the safe side wherever it was
    simulated: worse rivals, which some flips choose, have larger statistics. A flip and its opposite choose differently: both count.

    Source: "Resampling-Based Multiple Testing" (Westfall and Young, 1993), free step-down; the sign-flip form as in "Nonparametric
    permutation tests for functional neuroimaging" (Nichols and Holmes, 2002). That a test may use any statistic as long as every flip
    recomputes all of it, a choice among them included, and that random flips keep its level where they are drawn with the identity
    (and, here, with all opposites): "Exact testing with random permutations" (Hemerik and Goeman, 2018).
    Differs from them in the choice by second measurements, which are flipped along.

    Args:
        differences: [..., S, C]: contrast c at seed s; leading dimensions are families of their own. Finite.
        choices: Column to what it was chosen from; its numbers in `differences` are replaced by those of the chosen rival.

    Raises:
        ValueError: If `differences` or a choice has no seed, no contrast or a number that is not finite.
    """
    values = np.array(differences, dtype=np.float64)
    choices = choices or {}
    for column, choice in choices.items():
        _check(choice.differences, "differences of a choice")
        _check(choice.scores, "scores of a choice")
        values[..., column] = np.take_along_axis(choice.differences, best_rival(choice)[..., None, None], axis=-1)[..., 0]
    _check(values, "differences")
    num_seeds = values.shape[-2]
    signs = sign_flips(num_seeds)
    flipped = _ratios(signs, values)
    if choices:
        flipped = np.concatenate([flipped, flipped], axis=-2)
        for column, choice in choices.items():
            flipped[..., column] = _chosen_ratios(signs, choice)
    observed = flipped[..., 0, :]
    alone = (flipped >= observed[..., None, :] - _TIE).mean(axis=-2)
    order = np.argsort(-observed, axis=-1, kind="stable")
    ranked = np.take_along_axis(flipped, order[..., None, :], axis=-1)
    # Column j: the largest statistic among the hypotheses that are not yet rejected when the j-th largest is asked.
    rest = np.maximum.accumulate(ranked[..., ::-1], axis=-1)[..., ::-1]
    largest = (rest >= np.take_along_axis(observed, order, axis=-1)[..., None, :] - _TIE).mean(axis=-2)
    adjusted = np.empty_like(largest)
    np.put_along_axis(adjusted, order, np.maximum.accumulate(largest, axis=-1), axis=-1)
    means = values.mean(axis=-2)
    rest_of_one = 1.0 - observed
    size = np.sqrt((num_seeds - 1) * observed / np.where(rest_of_one > _TIE, rest_of_one, 1.0))
    t = np.copysign(np.where(rest_of_one > _TIE, size, np.inf), means)
    return MaxT(t, alone, adjusted)


def _check(values: Array, name: str) -> None:
    if values.ndim < 2 or 0 in values.shape or not np.isfinite(values).all():
        raise ValueError(f"`{name}` must be finite and [..., seeds, contrasts]; found shape {list(values.shape)}.")


def _ratios(signs: Array, values: Array) -> Array:
    """(sum d)^2 / (S sum d^2) of each flip [..., F, C]: t^2 = (S - 1) r / (1 - r) rises with it; it is finite."""
    squares = np.where((total := values.shape[-2] * (values**2).sum(axis=-2)) > 0, total, 1.0)
    ratios: Array = np.matmul(signs, values) ** 2 / squares[..., None, :]
    return ratios


def _chosen_ratios(signs: Array, choice: Choice) -> Array:
    """`_ratios` of the rival that each flip chooses [..., 2 F]: the flips `signs`, then their opposites."""
    sums, sizes = np.matmul(signs, choice.scores), np.abs(choice.scores).sum(axis=-2)[..., None, :]
    best = np.concatenate([_first_highest(sums, sizes), _first_highest(-sums, sizes)], axis=-1)
    # A rival's statistic is the same for a flip and its opposite.
    ratios = _ratios(signs, choice.differences)
    return np.take_along_axis(np.concatenate([ratios, ratios], axis=-2), best[..., None], axis=-1)[..., 0]


def _first_highest(sums: Array, sizes: Array) -> npt.NDArray[np.intp]:
    """First of the highest `sums` [..., R], equal where they differ by no more than rounding of terms that add up to `sizes`."""
    return np.argmax(sums >= sums.max(axis=-1, keepdims=True) - _TIE * sizes.max(axis=-1, keepdims=True), axis=-1)


def equivalence_p(values: Sequence[float] | Array, margin: float) -> Array:
    """P value [...] of "the mean is at least `margin` away from 0": two one-sided t tests, the larger p.

    Source: "A comparison of the two one-sided tests procedure and the power approach" (Schuirmann, 1987).

    Args:
        values: [..., S]: a paired difference per seed; NaN below two of them.
        margin: In the unit of `values`, above 0.

    Raises:
        ValueError: If `margin` is not above 0.
    """
    if not margin > 0:
        raise ValueError(f"`margin` must be above 0; found {margin}.")
    found = np.asarray(values, dtype=np.float64)
    num_seeds = found.shape[-1]
    if num_seeds < 2:
        return np.full(found.shape[:-1], math.nan)
    away, error = np.abs(found.mean(axis=-1)), found.std(axis=-1, ddof=1) / math.sqrt(num_seeds)
    exact = error <= _TIE * np.maximum(away, margin)
    p: Array = stats.t.sf((margin - away) / np.where(exact, 1.0, error), num_seeds - 1)
    return np.where(exact, np.where(away < margin, 0.0, 1.0), p)


def holm(p: Sequence[float] | Array, weights: Sequence[float] | None = None) -> Array:
    """Adjust p values [..., H] so that their family-wise error is kept under any dependence.

    In rising order of p over weight, each is multiplied by the weight that is not yet rejected over its own.

    Source: "A simple sequentially rejective multiple test procedure" (Holm, 1979), with weights.

    Args:
        p: Of H hypotheses; leading dimensions are families of their own.
        weights: Of each, above 0; 1 by default.
    """
    found = np.asarray(p, dtype=np.float64)
    shares = np.ones(found.shape[-1]) if weights is None else np.asarray(weights, dtype=np.float64)
    order = np.argsort(found / shares, axis=-1, kind="stable")
    sorted_shares = shares[order]
    # Summed from the end, so that the last one is multiplied by exactly 1.
    left = np.cumsum(sorted_shares[..., ::-1], axis=-1)[..., ::-1] / sorted_shares
    adjusted = np.empty_like(found)
    stepped = np.maximum.accumulate(np.minimum(left * np.take_along_axis(found, order, axis=-1), 1.0), axis=-1)
    np.put_along_axis(adjusted, order, stepped, axis=-1)
    return adjusted


def factorial_terms() -> tuple[tuple[str, ...], ...]:
    """The main effects, two-way and three-way interactions of `SWITCHES`, as the switches that each multiplies."""
    return tuple(term for size in (1, 2, 3) for term in combinations(SWITCHES, size))


def factorial_weights(term: Sequence[str]) -> dict[tuple[bool, bool, bool], float]:
    """Weight of each corner (pretrain, joint, bilevel) in a term: +-1/4.

    A main effect is the mean over the four corners with the switch on minus that over the four with it off; an interaction of two is
    half of how much the one's effect grows when the other is on; that of three, half of how much an interaction of two grows. All are
    in the unit of the outcome, have the same variance, and an additive response has interactions of exactly 0.

    Raises:
        ValueError: If `term` names what is not a switch.
    """
    if not term or not set(term) <= set(SWITCHES):
        raise ValueError(f"`term` must name switches of {', '.join(SWITCHES)}; found {', '.join(term) or 'none'}.")
    corners = [(bool(i & 4), bool(i & 2), bool(i & 1)) for i in range(8)]
    return {corner: math.prod(1 if corner[SWITCHES.index(s)] else -1 for s in term) / 4 for corner in corners}


def combine(weights: Mapping[str, float], outcomes: Mapping[str, Array]) -> Array:
    """A contrast per seed [S]: the weighted sum of arms' outcomes [S], NaN where an arm that it needs has none.

    Rounding residue of arms that are equal is 0, not a tiny difference that a test would take for one.
    """
    rows = [(weight, outcomes[arm]) for arm, weight in weights.items()]
    found: Any = sum(weight * row for weight, row in rows)
    scale = sum(abs(weight) * np.abs(row) for weight, row in rows)
    return np.where(np.abs(found) <= 1e-14 * len(rows) * scale, 0.0, found)
