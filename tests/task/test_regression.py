from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch

from m3tl_cli.core.errors import ConfigError, DataError
from m3tl_cli.task.regression import Regression
from tests.task.cases import DISTANCE, make

ONE = replace(DISTANCE, num_outputs=1, mean=(20.0,), std=(8.0,))
ALL = torch.ones(2, dtype=torch.bool)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [("mse", (0.25 + 9) / 2), ("l1", (0.5 + 3) / 2), ("huber", (0.125 + 2 * (3 - 1)) / 2)],
)
def test_loss_by_hand(loss: Literal["mse", "l1", "huber"], expected: float) -> None:
    # Targets 24 and 12 are .5 and -1 standard deviations from the mean; errors .5 and 3, delta 2.
    kind = Regression(task=ONE, loss=loss, delta=2.0)
    output = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    assert kind.loss(output, torch.tensor([[24.0], [12.0]], dtype=torch.float64), ALL).item() == expected


def test_metrics_agree_with_numpy_in_the_unit_of_the_target() -> None:
    case = make("regression_huber", num_samples=50)
    meter = case.kind.meter()
    meter.update(case.output, case.target, case.labelled)
    predicted = (case.output * torch.tensor(DISTANCE.std) + torch.tensor(DISTANCE.mean))[case.labelled].numpy()
    truth = case.target[case.labelled].numpy()
    error = predicted - truth
    explained = 1 - np.nansum(error**2, 0) / np.nansum((truth - np.nanmean(truth, 0)) ** 2, 0)
    expected = {"mae": np.nanmean(np.abs(error)), "rmse": np.sqrt(np.nanmean(error**2)), "r_squared": explained.mean()}
    assert meter.compute() == pytest.approx(expected, rel=1e-6)
    assert case.kind.metrics["mae"].unit == "m"


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_r_squared_does_not_depend_on_the_unit(scale: float) -> None:
    # In float32 sums of squares of 1e6 + x lose x, and torchmetrics calls sums below 1e-4 constant.
    x = torch.tensor([[-1.0], [0.0], [1.0], [2.0]])
    kind = Regression(task=replace(ONE, mean=(100 * scale,), std=(scale,)), loss="mse", delta=1.0)
    meter = kind.meter()
    meter.update(x * 0.5, x * scale + 100 * scale, torch.ones(4, dtype=torch.bool))
    assert meter.compute()["r_squared"] == pytest.approx(1 - 0.25 * 6 / 5, rel=1e-3)


def test_r_squared_of_one_sample_is_unknown() -> None:
    meter = Regression(task=ONE, loss="mse", delta=1.0).meter()
    meter.update(torch.zeros(1, 1), torch.tensor([[21.0]]), ALL[:1])
    assert math.isnan(meter.compute()["r_squared"])
    assert meter.compute()["mae"] == 1.0


def test_trivial_is_the_median_of_each_output() -> None:
    kind = Regression(task=DISTANCE, loss="mse", delta=1.0)
    target = torch.tensor([[0.0, 1.0], [4.0, float("nan")], [100.0, 3.0], [7.0, 9.0]])
    found = kind.decode(kind.trivial(target, torch.tensor([True, True, True, False])))
    torch.testing.assert_close(found, torch.tensor([[4.0, 2.0]]))


def test_decoding_undoes_standardising() -> None:
    torch.testing.assert_close(Regression(task=DISTANCE, loss="mse", delta=1.0).decode(torch.ones(1, 2)), torch.tensor([[28.0, -2.5]]))


def test_values_are_shown_with_their_unit_to_a_hundredth_of_a_deviation() -> None:
    kind = Regression(task=DISTANCE, loss="mse", delta=1.0)
    assert kind.draw(torch.tensor([14.2345, -3.0])) == "14.23 m, -3.000 m"
    assert Regression(task=replace(ONE, std=(40.0,)), loss="mse", delta=1.0).draw(torch.tensor([14.2345])) == "14.2 m"
    assert Regression(task=replace(ONE, unit=""), loss="mse", delta=1.0).draw(torch.tensor([float("nan")])) == "no label"


def test_statistics_must_fit_and_be_there() -> None:
    with pytest.raises(ConfigError, match="must be 2 numbers each; found 1 and 1"):
        Regression(task=replace(DISTANCE, mean=(1.0,), std=(1.0,)), loss="mse", delta=1.0)
    early = Regression(task=replace(DISTANCE, mean=(), std=()), loss="mse", delta=1.0)
    with pytest.raises(DataError, match="must be known"):
        early.loss(torch.zeros(2, 2), torch.zeros(2, 2), ALL)


@pytest.mark.parametrize(
    ("values", "own", "mean", "std"),
    [
        ([[1.0], [5.0]], True, 3.0, 2.0),
        ([[7.0]], True, 7.0, 8.0),  # one value: the task's own deviation
        ([[0.1], [0.1], [0.1]], True, 0.1, 8.0),  # no spread
        ([[-7.0]], False, -7.0, 7.0),  # none of its own: the magnitude
        ([[0.0], [0.0]], False, 0.0, 1.0),
        ([[1e8], [1e8 + 8]], False, 1e8 + 4, 1e8 + 4),  # float32 cannot tell them apart
        ([[float("nan")]], True, 20.0, 8.0),  # nothing known: the task's own
        ([[float("nan")]], False, 0.0, 1.0),
    ],
)
def test_statistics_are_never_zero_nor_nan(values: list[list[float]], own: bool, mean: float, std: float) -> None:
    kind = Regression(task=ONE if own else replace(ONE, mean=(), std=()), loss="mse", delta=1.0)
    found = kind.standardised(torch.tensor(values), torch.ones(len(values), dtype=torch.bool))
    assert found.mean == pytest.approx((mean,))
    assert found.std == pytest.approx((std,))


def test_each_output_has_statistics_of_its_own_known_numbers() -> None:
    target = torch.tensor([[1.0, 10.0], [3.0, float("nan")], [100.0, 100.0]])
    found = Regression(task=DISTANCE, loss="mse", delta=1.0).standardised(target, torch.tensor([True, True, False]))
    assert (found.mean, found.std) == ((2.0, 10.0), (1.0, 0.5))
