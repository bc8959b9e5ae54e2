"""The LiDAR against the camera, through the calibration."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from m3tl_cli.data.layouts import draw_scene
from m3tl_cli.data.render import render
from m3tl_cli.data.sensors import LONGEST, attenuation, camera_rays, lidar_rays
from tests.data._build import LEVEL, SIZES, box, scene


def test_rays_of_the_camera_pass_through_pixel_centres() -> None:
    rays = camera_rays(torch.tensor([LEVEL]), torch.tensor([0.5]), 2)[:, 0]
    assert rays.T.tolist() == [[-0.5, 1, 0.5], [0.5, 1, 0.5], [-0.5, 1, -0.5], [0.5, 1, -0.5]]


def test_rays_of_the_lidar_are_unit_vectors_beam_by_beam() -> None:
    rays = lidar_rays(4, 16)
    assert rays.shape == (64, 3)
    assert rays.norm(dim=1).tolist() == pytest.approx([1.0] * 64)
    assert rays[:16, 2].unique().numel() == 1
    assert rays[0, 2] < rays[16, 2] < rays[32, 2] < rays[48, 2]


def test_attenuation_follows_beer_s_law() -> None:
    x = torch.linspace(0, 3, 100)
    assert attenuation(torch.tensor(1.0), x)[0] == 1
    assert (attenuation(torch.tensor(1.0), x) - torch.exp(-x)).abs().max() < 0.04


def test_a_wall_is_measured_within_the_noise() -> None:
    """A wall at x = 10 m before a LiDAR at the camera's place: every return has x = 10 within the limits of the range noise."""
    points = render([replace(scene(box(0, 60, 0, half=50)), seed=i) for i in range(20)], **SIZES)["input.lidar"]
    points = points[points[..., 4] > 0]
    upward = points[points[:, 2] > -1]
    assert len(upward) > 400
    along = upward[:, :3] / upward[:, :3].norm(dim=1, keepdim=True)
    error = upward[:, :3].norm(dim=1) - 10 / along[:, 0]
    assert error.abs().max() <= LONGEST
    assert error.std().item() == pytest.approx(0.03, rel=0.15)
    assert abs(error.mean().item()) < 0.006
    assert upward[:, 3].mean().item() == pytest.approx(0.5, abs=0.1)  # the wall's reflectivity times the cosine


@pytest.mark.parametrize("domain", ["urban-clear-day", "suburban-fog-night", "rural-rain-dusk", "shapes"])
def test_points_fall_on_the_rendered_depth(domain: str) -> None:
    out = render([draw_scene(domain, number, 6) for number in range(12)], **SIZES)

    def share(extrinsics: torch.Tensor) -> float:
        points = out["input.lidar"]
        camera = points[..., :3] @ extrinsics[:, :, :3].transpose(1, 2) + extrinsics[:, None, :, 3]
        plane = camera @ out["geometry.intrinsics"].transpose(1, 2)
        place = plane[..., :2] / plane[..., 2:] * 64
        good = (points[..., 4] > 0) & (plane[..., 2] > 0) & (place > 1).all(-1) & (place < 63).all(-1)
        on = []
        for s, n in good.nonzero().tolist():
            u, v = place[s, n].long().tolist()
            around = out["target.depth"][s, v - 1 : v + 2, u - 1 : u + 2].nan_to_num(1e3)
            on.append(float(around.min() - LONGEST <= camera[s, n, 2] <= around.max() + LONGEST))
        assert len(on) > 50
        return sum(on) / len(on)

    right = share(out["geometry.lidar.extrinsics"])
    assert right > 0.93  # the rest sees past an edge, from another place than the camera
    level = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]]).expand(12, 3, 4)
    assert share(level) < right - 0.1  # without the mount's calibration they do not


def test_extrinsics_are_rotations_that_differ_from_scene_to_scene() -> None:
    extrinsics = render([draw_scene("urban-clear-day", n, 0) for n in range(4)], **{**SIZES, "size": 8, "label_size": 8})
    rotation = extrinsics["geometry.lidar.extrinsics"][:, :, :3]
    assert torch.allclose(rotation @ rotation.transpose(1, 2), torch.eye(3).expand(4, 3, 3), atol=1e-5)
    assert torch.linalg.det(rotation).tolist() == pytest.approx([1.0] * 4, abs=1e-5)
    assert extrinsics["geometry.lidar.extrinsics"].unique(dim=0).shape[0] == 4


def test_rays_without_a_return_are_zeros_and_bad_weather_has_more_of_them() -> None:
    def returned(weather: str) -> float:
        points = render([draw_scene(f"urban-{weather}-day", n, 3) for n in range(16)], **{**SIZES, "size": 8, "label_size": 8})[
            "input.lidar"
        ]
        assert not points[points[..., 4] == 0].any()
        assert points[..., 4].unique().tolist() == [0, 1]
        assert 0 <= points[..., 3].min() <= points[..., 3].max() <= 1
        return points[..., 4].mean().item()

    assert returned("clear") > returned("rain") > returned("fog") > 0.4


def test_the_range_noise_is_bounded_by_its_own_density() -> None:
    assert 0.03 * math.sqrt(6) <= LONGEST
