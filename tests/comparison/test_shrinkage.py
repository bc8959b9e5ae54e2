from __future__ import annotations

import csv
import math
import os
from pathlib import Path

import numpy as np
import pytest

from m3tl_cli.comparison.shrinkage import to_mean, to_point
from m3tl_cli.core.errors import ConfigError

# Batting averages of 18 players after 45 at-bats in 1970, and over the rest of the season (Efron and Morris, 1977).
FIRST = [0.4, 0.378, 0.356, 0.333, 0.311, 0.311, 0.289, 0.267, 0.244, 0.244, *[0.222] * 5, 0.2, 0.178, 0.156]
REST = [0.346, 0.298, 0.276, 0.222, 0.273, 0.27, 0.263, 0.21, 0.269, 0.23, 0.264, 0.226, 0.303, 0.264, 0.256, 0.285, 0.316, 0.2]


def squared_error(values: np.ndarray, truth: np.ndarray) -> float:
    return float(((values - truth) ** 2).sum())


def test_baseball_of_1970() -> None:
    first, rest = np.asarray(FIRST), np.asarray(REST)
    grand = first.mean()
    found = to_mean(first, grand * (1 - grand) / 45)
    assert grand == pytest.approx(0.2654, abs=5e-5)
    assert found.centre == grand
    assert found.factor == pytest.approx(0.212, abs=5e-4)
    assert squared_error(first, rest) == pytest.approx(0.0754, abs=5e-5)
    assert squared_error(found.values, rest) == pytest.approx(0.0213, abs=5e-5)
    assert squared_error(first, rest) / squared_error(found.values, rest) == pytest.approx(3.54, abs=5e-3)
    assert int((np.abs(found.values - rest) < np.abs(first - rest)).sum()) == 16


def test_baseball_on_the_arcsine_scale() -> None:
    # Variance 1 whatever the average is; 18 hits of 45 to 7.
    hits = np.asarray([18, 17, 16, 15, 14, 14, 13, 12, 11, 11, *[10] * 5, 9, 8, 7])
    first, rest = (math.sqrt(45) * np.arcsin(2 * p - 1) for p in (hits / 45, np.asarray(REST)))
    found = to_mean(first, 1.0)
    assert squared_error(first, rest) == pytest.approx(17.57, abs=5e-3)
    assert squared_error(found.values, rest) == pytest.approx(5.00, abs=5e-3)


def test_the_inline_numbers_are_the_papers() -> None:
    root = Path(os.environ.get("M3TL_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
    path = root / "baseball" / "efron-morris-1977-paper.csv"
    if not path.exists():
        pytest.skip("no shared data")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [float(r["avg45"]) for r in rows] == FIRST
    assert [float(r["remaining_avg"]) for r in rows] == REST


@pytest.mark.parametrize("k", [5, 20])
def test_risk_at_equal_means_is_3_variances_to_the_mean_and_2_to_the_point(k: int) -> None:
    rng = np.random.default_rng(0)
    draws = 1.7 + 0.5 * rng.standard_normal((20_000, k))
    truth = np.full(k, 1.7)
    to_grand = np.mean([squared_error(to_mean(y, 0.25, positive_part=False).values, truth) for y in draws]) / 0.25
    to_truth = np.mean([squared_error(to_point(y, 0.25, point=1.7, positive_part=False).values, truth) for y in draws]) / 0.25
    assert to_grand == pytest.approx(3.0, abs=0.12)
    assert to_truth == pytest.approx(2.0, abs=0.12)


def test_by_hand() -> None:
    # Distances -2, -1, 1, 2 to the mean 0: sum of squares 10; (4 - 3) 2 / 10 = .2, and to the point (4 - 2) 2 / 10 = .4.
    assert to_mean([-2.0, -1.0, 1.0, 2.0], 2.0).factor == pytest.approx(0.8)
    found = to_point([-2.0, -1.0, 1.0, 2.0], 2.0, point=0.0)
    assert found.factor == pytest.approx(0.6)
    assert found.values.tolist() == pytest.approx([-1.2, -0.6, 0.6, 1.2])
    # A variance from 8 degrees of freedom counts 8 / 10 of itself.
    assert to_point([-2.0, -1.0, 1.0, 2.0], 2.0, point=0.0, degrees=8).factor == pytest.approx(0.68)


def test_the_positive_part_never_turns_an_estimate_round() -> None:
    values = [0.1, 0.0, -0.1, 0.05]
    assert to_mean(values, 1.0, positive_part=False).factor < 0
    assert to_mean(values, 1.0).factor == 0.0
    assert to_mean(values, 1.0).values.tolist() == pytest.approx([0.0125] * 4)


def test_without_noise_nothing_moves_and_equal_estimates_stay() -> None:
    assert to_mean([1.0, 2.0, 3.0, 5.0], 0.0).values.tolist() == [1.0, 2.0, 3.0, 5.0]
    assert to_mean([2.0] * 5, 1.0).values.tolist() == [2.0] * 5


def test_too_few_values_are_refused() -> None:
    with pytest.raises(ConfigError, match="more than 3"):
        to_mean([1.0, 2.0, 3.0], 1.0)
    with pytest.raises(ConfigError, match="more than 2"):
        to_point([1.0, 2.0], 1.0, point=0.0)
    with pytest.raises(ConfigError, match="0 or more"):
        to_mean([1.0, 2.0, 3.0, 4.0], -1.0)
