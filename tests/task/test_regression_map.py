from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch

from m3tl_cli.core.contracts import generator
from m3tl_cli.core.errors import ConfigError, DataError
from m3tl_cli.task.palette import UNLABELLED
from m3tl_cli.task.regression import Regression
from m3tl_cli.task.regression_map import RegressionMap
from tests.task.cases import HEIGHT, make

KIND = RegressionMap(task=HEIGHT, loss="l1", delta=1.0)  # mean 3 m, deviation 5 m


@pytest.mark.parametrize(("loss", "expected"), [("mse", (1 + 9) / 2), ("l1", (1 + 3) / 2), ("huber", (1 / 2 + 2 * (3 - 1)) / 2)])
def test_loss_by_hand(loss: Literal["mse", "l1", "huber"], expected: float) -> None:
    # Errors of 1 and -3 deviations; the third pixel has no label.
    output = torch.tensor([1.0, -2.0, 9.0], dtype=torch.float64).reshape(1, 1, 1, 3)
    target = torch.tensor([[[3.0, 8.0, float("nan")]]], dtype=torch.float64)
    kind = RegressionMap(task=HEIGHT, loss=loss, delta=1.0 if loss != "huber" else 2.0)
    assert kind.loss(output, target, torch.tensor([True])).item() == pytest.approx(expected, rel=1e-15)


def test_it_is_regression_of_every_pixel_by_itself() -> None:
    case = make("regression_map_huber", num_samples=20)
    pixel = Regression(task=HEIGHT, loss="huber", delta=0.7)
    each = case.labelled[:, None, None].expand_as(case.target).reshape(-1)
    loss = pixel.loss(case.output.reshape(-1, 1), case.target.reshape(-1, 1), each)
    assert case.kind.loss(case.output, case.target, case.labelled).item() == pytest.approx(loss.item(), rel=1e-14)
    torch.testing.assert_close(case.kind.decode(case.output).reshape(-1, 1), pixel.decode(case.output.reshape(-1, 1)))


def test_metrics_agree_with_numpy() -> None:
    case = make("regression_map_l1", num_samples=50)
    meter = case.kind.meter()
    meter.update(case.output, case.target, case.labelled)
    predicted, truth = (5 * case.output[:, 0] + 3)[case.labelled].numpy(), case.target[case.labelled].numpy()
    predicted, truth = predicted[np.isfinite(truth)], truth[np.isfinite(truth)]
    expected = {
        "mae": np.abs(predicted - truth).mean(),
        "rmse": np.sqrt(((predicted - truth) ** 2).mean()),
        "r_squared": 1 - ((predicted - truth) ** 2).sum() / ((truth - truth.mean()) ** 2).sum(),
    }
    assert meter.compute() == pytest.approx(expected, rel=1e-5)


def test_trivial_is_the_median_at_each_position_and_elsewhere_that_of_all_pixels() -> None:
    heights = 10 * torch.rand(101, generator=generator("heights"), dtype=torch.float64)
    target = torch.stack([torch.tensor([0.0, 0.0, 7.0]).repeat(34)[:101].double(), heights, torch.full_like(heights, float("nan"))], 1)
    found = KIND.decode(KIND.trivial(target.reshape(101, 1, 3), torch.ones(101, dtype=torch.bool))).flatten()
    costs = (heights[:, None] - heights[None]).abs().sum(0)
    assert found[0].item() == pytest.approx(0, abs=1e-12)
    assert found[1].item() == pytest.approx(heights[costs.argmin()].item())
    assert found[2].item() == pytest.approx(np.sort(target[:, :2].flatten().numpy())[100])


def test_trivial_is_found_for_more_pixels_than_a_quantile_can_take() -> None:
    target = torch.arange(3.0)[:, None, None].expand(3, 2400, 2400)  # torch.quantile refuses more than 2^24 numbers
    assert KIND.decode(KIND.trivial(target, torch.ones(3, dtype=torch.bool))).unique().tolist() == pytest.approx([1.0])


def test_drawing_spans_two_deviations_and_is_grey_without_label() -> None:
    picture = KIND.draw(torch.tensor([[-50.0, -7.0, 3.0, 13.0, 90.0, float("nan")]]))
    assert not isinstance(picture, str)
    assert picture[0, 0].tolist() == picture[0, 1].tolist() == [68, 1, 84]  # the dark end of viridis
    assert picture[0, 3].tolist() == picture[0, 4].tolist() == [253, 231, 37]
    assert picture[0, 1].sum() < picture[0, 2].sum() < picture[0, 3].sum()
    assert picture[0, 5].tolist() == list(UNLABELLED)


def test_outputs_and_statistics_must_be_one_and_there() -> None:
    with pytest.raises(ConfigError, match="must be 1; found 2"):
        RegressionMap(task=replace(HEIGHT, num_outputs=2, mean=(), std=()), loss="l1", delta=1.0)
    with pytest.raises(ConfigError, match="must be 1 numbers each; found 2 and 1"):
        RegressionMap(task=replace(HEIGHT, mean=(0.0, 1.0)), loss="l1", delta=1.0)
    early = RegressionMap(task=replace(HEIGHT, mean=(), std=()), loss="l1", delta=1.0)
    with pytest.raises(DataError, match="must be known"):
        early.decode(torch.zeros(1, 1, 1, 1))
