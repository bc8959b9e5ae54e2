from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from m3tl_cli.core.errors import ConfigError
from m3tl_cli.task.normals import Normals
from m3tl_cli.task.palette import UNLABELLED
from tests.task.cases import NORMALS, make

KIND = Normals(task=NORMALS)


def pixels(*vectors: tuple[float, float, float]) -> Tensor:
    return torch.tensor(vectors, dtype=torch.float64).T.reshape(1, 3, 1, -1)


def tilted(*degrees: float) -> Tensor:
    """Normals that lean from up towards the right."""
    return pixels(*((math.sin(math.radians(d)), -math.cos(math.radians(d)), 0.0) for d in degrees))


def test_an_output_of_zero_is_up_and_has_a_gradient() -> None:
    output = torch.zeros(1, 3, 1, 1, requires_grad=True)
    torch.testing.assert_close(KIND.decode(output).flatten(), torch.tensor([0.0, -1.0, 0.0]))
    loss = KIND.loss(output, tilted(60).float(), torch.tensor([True]))
    (found,) = torch.autograd.grad(loss, output)
    assert loss.item() == pytest.approx(0.5)
    assert found.flatten().tolist() == pytest.approx([-math.sin(math.radians(60)), 0, 0], abs=1e-6)


def test_loss_by_hand_leaves_out_pixels_without_label() -> None:
    # Angles 0, 90 and 180 degrees: 0, 1 and 2; the length of a target does not matter; NaN and zeros are no label.
    target = pixels((0, -1, 0), (0.5, 0, 0), (0, 1, 0), (math.nan, 0, 0), (0, 0, 0))
    output = torch.zeros_like(target)
    output[..., 3:] = 7.0
    assert KIND.loss(output, target, torch.tensor([True])).item() == pytest.approx(1, abs=1e-11)


def test_metrics_agree_with_numpy() -> None:
    case = make("normals", num_samples=50)
    meter = case.kind.meter()
    meter.update(case.output, case.target, case.labelled)
    raw = (case.output + torch.tensor([0.0, -1.0, 0.0]).reshape(3, 1, 1))[case.labelled].movedim(1, -1).numpy()
    truth = case.target[case.labelled].movedim(1, -1).numpy()
    known = (truth**2).sum(-1) > 0
    cosine = ((raw * truth).sum(-1) / np.linalg.norm(raw, axis=-1))[known]
    angle = np.degrees(np.arccos(cosine))
    expected = {"mean_angle": angle.mean(), "median_angle": np.median(angle)}
    expected |= {"within_11": np.mean(angle < 11.25), "within_22": np.mean(angle < 22.5), "within_30": np.mean(angle < 30)}
    found = meter.compute()
    assert found.pop("median_angle") == pytest.approx(expected.pop("median_angle"), abs=0.005 + 1e-9)
    assert found == pytest.approx(expected, rel=1e-6)


def test_small_angles_are_measured_in_float32() -> None:
    # acos of a float32 cosine gives 0 or .0198 here.
    meter = KIND.meter()
    meter.update(torch.zeros(1, 3, 1, 1), tilted(0.012).float(), torch.tensor([True]))
    assert meter.compute()["mean_angle"] == pytest.approx(0.012, rel=1e-4)


def test_median_of_an_even_number_is_the_middle_of_two_and_the_extremes_have_bins() -> None:
    meter = KIND.meter()
    target = tilted(0, 10, 20, 180)
    meter.update(torch.zeros_like(target), target, torch.tensor([True]))
    assert meter.compute() == pytest.approx(
        {"mean_angle": 52.5, "median_angle": 15, "within_11": 0.5, "within_22": 0.75, "within_30": 0.75}
    )


def test_the_thresholds_are_strict() -> None:
    meter = KIND.meter()
    target = tilted(11.24, 11.26, 22.49, 22.51, 29.99, 30.01)
    meter.update(torch.zeros_like(target), target, torch.tensor([True]))
    found = meter.compute()
    assert [found[name] for name in ("within_11", "within_22", "within_30")] == pytest.approx([1 / 6, 3 / 6, 5 / 6])


def test_a_meter_keeps_no_more_however_much_it_sees() -> None:
    meter = KIND.meter()
    for _ in range(3):
        meter.update(
            torch.zeros(8, 3, 4, 4), tilted(*range(16)).float().reshape(1, 3, 4, 4).repeat(8, 1, 1, 1), torch.ones(8, dtype=torch.bool)
        )
    kept = [v for v in vars(meter).values() if isinstance(v, Tensor)]
    assert sum(v.numel() for v in kept) <= 18_002


def test_trivial_is_the_direction_of_the_least_mean_angle() -> None:
    # Three of five look up, two to the right: up (36 degrees on average) beats the normalised mean (about 43).
    target = torch.cat([tilted(0), tilted(0), tilted(0), tilted(90), tilted(90)])
    found = KIND.decode(KIND.trivial(target, torch.ones(5, dtype=torch.bool)))
    torch.testing.assert_close(found, tilted(0), atol=1e-2, rtol=0)
    meter = KIND.meter()
    meter.update(KIND.trivial(target, torch.ones(5, dtype=torch.bool)), target, torch.ones(5, dtype=torch.bool))
    assert meter.compute()["mean_angle"] == pytest.approx(36, abs=0.05)


def test_trivial_along_an_arc_is_the_median_angle() -> None:
    target = torch.cat([tilted(d) for d in (0, 5, 20, 60, 80)])
    found = KIND.decode(KIND.trivial(target, torch.ones(5, dtype=torch.bool)))
    torch.testing.assert_close(found, tilted(20), atol=2e-3, rtol=0)


def test_trivial_of_a_position_without_labels_is_that_of_all_pixels() -> None:
    target = torch.cat([tilted(30, 0), tilted(30, 0)])
    target[..., 1] = math.nan
    found = KIND.decode(KIND.trivial(target, torch.ones(2, dtype=torch.bool)))
    torch.testing.assert_close(found, tilted(30, 30), atol=1e-5, rtol=0)


def test_drawing_is_half_of_one_plus_the_normal() -> None:
    picture = KIND.draw(pixels((0, -1, 0), (1, 0, 0), (0, 0, -1), (math.nan, math.nan, math.nan))[0])
    assert not isinstance(picture, str)
    assert picture[0].tolist() == [[128, 0, 128], [255, 128, 128], [128, 128, 0], list(UNLABELLED)]


def test_a_normal_has_three_numbers() -> None:
    with pytest.raises(ConfigError, match="must be 3; found 2"):
        Normals(task=replace(NORMALS, num_outputs=2))


def test_the_prior_has_the_mean_direction() -> None:
    target = torch.cat([tilted(0), tilted(0), tilted(90)])
    prior = KIND.prior(target, torch.ones(3, dtype=torch.bool))
    found = KIND.decode(prior.reshape(1, 3, 1, 1))
    torch.testing.assert_close(found, tilted(math.degrees(math.atan2(1, 2))), atol=1e-9, rtol=0)


def test_the_ideal_output_of_up_is_zero() -> None:
    ideal, known = KIND.ideal_output(torch.cat([tilted(0), pixels((0, 0, 0))]), torch.ones(2, dtype=torch.bool))
    assert ideal.abs().max() < 1e-12
    assert known.all(1).flatten().tolist() == [True, False]
