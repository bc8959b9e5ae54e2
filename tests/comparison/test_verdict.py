from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from m3tl_cli.comparison.cells import SETTINGS
from m3tl_cli.comparison.plan import Contrast, Plan, plan_for
from m3tl_cli.comparison.statistics import Array, Choice, best_rival, equivalence_p, estimate, max_t
from m3tl_cli.comparison.verdict import Verdict, judge, two_sentences

SEEDS = tuple(range(1, 9))
PAIR = Plan((Contrast("m3tl - stl", {"m3tl": 1.0, "stl": -1.0}),), ("stl", "m3tl"), SEEDS, "c", 5, 0.02)


def arms(**rows: list[float] | Array) -> dict[str, Array]:
    return {name: np.asarray(row, dtype=np.float64) for name, row in rows.items()}


def noise(seed: int, scale: float, size: int = 8) -> Array:
    return np.random.default_rng(seed).normal(0, scale, size)


def always(**scores: float) -> dict[str, Array]:
    """The same validation score at each of eight seeds."""
    return {rival: np.full(8, score) for rival, score in scores.items()}


def one(outcomes: dict[str, Array], seeds: tuple[int, ...] = SEEDS, planned: bool = True, plan: Plan = PAIR) -> Verdict:
    [found] = judge(plan, outcomes, seeds, {}, planned=planned)
    return found


def test_a_clear_difference_is_higher_or_lower() -> None:
    shared = noise(0, 1.0)
    up = one(arms(m3tl=shared + 0.3 + noise(1, 0.05), stl=shared))
    assert up.answer == "higher"
    assert up.p_adjusted == 2**-7
    assert up.difference.mean == pytest.approx(0.3 + noise(1, 0.05).mean())
    assert "higher, +0.3" in up.sentence
    assert "8 seeds" in up.sentence
    assert one(arms(m3tl=shared, stl=shared + 0.3 + noise(1, 0.05))).answer == "lower"


def test_identical_arms_are_no_different() -> None:
    shared = noise(0, 1.0)
    found = one(arms(m3tl=shared, stl=shared))
    assert found.answer == "no difference"
    assert found.p_adjusted == 1.0
    assert "within 0.02" in found.sentence


def test_what_is_neither_is_undecided() -> None:
    found = one(arms(m3tl=noise(1, 0.3), stl=noise(2, 0.3)))
    assert found.answer == "undecided"
    assert found.p_adjusted > 0.05
    assert found.p_equivalence > 0.05


def test_a_sure_difference_within_the_margin_says_so() -> None:
    found = one(arms(m3tl=0.01 + noise(1, 0.001), stl=np.zeros(8)))
    assert found.answer == "higher"
    assert "though within the margin" in found.sentence


@pytest.mark.parametrize("count", [1, 3, 5])
def test_below_six_seeds_there_is_no_verdict(count: int) -> None:
    found = one(arms(m3tl=np.ones(count), stl=np.zeros(count)), tuple(range(count)))
    assert found.answer == "exploratory"
    assert "exploratory" in found.sentence


def test_without_a_plan_there_is_no_verdict() -> None:
    found = one(arms(m3tl=np.ones(8) + noise(1, 0.01), stl=np.zeros(8)), planned=False)
    assert found.answer == "exploratory"
    assert "no plan" in found.sentence


def test_a_seed_that_an_arm_lacks_is_left_out_for_all_contrasts() -> None:
    plan = replace(PAIR, arms=("stl", "mtl", "m3tl"), contrasts=(*PAIR.contrasts, Contrast("mtl - stl", {"mtl": 1.0, "stl": -1.0})))
    outcomes = arms(m3tl=noise(1, 1), stl=noise(2, 1), mtl=noise(3, 1))
    outcomes["mtl"][2] = math.nan
    found = judge(plan, outcomes, SEEDS, {}, planned=True)
    assert {v.seeds for v in found} == {(1, 2, 4, 5, 6, 7, 8)}
    keep = [0, 1, 3, 4, 5, 6, 7]
    matrix = np.stack([outcomes["m3tl"] - outcomes["stl"], outcomes["mtl"] - outcomes["stl"]], axis=1)[keep]
    assert [v.p_adjusted for v in found] == max_t(matrix).adjusted.tolist()


def test_an_arm_that_failed_does_not_take_the_others_verdicts_with_it() -> None:
    plan = replace(PAIR, arms=("stl", "mtl", "m3tl"), contrasts=(*PAIR.contrasts, Contrast("mtl - stl", {"mtl": 1.0, "stl": -1.0})))
    outcomes = arms(m3tl=1 + noise(1, 0.1), stl=noise(2, 0.1), mtl=np.full(8, math.nan))
    outcomes["mtl"][0] = 0.5
    first, second = judge(plan, outcomes, SEEDS, {}, planned=True)
    assert first.answer == "higher"
    assert (second.answer, second.sentence) == ("missing", "mtl - stl: not asked, only 1 complete seed.")
    absent = judge(plan, {k: v for k, v in outcomes.items() if k != "mtl"}, SEEDS, {}, planned=True)[1]
    assert "no outcome of mtl" in absent.sentence


