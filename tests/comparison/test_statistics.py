from __future__ import annotations

import importlib.util
import math
from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

from m3tl_cli.comparison.statistics import (
    MIN_SEEDS,
    SWITCHES,
    Choice,
    best_rival,
    combine,
    equivalence_p,
    estimate,
    factorial_terms,
    factorial_weights,
    holm,
    max_t,
    sign_flips,
)

CORNERS = [(bool(i & 4), bool(i & 2), bool(i & 1)) for i in range(8)]


def test_three_seeds_by_hand() -> None:
    # mean 2, sd 1, se 1 / sqrt 3; t(.975, 2) = 4.302653: half width 2.484138.
    found = estimate([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.low == pytest.approx(2 - 2.4841377, abs=1e-7)
    assert found.high == pytest.approx(2 + 2.4841377, abs=1e-7)
    assert found.seeds == 3
    assert found.exploratory
    # Flips of (1, 2, 3): |sum| is 6, 4, 2, 0; only the identity reaches 6. t = 2 sqrt 3.
    tested = max_t(np.array([[1.0], [2.0], [3.0]]))
    assert tested.t[0] == pytest.approx(2 * math.sqrt(3))
    assert tested.p[0] == tested.adjusted[0] == 0.25


def test_the_interval_is_scipys() -> None:
    values = np.random.default_rng(0).normal(size=7)
    low, high = stats.t.interval(0.9, 6, loc=values.mean(), scale=stats.sem(values))
    found = estimate(values, 0.9)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-14)


def test_a_seed_without_a_number_is_left_out_and_one_seed_has_no_interval() -> None:
    assert estimate([1.0, math.nan, 3.0]).seeds == 2
    assert math.isnan(estimate([1.0]).low)
    assert math.isnan(estimate([]).mean)
    assert estimate(np.zeros(MIN_SEEDS)).exploratory is False


def test_one_contrast_is_the_exact_sign_flip_test() -> None:
    for seed in range(5):
        values = np.random.default_rng(seed).normal(0.5, size=(7, 1))
        reached = [abs(sum(s * v for s, v in zip(signs, values[:, 0], strict=True))) for signs in product((1, -1), repeat=7)]
        expected = np.mean(np.asarray(reached) >= abs(values.sum()) - 1e-12)
        reference = stats.permutation_test(
            (values[:, 0],), lambda v, axis: v.mean(axis), permutation_type="samples", n_resamples=np.inf, vectorized=True
        )
        tested = max_t(values)
        assert tested.p[0] == tested.adjusted[0] == expected == pytest.approx(reference.pvalue)
        assert tested.t[0] == pytest.approx(stats.ttest_1samp(values[:, 0], 0).statistic)


def step_down_by_hand(values: np.ndarray) -> list[float]:
    """The definition, with t statistics of every flip and no shortcut."""
    num_seeds, count = values.shape

    def t(rows: np.ndarray) -> np.ndarray:
        return np.abs(rows.mean(0)) / (rows.std(0, ddof=1) / math.sqrt(num_seeds))

    observed = t(values)
    flips = [t(np.asarray(signs)[:, None] * values) for signs in product((1, -1), repeat=num_seeds)]
    order = sorted(range(count), key=lambda c: -observed[c])
    adjusted, largest = [0.0] * count, 0.0
    for rank, c in enumerate(order):
        largest = max(largest, float(np.mean([max(f[d] for d in order[rank:]) >= observed[c] - 1e-9 for f in flips])))
        adjusted[c] = largest
    return adjusted


def test_step_down_is_its_definition() -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        values = rng.normal(size=(6, 4)) + rng.normal(size=(6, 1)) + np.array([2.0, 1.0, 0.0, 0.0])
        assert max_t(values).adjusted.tolist() == pytest.approx(step_down_by_hand(values))


def test_families_in_leading_dimensions_are_tested_each_by_itself() -> None:
    values = np.random.default_rng(1).normal(0.4, size=(5, 6, 3))
    together = max_t(values)
    for i in range(5):
        assert together.adjusted[i].tolist() == max_t(values[i]).adjusted.tolist()


def test_adjusted_p_is_at_least_p_and_ordered_like_t() -> None:
    values = np.random.default_rng(2).normal(0.3, size=(200, 8, 6))
    tested = max_t(values)
    assert (tested.adjusted >= tested.p).all()
    order = np.argsort(-np.abs(tested.t), axis=-1)
    assert (np.diff(np.take_along_axis(tested.adjusted, order, -1), axis=-1) >= 0).all()


def test_signs_and_scale_of_a_contrast_change_nothing_but_the_sign_of_t() -> None:
    values = np.random.default_rng(3).normal(0.5, size=(6, 3))
    tested, turned = max_t(values), max_t(values * np.array([-1.0, 1e-6, 1e6]))
    assert tested.adjusted.tolist() == turned.adjusted.tolist()
    assert (tested.t * [-1, 1, 1]).tolist() == pytest.approx(turned.t.tolist())


def test_a_copy_of_a_contrast_costs_nothing() -> None:
    values = np.random.default_rng(4).normal(0.5, size=(8, 2))
    assert max_t(np.concatenate([values, values[:, :1]], 1)).adjusted[:2].tolist() == max_t(values).adjusted.tolist()


def test_smallest_p_is_that_of_the_number_of_seeds() -> None:
    for num_seeds, smallest in ((3, 0.25), (5, 0.0625), (6, 0.03125), (8, 0.0078125)):
        assert max_t(np.ones((num_seeds, 1))).adjusted[0] == smallest
    assert math.isinf(max_t(np.ones((6, 1))).t[0])


def test_identical_arms_have_t_0_and_p_1() -> None:
    tested = max_t(np.zeros((8, 2)))
    assert tested.t.tolist() == [0.0, 0.0]
    assert tested.adjusted.tolist() == [1.0, 1.0]


def drawn(seed: int, num_seeds: int = 6, alike: float = 0.9) -> tuple[np.ndarray, Choice]:
    """Two plain contrasts and one with the best of four rivals, all of an arm like any other; scores err like the outcomes."""
    rng = np.random.default_rng(seed)
    own, rivals, other = rng.normal(size=(num_seeds, 1)), rng.normal(size=(num_seeds, 4)), rng.normal(size=(num_seeds, 4))
    scores = alike * rivals + math.sqrt(1 - alike**2) * other
    plain = np.concatenate([own - rivals[:, :1], rivals[:, 1:2] + rivals[:, 2:3] - 2 * own, np.zeros((num_seeds, 1))], axis=1)
    return plain, Choice(own - rivals, scores)


def step_down_with_choice(plain: np.ndarray, choice: Choice) -> list[float]:
    """The definition: every one of the 2^S flips chooses its own rival and computes its t statistics anew."""
    num_seeds, column = plain.shape[0], plain.shape[1] - 1

    def t(signs: tuple[int, ...]) -> np.ndarray:
        flip = np.asarray(signs)[:, None]
        rows = flip * plain
        rows[:, column] = (flip * choice.differences)[:, int(np.argmax((flip * choice.scores).mean(0)))]
        return np.abs(rows.mean(0)) / (rows.std(0, ddof=1) / math.sqrt(num_seeds))

    flips = [t(signs) for signs in product((1, -1), repeat=num_seeds)]
    observed = flips[0]
    order = sorted(range(plain.shape[1]), key=lambda c: -observed[c])
    adjusted, largest = [0.0] * plain.shape[1], 0.0
    for rank, c in enumerate(order):
        largest = max(largest, float(np.mean([max(f[d] for d in order[rank:]) >= observed[c] - 1e-9 for f in flips])))
        adjusted[c] = largest
    return adjusted


def test_every_flip_chooses_its_rival_again() -> None:
    for seed in range(5):
        plain, choice = drawn(seed)
        tested = max_t(plain, {2: choice})
        assert tested.adjusted.tolist() == pytest.approx(step_down_with_choice(plain, choice))
        chosen = choice.differences[:, int(best_rival(choice))]
        assert tested.t[2] == pytest.approx(stats.ttest_1samp(chosen, 0).statistic)
        assert tested.p[:2].tolist() == max_t(plain[:, :2]).p.tolist()


def test_two_seeds_and_two_rivals_by_hand() -> None:
    # Scores choose rival 0 under ++ (means 1, 0) and +- (2, 1), rival 1 under -+ (-2, -1) and -- (-1, 0).
    choice = Choice(np.array([[1.0, 3.0], [1.0, -1.0]]), np.array([[3.0, 1.0], [-1.0, -1.0]]))
    assert best_rival(choice) == 0
    # (sum d)^2 / (2 sum d^2): rival 0 has 1 under ++ and 0 under +-, rival 1 has 16/20 under -+ and 4/20 under --; 1 is reached once in 4.
    tested = max_t(np.zeros((2, 1)), {0: choice})
    assert tested.p[0] == tested.adjusted[0] == 0.25
    assert math.isinf(tested.t[0])
    # The other way round rival 1 is chosen under ++ with .2 and +- with .8, rival 0 under -+ with 0 and -- with 1: 3 of 4 reach .2.
    assert max_t(np.zeros((2, 1)), {0: Choice(-choice.differences, -choice.scores)}).p[0] == 0.75


def test_one_rival_is_no_choice_and_equal_scores_choose_the_first() -> None:
    plain, choice = drawn(1)
    first = np.concatenate([plain[:, :2], choice.differences[:, :1]], axis=1)
    for same in (Choice(choice.differences[:, :1], choice.scores[:, :1]), Choice(choice.differences, np.full((6, 4), 0.1))):
        assert best_rival(same) == 0
        assert max_t(plain, {2: same}).adjusted.tolist() == max_t(first).adjusted.tolist()
    swapped = Choice(choice.differences, np.array([[0.1, 0.3], [0.3, 0.1], [0.2, 0.2]]) / 3)
    assert best_rival(swapped) == 0


def test_what_all_rivals_of_a_seed_score_more_changes_nothing() -> None:
    plain, choice = drawn(2)
    moved = Choice(choice.differences, choice.scores + np.random.default_rng(0).normal(size=(6, 1)))
    assert max_t(plain, {2: moved}).adjusted.tolist() == max_t(plain, {2: choice}).adjusted.tolist()


def flips_of_one_ablation(seed: int) -> tuple[np.ndarray, Choice]:
    """All 2^8 ablations that are as likely as one drawn under the null, each [8, 3]."""
    plain, choice = drawn(seed, num_seeds=8)
    signs = np.array(list(product((1.0, -1.0), repeat=8)))[:, :, None]
    return signs * plain, Choice(signs * choice.differences, signs * choice.scores)


def test_the_level_is_exact_with_a_choice_and_not_without_choosing_again() -> None:
    """Of equally likely ablations at most a share alpha is rejected at alpha, at every alpha: no simulation, no tolerance."""
    broken = 0
    for seed in range(10):
        plain, choice = flips_of_one_ablation(seed)
        smallest = np.sort(max_t(plain, {2: choice}).adjusted.min(axis=-1))
        share = np.searchsorted(smallest, smallest, side="right") / len(smallest)
        assert (share <= smallest + 1e-12).all()
        once = plain.copy()
        once[..., 2] = np.take_along_axis(choice.differences, best_rival(choice)[:, None, None], axis=-1)[..., 0]
        smallest = np.sort(max_t(once).adjusted.min(axis=-1))
        broken += bool((np.searchsorted(smallest, smallest, side="right") / len(smallest) > smallest + 1e-12).any())
    assert broken > 5


def test_families_with_choices_in_leading_dimensions_are_tested_each_by_itself() -> None:
    plain, choice = flips_of_one_ablation(3)
    together = max_t(plain[:5], {2: Choice(choice.differences[:5], choice.scores[:5])})
    for i in range(5):
        alone = max_t(plain[i], {2: Choice(choice.differences[i], choice.scores[i])})
        assert together.adjusted[i].tolist() == alone.adjusted.tolist()


def test_a_choice_that_is_not_finite_is_refused() -> None:
    plain, choice = drawn(0)
    with pytest.raises(ValueError, match="scores of a choice"):
        max_t(plain, {2: Choice(choice.differences, np.where(choice.scores > 1, math.nan, choice.scores))})
    with pytest.raises(ValueError, match="differences of a choice"):
        max_t(plain, {2: Choice(np.full((6, 4), math.inf), choice.scores)})


def test_half_of_the_flips_stands_for_all() -> None:
    signs = sign_flips(4)
    assert signs[0].tolist() == [1, 1, 1, 1]
    assert {tuple(r) for r in signs} | {tuple(-r) for r in signs} == set(product((1.0, -1.0), repeat=4))
    assert len(sign_flips(30)) == 2**15
    assert (sign_flips(30)[0] == 1).all()


def test_differences_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="must be finite"):
        max_t(np.array([[math.nan], [1.0]]))
    with pytest.raises(ValueError, match="must be finite"):
        max_t(np.empty((0, 2)))


