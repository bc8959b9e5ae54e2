"""What a planned family of contrasts says, in numbers and in two sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from m3tl_cli.comparison.plan import Contrast, Plan
from m3tl_cli.comparison.statistics import MIN_SEEDS, Array, Estimate, combine, equivalence_p, estimate, holm, max_t
from m3tl_cli.core.results import block_title

Answer = Literal["higher", "lower", "no difference", "undecided", "exploratory", "missing"]


@dataclass(frozen=True)
class Verdict:
    """The answer to one contrast.

    Args:
        name: Of the contrast.
        weights: Arm to weight, the chosen rival's among them.
        chosen: The rival that validation chose; empty where nothing was to be chosen.
        difference: Mean over seeds and its t interval at 1 - alpha, not adjusted for the family.
        values: The contrast at each of `seeds`.
        seeds: Those that every contrast of the family has.
        t: Paired t statistic. p: of the contrast alone. p_adjusted: step-down max-T over the family.
        p_equivalence: Of two one-sided tests within the margin, Holm-adjusted over the family.
        answer: `higher`, `lower`: adjusted p at most alpha. `no difference`: not that, and equivalent within the margin. `undecided`:
            neither. `exploratory`: below 6 seeds, or not planned. `missing`: it cannot be asked of these runs.
        sentence: The answer with its uncertainty.
    """

    name: str
    weights: Mapping[str, float]
    chosen: str
    difference: Estimate
    values: tuple[float, ...]
    seeds: tuple[int, ...]
    t: float
    p: float
    p_adjusted: float
    p_equivalence: float
    answer: Answer
    sentence: str


def judge(
    plan: Plan, outcomes: Mapping[str, Array], seeds: Sequence[int], validation: Mapping[str, float], *, planned: bool
) -> tuple[Verdict, ...]:
    """Answer every contrast of the plan, in its order.

    All contrasts are tested on the seeds that all of them have. One that has fewer than 6 seeds while another has 6 or more is set
    aside as missing, so that a failed arm does not take the others' verdicts with it.

    The rival of "best other" is chosen once, by its mean validation score over seeds, never by test. Where validation and test errors
    of a run are strongly alike the choice costs a little: with 8 seeds, normal noise and a correlation of .9 the family-wise error is
    .054, with .5 it is .049, with none .047 (scripts/family_wise_error.py, 20,000 simulations).

    Args:
        plan: The family.
        outcomes: Per arm, one per seed [S], NaN where missing; an arm without runs may lack.
        seeds: What the columns are.
        validation: Mean validation score per rival; one that lacks cannot be chosen.
        planned: Whether the plan was made before the runs; else nothing is more than exploratory.
    """
    chosen = {c.name: _best(c, validation, outcomes) for c in plan.contrasts}
    weights = {c.name: _resolved(c, chosen[c.name]) for c in plan.contrasts}
    rows: dict[str, Array] = {}
    reasons: dict[str, str] = {}
    for contrast in plan.contrasts:
        lacking = [arm for arm in weights[contrast.name] if arm not in outcomes or not np.isfinite(outcomes[arm]).any()]
        if contrast.rivals and not chosen[contrast.name]:
            reasons[contrast.name] = "no rival has a validation score"
        elif lacking:
            reasons[contrast.name] = f"no outcome of {', '.join(lacking)}"
        else:
            rows[contrast.name] = combine(weights[contrast.name], outcomes)
    counts = {name: int(np.isfinite(row).sum()) for name, row in rows.items()}
    most = max(counts.values(), default=0)
    for name, count in counts.items():
        if count == 0 or count < MIN_SEEDS <= most:
            reasons[name] = f"only {count} complete seed{'' if count == 1 else 's'}"
            del rows[name]
    matrix = np.stack(list(rows.values()), axis=1) if rows else np.empty((0, 0))
    complete = np.asarray([bool(np.isfinite(row).all()) for row in matrix], dtype=np.bool_)
    used = tuple(s for i, s in enumerate(seeds) if complete[i]) if rows else ()
    if not used:
        reasons |= dict.fromkeys(rows, "no seed that all contrasts have")
        return tuple(_missing(c, weights[c.name], chosen[c.name], reasons[c.name]) for c in plan.contrasts)
    matrix = matrix[complete]
    tested = max_t(matrix)
    equivalent = holm([_or_one(equivalence_p(matrix[:, i], plan.margin)) for i in range(matrix.shape[1])])
    found: list[Verdict] = []
    names = list(rows)
    for contrast in plan.contrasts:
        if contrast.name in reasons:
            found.append(_missing(contrast, weights[contrast.name], chosen[contrast.name], reasons[contrast.name]))
            continue
        i = names.index(contrast.name)
        difference = estimate(matrix[:, i], 1 - plan.alpha)
        p_adjusted = float(tested.adjusted[i])
        answer: Answer
        if not planned or len(used) < MIN_SEEDS:
            answer = "exploratory"
        elif p_adjusted <= plan.alpha:
            answer = "higher" if difference.mean > 0 else "lower"
        else:
            answer = "no difference" if equivalent[i] <= plan.alpha else "undecided"
        found.append(
            Verdict(
                name=contrast.name,
                weights=weights[contrast.name],
                chosen=chosen[contrast.name],
                difference=difference,
                values=tuple(map(float, matrix[:, i])),
                seeds=used,
                t=float(tested.t[i]) if len(used) > 1 else math.nan,
                p=float(tested.p[i]),
                p_adjusted=p_adjusted,
                p_equivalence=equivalent[i],
                answer=answer,
                sentence=_sentence(_subject(contrast.name, chosen[contrast.name]), answer, difference, p_adjusted, plan, planned),
            )
        )
    return tuple(found)


def two_sentences(plan: Plan, verdicts: Sequence[Verdict], means: Mapping[str, Estimate], num_flags: int = 0) -> str:
    """The verdict in two sentences: who stands where on the outcome, then what the contrasts say of it.

    Args:
        plan: The family.
        verdicts: As `judge` gave them.
        means: Mean outcome per arm.
        num_flags: How many reasons for doubt the comparison holds; the second sentence says so.
    """
    known = sorted(((e, arm) for arm, e in means.items() if math.isfinite(e.mean)), key=lambda pair: -pair[0].mean)
    if not known:
        return f"No run has an outcome on {block_title(plan.key)}. Nothing can be said."
    asked = [v for v in verdicts if v.answer != "missing"]
    num_seeds = len(asked[0].seeds) if asked else known[0][0].seeds
    doubt = f"; {num_flags} flag{'' if num_flags == 1 else 's'} to read first" if num_flags else ""
    (best, arm), last = known[0], known[-1]
    lead = f"On {block_title(plan.key)}, {arm} has the highest mean normalised gain, {best.mean:.3f}{_interval(best)}"
    lead += f", of {len(known)} arms down to {last[1]} with {last[0].mean:.3f}" if len(known) > 1 else ""
    if not asked:
        return f"{lead}. No contrast of the plan can be asked of these runs."
    if any(v.answer == "exploratory" for v in asked):
        few = num_seeds < MIN_SEEDS
        why = f"{_seeds(num_seeds)}, no verdict below {MIN_SEEDS}" if few else f"{_seeds(num_seeds)}, no plan from before the runs"
        told = "; ".join(_short(v) for v in asked)
        return f"Exploratory ({why}): {lead[0].lower()}{lead[1:]}. Paired differences, intervals not adjusted: {told}{doubt}."
    parts = []
    for answer, words in (
        ("higher", "above 0"),
        ("lower", "below 0"),
        ("no difference", f"no difference within {plan.margin:g}"),
        ("undecided", "undecided"),
    ):
        if named := [_short(v) for v in asked if v.answer == answer]:
            parts.append(f"{words}: {', '.join(named)}")
    lacking = [v.name for v in verdicts if v.answer == "missing"]
    if lacking:
        parts.append(f"not asked for want of runs: {', '.join(lacking)}")
    return f"{lead}. At a family-wise error of {plan.alpha:g} over {_seeds(num_seeds)}, {'; '.join(parts)}{doubt}."


def _best(contrast: Contrast, validation: Mapping[str, float], outcomes: Mapping[str, Array]) -> str:
    able = [r for r, weights in contrast.rivals.items() if math.isfinite(validation.get(r, math.nan)) and set(weights) <= set(outcomes)]
    return max(able, key=lambda r: validation[r]) if able else ""


def _resolved(contrast: Contrast, chosen: str) -> dict[str, float]:
    weights = dict(contrast.weights)
    for arm, weight in (contrast.rivals[chosen] if chosen else {}).items():
        weights[arm] = weights.get(arm, 0.0) - weight
    return weights


def _missing(contrast: Contrast, weights: Mapping[str, float], chosen: str, reason: str) -> Verdict:
    nothing = Estimate(math.nan, math.nan, math.nan, 0)
    sentence = f"{contrast.name}: not asked, {reason}."
    return Verdict(contrast.name, weights, chosen, nothing, (), (), math.nan, math.nan, math.nan, math.nan, "missing", sentence)


def _sentence(subject: str, answer: Answer, difference: Estimate, p: float, plan: Plan, planned: bool) -> str:
    size = f"{difference.mean:+.3f}{_interval(difference)}"
    inside = difference.low > -plan.margin and difference.high < plan.margin
    match answer:
        case "higher" | "lower":
            small = f", though within the margin of {plan.margin:g}" if inside else ""
            return f"{subject}: {answer}, {size}, adjusted p {p:.3g}, {_seeds(difference.seeds)}{small}."
        case "no difference":
            return f"{subject}: no difference within {plan.margin:g}, {size}, {_seeds(difference.seeds)}."
        case "undecided":
            return f"{subject}: undecided, {size}, adjusted p {p:.3g}, {_seeds(difference.seeds)}."
        case _:
            return f"{subject}: {size}, exploratory, {_seeds(difference.seeds)}{'' if planned else ', no plan'}."


def _subject(name: str, chosen: str) -> str:
    return f"{name} ({chosen})" if chosen else name


def _interval(e: Estimate) -> str:
    return f" ({100 * e.level:g} % interval {e.low:+.3f} to {e.high:+.3f})" if math.isfinite(e.low) else " (one seed, no interval)"


def _short(v: Verdict) -> str:
    e = v.difference
    bounds = f", {e.low:+.3f} to {e.high:+.3f}" if math.isfinite(e.low) else ""
    return f"{_subject(v.name, v.chosen)} ({e.mean:+.3f}{bounds})"


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"


def _or_one(p: float) -> float:
    return p if math.isfinite(p) else 1.0