def test_the_best_other_is_chosen_by_validation_and_never_by_test() -> None:
    plan = plan_for(["stl", "mtl", "meta", "m3tl"], axes={}, seeds=SEEDS, block="c", num_shots=5, margin=0.02)
    # By test meta is best, by validation mtl.
    outcomes = arms(stl=noise(1, 0.1), mtl=0.5 + noise(2, 0.1), meta=0.9 + noise(3, 0.1), m3tl=0.7 + noise(4, 0.1))
    found = judge(plan, outcomes, SEEDS, always(stl=0.1, mtl=0.6, meta=0.5), planned=True)[-1]
    assert found.chosen == "mtl"
    assert found.weights == {"m3tl": 1.0, "mtl": -1.0}
    assert found.difference.mean == pytest.approx((outcomes["m3tl"] - outcomes["mtl"]).mean())
    assert "(mtl)" in found.sentence
    assert judge(plan, outcomes, SEEDS, {}, planned=True)[-1].answer == "missing"


def test_the_confirmatory_family_finds_the_switch_that_was_planted() -> None:
    plan = plan_for(list(SETTINGS), axes={}, seeds=SEEDS, block="c", num_shots=5, margin=0.05)
    shared = noise(0, 0.3)
    outcomes = {s: shared + 0.4 * switches[1] + noise(i + 1, 0.02) for i, (s, switches) in enumerate(SETTINGS.items())}
    validation = always(**dict.fromkeys(SETTINGS, 0.0) | {"mtl_meta": 1.0})
    found = {v.name: v for v in judge(plan, outcomes, SEEDS, validation, planned=True)}
    assert found["main effect of joint"].answer == "higher"
    assert found["main effect of joint"].difference.mean == pytest.approx(0.4, abs=0.02)
    assert found["main effect of pretrain"].answer == "no difference"
    assert found["m3tl - stl"].answer == "higher"
    assert found["m3tl - best other by validation"].chosen == "mtl_meta"
    assert found["m3tl - best other by validation"].answer == "no difference"


CHOOSING = plan_for(["stl", "mtl", "meta", "m3tl"], axes={}, seeds=SEEDS, block="c", num_shots=5, margin=0.02)


def four(scale: float = 0.1) -> dict[str, Array]:
    return arms(stl=noise(1, scale), mtl=noise(2, scale), meta=noise(3, scale), m3tl=0.3 + noise(4, scale))


def test_the_test_of_the_best_other_repeats_the_choice() -> None:
    outcomes = four(0.2)
    validation = {rival: outcomes[rival] + noise(10 + i, 0.05) for i, rival in enumerate(("stl", "mtl", "meta"))}
    stl, best = judge(CHOOSING, outcomes, SEEDS, validation, planned=True)
    differences = np.stack([outcomes["m3tl"] - outcomes[rival] for rival in validation], axis=1)
    choice = Choice(differences, np.stack(list(validation.values()), axis=1))
    chosen = int(best_rival(choice))
    assert best.chosen == list(validation)[chosen]
    assert best.values == pytest.approx(differences[:, chosen])
    expected = max_t(differences[:, [0, chosen]], {1: choice})
    assert [stl.p_adjusted, best.p_adjusted] == expected.adjusted.tolist()
    assert [stl.p, best.p] == expected.p.tolist()
    # The choice costs: the same difference without one has a smaller p.
    assert max_t(differences[:, [chosen]]).p[0] < best.p


def test_the_p_of_no_difference_from_a_chosen_rival_counts_every_rival() -> None:
    plan = replace(CHOOSING, contrasts=(CHOOSING.contrasts[-1],), margin=0.1)
    rivals = ("stl", "mtl", "meta")
    outcomes = arms(m3tl=np.zeros(8), stl=noise(1, 0.05), mtl=noise(2, 0.09), meta=noise(3, 0.9))
    plain = {rival: float(equivalence_p(outcomes[rival], 0.1)) for rival in rivals}
    assert plain["stl"] < plain["mtl"] < 0.1 < plain["meta"]

    def found(chosen: str) -> float:
        [verdict] = judge(plan, outcomes, SEEDS, always(**{r: float(r == chosen) for r in rivals}), planned=True)
        assert verdict.chosen == chosen
        return verdict.p_equivalence

    # The smallest is asked first, of three; what is asked later is never surer than what was asked before.
    assert found("stl") == pytest.approx(3 * plain["stl"])
    assert found("mtl") == pytest.approx(max(3 * plain["stl"], 2 * plain["mtl"]))
    assert found("meta") == pytest.approx(max(3 * plain["stl"], 2 * plain["mtl"], plain["meta"]))
    # It is never below that of the rival alone, and never above 1.
    outcomes |= arms(stl=noise(1, 0.5), mtl=noise(2, 0.5), meta=noise(3, 0.5))
    assert [found(rival) for rival in rivals] == [1.0] * 3