def test_equivalence_is_two_one_sided_t_tests() -> None:
    values = np.random.default_rng(5).normal(0.1, 1, size=9)
    above = stats.ttest_1samp(values, -0.8, alternative="greater").pvalue
    below = stats.ttest_1samp(values, 0.8, alternative="less").pvalue
    assert equivalence_p(values, 0.8) == pytest.approx(max(above, below))
    # The usual dual: p <= .05 exactly where the 90 % interval lies within the margin.
    interval = estimate(values, 0.9)
    edge = max(abs(interval.low), abs(interval.high))
    assert equivalence_p(values, edge) == pytest.approx(0.05)
    assert equivalence_p(np.zeros(6), 0.01) == 0.0
    assert equivalence_p(np.ones(6), 0.5) == 1.0
    assert math.isnan(equivalence_p([0.1], 0.5))
    several = np.stack([values, np.zeros(9), np.ones(9)])
    assert equivalence_p(several, 0.8).tolist() == [equivalence_p(row, 0.8) for row in several]
    with pytest.raises(ValueError, match="above 0"):
        equivalence_p(values, 0.0)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    assert holm([0.5, 0.9]).tolist() == [1.0, 1.0]
    assert holm([[0.01, 0.04, 0.03], [0.02, 0.01, 0.5]]) == pytest.approx(np.array([[0.03, 0.06, 0.06], [0.04, 0.03, 0.5]]))


