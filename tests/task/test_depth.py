from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch

from m3tl_cli.core.contracts import generator
from m3tl_cli.core.errors import ConfigError, DataError
from m3tl_cli.task.depth import Depth
from m3tl_cli.task.palette import UNLABELLED
from tests.task.cases import DEPTH, make

# With mean e^(1/2) and variance (e - 1) e the logarithm is standard normal: the output is ln d.
UNIT = replace(DEPTH, mean=(math.exp(0.5),), std=(math.sqrt((math.e - 1) * math.e),))
KIND = Depth(task=UNIT, loss="log_l1")


@pytest.mark.parametrize(
    ("loss", "expected"),
    [("log_l1", (1 + 3) / 2), ("log_mse", (1 + 9) / 2), ("l1", ((math.e - 1) + (math.e - math.exp(-2))) / 2 / UNIT.std[0])],
)
def test_loss_by_hand(loss: Literal["log_l1", "log_mse", "l1"], expected: float) -> None:
    output = torch.tensor([1.0, 1.0, 9.0], dtype=torch.float64).reshape(1, 1, 1, 3)
    target = torch.tensor([[[1.0, math.exp(-2), float("nan")]]], dtype=torch.float64)
    assert Depth(task=UNIT, loss=loss).loss(output, target, torch.tensor([True])).item() == pytest.approx(expected, rel=1e-12)


def test_outputs_of_log_normal_depth_are_standardised() -> None:
    depth = (0.4 * torch.randn(200_000, generator=generator("depth"), dtype=torch.float64) + 2.5).exp()
    kind = Depth(task=replace(DEPTH, mean=(depth.mean().item(),), std=(depth.std().item(),)), loss="log_mse")
    target = depth.reshape(-1, 1, 1)
    loss = kind.loss(torch.zeros(len(depth), 1, 1, 1, dtype=torch.float64), target, torch.ones(len(depth), dtype=torch.bool))
    assert loss.item() == pytest.approx(1, abs=0.02)
    assert kind.decode(torch.zeros(1, 1, 1, 1)).item() == pytest.approx(math.exp(2.5), rel=0.01)


def test_decoded_depth_is_positive_and_finite_at_any_output() -> None:
    decoded = KIND.decode(torch.tensor([-1e30, 0.0, 1e30]).reshape(1, 1, 1, 3))
    assert decoded.shape == (1, 1, 3)
    assert decoded.flatten().tolist() == pytest.approx([math.exp(-6), 1, math.exp(6)])


def test_metrics_agree_with_numpy() -> None:
    case = make("depth_log_l1", num_samples=50)
    meter = case.kind.meter()
    meter.update(case.output, case.target, case.labelled)
    sigma = math.sqrt(math.log(1 + (18 / 20) ** 2))
    predicted = np.exp(case.output[:, 0].numpy() * sigma + math.log(20) - sigma**2 / 2)[case.labelled]
    truth = case.target[case.labelled].numpy()
    with np.errstate(invalid="ignore"):
        known = np.isfinite(truth) & (truth > 0)
    predicted, truth = predicted[known], truth[known]
    expected = {
        "abs_rel": np.mean(np.abs(predicted - truth) / truth),
        "rmse": np.sqrt(np.mean((predicted - truth) ** 2)),
        "mae": np.mean(np.abs(predicted - truth)),
        "delta_1": np.mean((predicted < 1.25 * truth) & (truth < 1.25 * predicted)),
    }
    assert meter.compute() == pytest.approx(expected, rel=1e-5)


def test_trivial_is_the_weighted_median_at_each_position() -> None:
    # Weights 1, 1/2, 1/4: the smallest holds more than half, so c = 1 although the median is 2. Second: brute force.
    random = generator("trivial")
    depths = torch.rand(101, generator=random, dtype=torch.float64) * 98 + 2
    target = torch.stack([torch.tensor([1.0, 2.0, 4.0, float("nan")]).repeat(26)[:101].double(), depths], 1).reshape(101, 1, 2)
    found = KIND.decode(KIND.trivial(target, torch.ones(101, dtype=torch.bool))).flatten()
    costs = ((depths[:, None] - depths[None]).abs() / depths[:, None]).sum(0)
    assert found[0].item() == pytest.approx(1)
    assert found[1].item() == pytest.approx(depths[costs.argmin()].item())


def test_trivial_of_a_position_without_labels_is_that_of_all_pixels() -> None:
    target = torch.tensor([[[2.0, float("nan")]], [[2.0, float("nan")]], [[10.0, float("nan")]]])
    torch.testing.assert_close(KIND.decode(KIND.trivial(target, torch.ones(3, dtype=torch.bool))), torch.tensor([[[2.0, 2.0]]]))


def test_drawing_is_bright_near_dark_far_and_grey_without_label() -> None:
    picture = KIND.draw(torch.tensor([[0.01, 1.0, 5.0, 1000.0, float("nan"), -1.0]]))
    assert not isinstance(picture, str)
    brightness = picture[0, :4].sum(1).tolist()
    assert brightness == sorted(brightness, reverse=True)
    assert picture[0, 0].tolist() == [253, 231, 37]  # the bright end of viridis
    assert picture[0, 3].tolist() == [68, 1, 84]  # its dark end
    assert picture[0, 4].tolist() == picture[0, 5].tolist() == list(UNLABELLED)


def test_statistics_must_be_possible_and_there() -> None:
    with pytest.raises(ConfigError, match="one number above 0"):
        Depth(task=replace(DEPTH, mean=(-2.0,)), loss="log_l1")
    with pytest.raises(ConfigError, match="must be 1; found 2"):
        Depth(task=replace(DEPTH, num_outputs=2), loss="log_l1")
    early = Depth(task=replace(DEPTH, mean=(), std=()), loss="log_l1")
    with pytest.raises(DataError, match="must be known"):
        early.decode(torch.zeros(1, 1, 1, 1))