def test_what_a_choice_adds_leaves_the_p_of_no_difference_of_other_contrasts_alone() -> None:
    outcomes = four(0.01) | {"m3tl": noise(4, 0.005)}
    stl, best = judge(CHOOSING, outcomes, SEEDS, always(stl=0.1, mtl=0.4, meta=0.5), planned=True)
    alone = float(equivalence_p(outcomes["m3tl"] - outcomes["stl"], CHOOSING.margin))
    chosen = float(equivalence_p(outcomes["m3tl"] - outcomes["meta"], CHOOSING.margin))
    assert alone <= stl.p_equivalence <= 2 * alone + 1e-15
    assert best.p_equivalence >= chosen


def test_a_seed_without_a_validation_score_is_tested_and_has_no_say_in_the_choice() -> None:
    outcomes, validation = four(), always(stl=0.1, mtl=0.4, meta=0.5)
    validation["mtl"][0], validation["meta"][0] = 9.0, math.nan
    found = judge(CHOOSING, outcomes, SEEDS, validation, planned=True)[-1]
    assert (found.chosen, found.seeds) == ("meta", SEEDS)
    validation["meta"][0] = 0.5
    assert judge(CHOOSING, outcomes, SEEDS, validation, planned=True)[-1].chosen == "mtl"


def test_a_rival_of_too_few_seeds_cannot_be_chosen_and_takes_no_seed_away() -> None:
    outcomes, validation = four(), always(stl=0.1, mtl=0.4, meta=0.5)
    outcomes["meta"][:3] = math.nan
    found = judge(CHOOSING, outcomes, SEEDS, validation, planned=True)
    assert {v.seeds for v in found} == {SEEDS}
    assert found[-1].chosen == "mtl"
    # With six it can be chosen, and all are tested on its seeds: any flip may choose it.
    outcomes["meta"][2] = 0.1
    found = judge(CHOOSING, outcomes, SEEDS, validation, planned=True)
    assert {v.seeds for v in found} == {SEEDS[2:]}
    assert found[-1].chosen == "meta"
    outcomes["meta"][2] = math.nan
    validation["meta"][:], validation["stl"][:3] = math.nan, math.nan
    assert judge(CHOOSING, outcomes, SEEDS, validation, planned=True)[-1].chosen == "mtl"


def test_rivals_without_a_common_seed_of_validation_leave_the_other_contrasts_alone() -> None:
    outcomes = {arm: row[:4] for arm, row in four().items()}
    validation = {"stl": np.array([0.1, math.nan, 0.1, math.nan]), "mtl": np.array([math.nan, 0.1, math.nan, 0.1])}
    stl, best = judge(CHOOSING, outcomes, SEEDS[:4], validation, planned=True)
    assert stl.answer == "exploratory"
    assert stl.seeds == SEEDS[:4]
    assert (best.answer, best.chosen) == ("missing", "")
    assert best.sentence == "m3tl - best other by validation: not asked, no seed at which every rival has a validation score."


def say(outcomes: dict[str, Array], seeds: tuple[int, ...], planned: bool = True, plan: Plan = PAIR) -> str:
    means = {arm: estimate(row) for arm, row in outcomes.items()}
    return two_sentences(plan, judge(plan, outcomes, seeds, {}, planned=planned), means)


def sentences(text: str) -> int:
    return text.count(". ") + text.endswith(".")


def test_the_verdict_is_two_sentences_with_uncertainty() -> None:
    text = say(arms(m3tl=1 + noise(1, 0.1), stl=noise(2, 0.1)), SEEDS)
    assert text.startswith("On new tasks in target domains, 5 shots, m3tl has the highest mean normalised gain")
    assert "95 % interval" in text
    assert "above 0: m3tl - stl (+" in text
    assert "family-wise error of 0.05 over 8 seeds" in text
    assert sentences(text) == 2


def test_three_seeds_are_said_to_be_exploratory() -> None:
    text = say(arms(m3tl=[1, 2, 3], stl=[0, 1, 1]), (1, 2, 3))
    assert text.startswith("Exploratory (3 seeds, no verdict below 6)")
    assert "m3tl - stl (+1.333, " in text
    assert sentences(text) == 2


def test_without_a_plan_or_a_number_the_sentence_says_so() -> None:
    assert "no plan from before the runs" in say(arms(m3tl=noise(1, 1), stl=noise(2, 1)), SEEDS, planned=False)
    assert "Nothing can be said" in say(arms(m3tl=[math.nan], stl=[math.nan]), (1,))
    assert "No contrast of the plan can be asked" in say(arms(stl=noise(1, 1)), SEEDS)
    assert "Paired differences, intervals not adjusted: m3tl - stl (+1.000)." in say(arms(m3tl=[1.0], stl=[0.0]), (1,))
    assert "undecided: m3tl - stl" in say(arms(m3tl=noise(1, 0.3), stl=noise(2, 0.3)), SEEDS)