def test_holm_with_weights_by_hand() -> None:
    # Rising p over weight: .01 / 1, .01 / .5, .04 / .5; of the weight 2 are left 2, 1, .5.
    assert holm([0.01, 0.04, 0.01], [0.5, 0.5, 1.0]) == pytest.approx((0.02, 0.04, 0.02))
    # A fourth hypothesis that is asked as two halves costs the others nothing.
    assert holm([0.001, 0.9, 0.9], [1.0, 0.5, 0.5])[0] == holm([0.001, 0.9])[0]


def test_an_additive_response_has_its_main_effects_and_interactions_of_exactly_0() -> None:
    effect = {"pretrain": 0.25, "joint": 0.5, "bilevel": -0.125}
    response = {c: 1.0 + sum(effect[s] for s, on in zip(SWITCHES, c, strict=True) if on) for c in CORNERS}
    for term in factorial_terms():
        found = sum(w * response[c] for c, w in factorial_weights(term).items())
        assert found == (effect[term[0]] if len(term) == 1 else 0.0)


def test_an_interaction_is_half_of_the_difference_of_two_effects() -> None:
    # Joint adds .4 with pretraining and nothing without.
    response = {c: 0.4 * (c[0] and c[1]) for c in CORNERS}
    terms = {term: sum(w * response[c] for c, w in factorial_weights(term).items()) for term in factorial_terms()}
    assert terms["joint",] == pytest.approx(0.2)
    assert terms["pretrain", "joint"] == pytest.approx(0.2)
    assert terms["pretrain", "joint", "bilevel"] == pytest.approx(0.0)
    with pytest.raises(ValueError, match="switches"):
        factorial_weights(("handover",))


