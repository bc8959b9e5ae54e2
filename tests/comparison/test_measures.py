from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from m3tl_cli.comparison.measures import (
    Direction,
    average_ranks,
    cost_columns,
    delta_m,
    negative_transfer,
    normalised_gain,
    pareto_front,
    power_law,
    relative_change,
    samples_to_target,
    score_gain,
    steps_to_target,
    win_tie_loss,
)
from m3tl_cli.core.results import Score, StageCost
from tests.comparison import _cells

METRICS = {
    "segmentation": {"miou": "higher", "pixel": "higher"},
    "depth": {"abs": "lower", "rel": "lower"},
    "normals": {"mean": "lower", "median": "lower", "within_11": "higher", "within_22": "higher", "within_30": "higher"},
}
DIRECTIONS: dict[str, dict[str, Direction]] = METRICS  # type: ignore[assignment]

# NYUv2, SegNet + MTAN: rows as the papers print them, with both definitions in percent, recomputed in PEERS_MTL.md 2.1.
SINGLE = (38.30, 63.76, 0.6754, 0.2780, 25.01, 19.21, 30.14, 57.20, 69.15)
NYUV2 = {
    "EW": ((39.29, 65.33, 0.5493, 0.2263, 28.15, 23.96, 22.09, 47.50, 61.08), -5.59, 0.88),
    "RLW": ((37.17, 63.77, 0.5759, 0.2410, 28.27, 24.18, 22.26, 47.05, 60.62), -7.78, -2.16),
    "DWA": ((39.11, 65.31, 0.5510, 0.2285, 27.61, 23.18, 24.17, 50.18, 62.39), -3.57, 1.93),
    "UW": ((36.87, 63.17, 0.5446, 0.2260, 27.04, 22.61, 23.54, 49.05, 63.65), -4.06, 0.91),
    "MGDA": ((30.47, 59.90, 0.6070, 0.2555, 24.88, 19.45, 29.18, 56.88, 69.36), -1.38, -1.66),
    "PCGrad": ((38.06, 64.64, 0.5550, 0.2325, 27.41, 22.80, 23.86, 49.83, 63.14), -3.97, 1.11),
    "GradDrop": ((39.39, 65.12, 0.5455, 0.2279, 27.48, 22.96, 23.38, 49.44, 62.87), -3.58, 2.07),
    "CAGrad": ((39.79, 65.49, 0.5486, 0.2250, 26.31, 21.58, 25.61, 52.36, 65.58), -0.19, 4.33),
    "MoCo": ((40.30, 66.07, 0.5575, 0.2135, 26.67, 21.83, 25.61, 51.78, 64.85), -0.17, 4.85),
    "Nash-MTL": ((40.13, 65.93, 0.5261, 0.2171, 25.26, 20.08, 28.40, 55.47, 68.15), 4.05, 7.65),
    "Aligned-MTL": ((40.82, 66.33, 0.5300, 0.2200, 25.19, 19.71, 28.88, 56.23, 68.54), 4.77, 8.16),
}


def table(row: tuple[float, ...]) -> dict[str, dict[str, float]]:
    values = iter(row)
    return {task: {metric: next(values) for metric in metrics} for task, metrics in METRICS.items()}


@pytest.mark.parametrize("method", NYUV2)
def test_both_delta_m_of_nyuv2(method: str) -> None:
    row, by_metrics, by_tasks = NYUV2[method]
    found = delta_m(table(row), table(SINGLE), DIRECTIONS)
    assert 100 * found[0] == pytest.approx(by_metrics, abs=0.0051)
    assert 100 * found[1] == pytest.approx(by_tasks, abs=0.0051)


def test_the_two_delta_m_disagree_in_sign_on_one_table() -> None:
    by_metrics, by_tasks = delta_m(table(NYUV2["EW"][0]), table(SINGLE), DIRECTIONS)
    assert by_metrics < 0 < by_tasks