def test_rounding_residue_of_equal_arms_is_0() -> None:
    row = np.array([0.1, 0.2, 0.3]) / 3
    weights = {str(i): s / 4 for i, s in enumerate((1, 1, 1, 1, -1, -1, -1, -1))} | {"x": 1 / 3, "y": -1 / 3}
    outcomes = dict.fromkeys(weights, row)
    assert combine(weights, outcomes).tolist() == [0.0, 0.0, 0.0]
    assert np.isnan(combine({"a": 1.0, "b": -1.0}, {"a": np.array([1.0]), "b": np.array([math.nan])})).all()


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / "family_wise_error.py"
    spec = importlib.util.spec_from_file_location("family_wise_error", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("noise", ["normal", "t3"])
@pytest.mark.parametrize("num_seeds", [6, 8])
def test_family_wise_error_is_kept_under_the_null(simulation: ModuleType, noise: str, num_seeds: int) -> None:
    found = simulation.simulate(num_seeds, noise, choice=0.0, simulations=500)
    assert 0.005 < found.wrong <= 0.05 + 3 * found.error


@pytest.mark.slow
@pytest.mark.parametrize("choice", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("noise", ["normal", "t3"])
@pytest.mark.parametrize("num_seeds", [6, 8])
def test_family_wise_error_is_kept_over_many_ablations(simulation: ModuleType, num_seeds: int, noise: str, choice: float) -> None:
    found = simulation.simulate(num_seeds, noise, choice=choice, simulations=10_000, seed=1)
    assert 0.02 < found.wrong <= 0.05 + 2 * found.error


@pytest.mark.parametrize(("gap", "least"), [(0.5, 0.0), (2.0, 0.001)])
def test_the_error_is_kept_where_m3tl_equals_the_best_other_and_no_one_else(simulation: ModuleType, gap: float, least: float) -> None:
    effects = {arm: 0.0 if arm in ("m3tl", "mtl_transfer") else -gap for arm in simulation.PLAN.arms}
    found = simulation.simulate(8, "normal", choice=0.9, effects=effects, simulations=1000)
    assert least <= found.wrong_best <= found.wrong <= 0.05
    # The others are worse, and that is found: the family is not simply silent.
    assert (found.found > 0.5) == (gap == 2.0)


@pytest.mark.parametrize("choice", [0.0, 0.9])
def test_no_difference_from_a_chosen_rival_is_seldom_said_wrongly(simulation: ModuleType, choice: float) -> None:
    wrong, right = (
        simulation.no_difference(8, "normal", choice=choice, simulations=2000, margin=2.0, effect=effect) for effect in (2.0, 0.0)
    )
    assert max(wrong.alone, wrong.family) <= 0.05
    assert (wrong.alone_plain > 0.09) == (choice == 0.9), "as if nothing had been chosen"
    assert 0.5 < right.alone <= right.alone_plain


def test_a_large_effect_is_found_more_often_with_more_seeds(simulation: ModuleType) -> None:
    six, eight = (simulation.simulate(s, "normal", choice=0.5, effects={"m3tl": 2.0}, simulations=500) for s in (6, 8))
    assert 0.2 < six.found < 0.45
    assert 0.6 < eight.found < 0.85
    assert 0.1 < six.found_best < eight.found_best < eight.found