def test_delta_m_of_the_baseline_is_0_and_a_metric_without_size_is_left_out() -> None:
    assert delta_m(table(SINGLE), table(SINGLE), DIRECTIONS) == (0.0, 0.0)
    values, base = {"t": {"a": 0.3, "b": 2.0}}, {"t": {"a": 0.0, "b": 1.0}}
    assert delta_m(values, base, {"t": {"a": "higher", "b": "higher"}}) == (1.0, 1.0)
    assert all(map(math.isnan, delta_m({"t": {"a": 0.3}}, {"u": {"a": 1.0}}, {"t": {"a": "higher"}})))


def test_delta_m_divides_by_the_baselines_mean_over_seeds() -> None:
    # Baseline 1 and 3, mean 2; the method is .5 above at each seed: .25 at each, not .5 and 1/6.
    for base in (1.0, 3.0):
        found = delta_m({"t": {"a": base + 0.5}}, {"t": {"a": base}}, {"t": {"a": "higher"}}, {"t": {"a": 2.0}})
        assert found == (0.25, 0.25)


def test_normalised_gain_is_0_at_the_trivial_predictor_and_1_at_the_reference() -> None:
    assert normalised_gain(0.6, 0.2, 1.0) == pytest.approx(0.5)
    assert normalised_gain(2.0, 8.0, 4.0) == pytest.approx(1.5)
    assert math.isnan(normalised_gain(1.0, 2.0, 2.0))


def test_with_the_perfect_score_it_is_the_error_reduction() -> None:
    for score in (Score(0.6, 0.2, 1.0, "higher"), Score(3.0, 8.0, 0.0, "lower"), Score(9.0, 8.0, 0.0, "lower")):
        assert score_gain(score) == pytest.approx(score.error_reduction)
    assert math.isnan(score_gain(Score(0.6, 0.2, 1.0, "higher"), reference=0.1))
    assert score_gain(Score(0.6, 0.2, 1.0, "higher"), reference=0.4) == pytest.approx(2.0)


def test_relative_change_is_above_0_where_it_is_better() -> None:
    assert relative_change(0.6, 0.5, 0.5, "higher") == pytest.approx(0.2)
    assert relative_change(0.6, 0.5, 0.5, "lower") == pytest.approx(-0.2)
    assert relative_change(-0.1, -0.2, -0.2, "higher") == pytest.approx(0.5)
    assert negative_transfer(0.6, 0.5, "lower") == pytest.approx(0.2)
    assert negative_transfer(0.6, 0.5, "higher") == 0.0


def test_ranks_share_ties_and_leave_out_incomplete_cases() -> None:
    gains = np.array([[0.9, 0.5, 0.1, math.nan], [0.5, 0.5, 0.2, 1.0], [0.1, 0.1, 0.3, 1.0]])
    assert average_ranks(gains).tolist() == pytest.approx([5.5 / 3, 5.5 / 3, 7 / 3])
    assert np.isnan(average_ranks(np.full((2, 1), math.nan))).all()


def test_win_tie_loss() -> None:
    assert win_tie_loss([0.3, 0.01, -0.01, -0.3, math.nan], 0.02) == (1, 2, 1)


def test_samples_to_target_is_linear_in_log_n() -> None:
    # Half of the way from 1 to 100 shots in log n is 10.
    assert samples_to_target([1, 100], [0.0, 1.0], 0.5).at == pytest.approx(10.0)
    assert samples_to_target([1, 100], [0.0, 1.0], 1.0) == (pytest.approx(100.0), "exact")
    assert samples_to_target([1, 5, 20], [0.5, 0.6, 0.7], 0.4) == (1.0, "at most")
    assert samples_to_target([1, 5, 20], [0.5, 0.6, 0.7], 0.8) == (math.inf, "never")
    assert samples_to_target([1, 5, 20], [0.0, math.nan, 1.0], 0.5).at == pytest.approx(math.sqrt(20))


def test_steps_to_target_is_the_first_scored_step_that_reaches_it() -> None:
    assert steps_to_target([0, 1, 5], [0.1, 0.4, 0.3], 0.25).at == 1.0
    assert steps_to_target([0, 1, 5], [0.1, 0.2, 0.3], 0.4).kind == "never"


def test_pareto_front_holds_what_nothing_beats() -> None:
    points = {"cheap": (1.0, 0.1), "worse": (2.0, 0.05), "good": (3.0, 0.6), "dear": (4.0, 0.6), "best": (5.0, 0.9), "odd": (math.nan, 1.0)}
    assert pareto_front(points) == ("cheap", "good", "best")
    assert pareto_front({"a": (1.0, 1.0), "b": (1.0, 1.0)}) == ("a", "b")


def test_operations_have_a_number_where_they_were_counted_and_in_sums_that_lack_none() -> None:
    results = _cells.cell("mtl_transfer", 1, lambda *_: 0.5).results
    pretrain, train, adapt = (replace(s, flops=0.0) for s in results.stages)
    evaluate = StageCost("evaluate", 0, 0, 7, 0, 1.0)

    def flops(*stages: StageCost, whole: float = 0.0) -> dict[str, float]:
        found = cost_columns(replace(results, stages=stages, cost=replace(results.cost, flops=whole)))
        return {stage: value for (column, stage), value in found.items() if column == "flops"}

    counted = [replace(s, flops=f) for s, f in ((pretrain, 5.0), (train, 70.0), (adapt, 2.0))]
    each = {"pretrain": 5.0, "train": 70.0, "adapt": 2.0}
    assert flops(*counted, evaluate) == {"all": 77.0, "without pretraining": 72.0, **each}
    assert flops(pretrain, *counted[1:], evaluate) == {"without pretraining": 72.0, "train": 70.0, "adapt": 2.0}
    assert flops(*counted[:2], replace(adapt, flops=math.nan)) == {"pretrain": 5.0, "train": 70.0}
    assert flops(pretrain, train, adapt) == {}, "files from before they were counted"
    closed = replace(adapt, updates=0, backward=0)  # scored as it is: nothing to count, and nothing lacks
    assert flops(*counted[:2], closed) == {"all": 75.0, "without pretraining": 70.0, "pretrain": 5.0, "train": 70.0}
    assert flops(whole=9.0) == {"all": 9.0}
    assert flops() == {}


def test_costs_count_shared_work_and_pretraining_apart() -> None:
    columns = cost_columns(_cells.cell("mtl_transfer", 1, lambda *_: 0.5).results)
    assert columns["seconds", "pretrain"] == 2.0
    assert columns["seconds", "all"] == 15.0
    assert columns["seconds", "without pretraining"] == 13.0
    assert columns["parameters", "all"] == 1000
    assert ("parameters", "train") not in columns


def test_an_exact_power_law_gives_its_scale_and_exponent_back() -> None:
    shots = (1, 5, 10, 20)
    found = power_law(shots, [0.7 * n**-0.35 for n in shots])
    assert found == pytest.approx((0.7, 0.35), abs=1e-12)
    # A curve that falls with more samples has an exponent below 0.
    assert power_law((2, 8), [0.1, 0.4]) == pytest.approx((0.05, -1.0), abs=1e-12)


def test_the_power_law_is_the_least_squares_line_through_the_logarithms() -> None:
    shots, errors = (1, 2, 5, 10, 20, 40), np.random.default_rng(0).uniform(0.2, 1.3, 6)
    slope, intercept = np.polyfit(np.log(shots), np.log(errors), 1)
    assert power_law(shots, errors.tolist()) == pytest.approx((math.exp(intercept), -slope), abs=1e-12)


def test_a_power_law_takes_two_points_above_0() -> None:
    assert power_law((1, 5, 20), [0.5, math.nan, 0.25]) == power_law((1, 20), [0.5, 0.25])
    assert power_law((1, 5, 20), [0.5, 0.0, 0.25]) == power_law((1, 5, 20), [0.5, -0.1, 0.25]) == power_law((1, 20), [0.5, 0.25])
    for shots, errors in (((), ()), ((5,), (0.5,)), ((1, 5), (0.5, math.nan)), ((1, 5), (-0.5, 0.5))):
        assert all(map(math.isnan, power_law(shots, errors)))
