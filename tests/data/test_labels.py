"""Labels against hand-computed views and against one another."""

from __future__ import annotations

import math

import pytest
import torch

from m3tl_cli.data.labels import VISIBLE_SHARE
from m3tl_cli.data.layouts import BUILDING, GROUND, SKY, VEHICLE, draw_scene
from m3tl_cli.data.render import render
from tests.data._build import SIZES, box, scene


def test_a_box_is_seen_where_its_projection_is() -> None:
    """A cube of 2 m at 10 m before a camera of 90 degrees: its face at 9 m covers columns and rows 28 to 35 of 64."""
    out = render([scene(box(0, 10, 1.5))], **SIZES)
    classes = out["target.segmentation"][0]
    on = (classes == VEHICLE).nonzero()
    assert on.min().item() == 28
    assert on.max().item() == 35
    assert len(on) == 64
    assert out["target.depth"][0][28:36, 28:36].flatten().tolist() == pytest.approx([9.0] * 64)
    assert out["target.normals"][0][:, 30, 30].tolist() == pytest.approx([0, 0, -1])
    assert classes[:28].unique().tolist() == [SKY]
    assert classes[36:].unique().tolist() == [GROUND]
    assert out["target.vehicle_count"].tolist() == [1]
    half_pixel = 0.5 / 64 / 0.5
    assert out["target.vehicle_distance"].item() == pytest.approx(9 * math.sqrt(1 + 2 * half_pixel**2), rel=1e-5)


def test_depth_is_along_the_axis_and_not_along_the_ray() -> None:
    """A wall across the view has one depth; the ground's depth is height over the tangent below the horizon."""
    wall = render([scene(box(0, 60, 0, half=50, class_id=BUILDING))], **SIZES)["target.depth"][0]
    assert wall[:32].flatten().tolist() == pytest.approx([10.0] * (32 * 64), rel=1e-5)
    ground = render([scene()], **SIZES)
    below = (torch.arange(64) + 0.5) / 64 - 0.5
    assert ground["target.depth"][0][40, 7].item() == pytest.approx(1.5 / (below[40].item() / 0.5), rel=1e-5)
    assert ground["target.normals"][0][:, 40, 7].tolist() == pytest.approx([0, -1, 0])


def test_sky_and_far_things_have_no_depth_and_only_the_sky_has_no_normal() -> None:
    out = render([scene()], **{**SIZES, "max_depth": 20.0})
    depth, sky = out["target.depth"][0], out["target.segmentation"][0] == SKY
    assert torch.equal(out["target.normals"][0].isnan().all(0), sky)
    assert depth[sky].isnan().all()
    far = ~sky & depth.isnan()
    assert far[32].all()  # one row below the horizon: 1.5 m / .0156 = 96 m
    assert depth[~depth.isnan()].max() <= 20


def test_only_visible_vehicles_count() -> None:
    three = [box(x, 10, 1, number=i) for i, x in enumerate((-3, 0, 3))]
    hidden = box(0, 20, 1, number=3)
    tiny = box(6, 10, 3, half=0.25, number=4)
    house = box(-9, 10, 1, number=5, class_id=BUILDING)
    many = [scene(), scene(three[1], hidden), scene(*three[:2], tiny, house), scene(*three, hidden), scene(three[0], tiny, house)]
    out = render(many, **SIZES)
    assert out["target.vehicle_count"].tolist() == [0, 1, 2, 2, 1]
    distance = out["target.vehicle_distance"][:, 0]
    assert distance[0].isnan()
    assert distance[1:].tolist() == pytest.approx([9.0] * 4, rel=6e-2)


def test_counts_and_distances_agree_with_the_pixels_of_drawn_scenes() -> None:
    drawn = [draw_scene(domain, number, 2) for domain in ("urban-clear-day", "rural-fog-night", "shapes") for number in range(6)]
    out = render(drawn, **SIZES)
    near = torch.where(out["target.segmentation"] == VEHICLE, out["target.depth"].nan_to_num(1e9), torch.tensor(1e9)).flatten(1).amin(1)
    for s, one in enumerate(drawn):
        placed = {solid.object_id for solid in one.solids if solid.class_id == VEHICLE}
        assert out["target.vehicle_count"][s] <= len(placed)
        if out["target.vehicle_count"][s] > 0:
            assert out["target.vehicle_distance"][s] >= near[s] * 0.999  # along the ray is never shorter than along the axis
        else:
            assert (out["target.segmentation"][s] == VEHICLE).float().mean() < VISIBLE_SHARE * max(len(placed), 1)


@pytest.mark.parametrize("domain", ["urban-clear-day", "suburban-rain-night", "rural-fog-dusk", "shapes"])
def test_normals_are_those_of_the_depth_map(domain: str) -> None:
    """Back-project depth through the intrinsics, take cross products of neighbours, and compare where the surface is smooth."""
    size = 160
    out = render([draw_scene(domain, number, 4) for number in range(3)], **{**SIZES, "size": 8, "label_size": size})
    depth = out["target.depth"].double()
    focal = out["geometry.intrinsics"][:, 0, 0].double()
    grid = ((torch.arange(size, dtype=torch.float64) + 0.5) / size - 0.5)[None] / focal[:, None]
    points = torch.stack([grid[:, None, :] * depth, grid[:, :, None] * depth, depth], dim=1)
    across = points[:, :, 1:-1, 2:] - points[:, :, 1:-1, :-2]
    down = points[:, :, 2:, 1:-1] - points[:, :, :-2, 1:-1]
    found = torch.nn.functional.normalize(torch.linalg.cross(down, across, dim=1), dim=1)
    told = out["target.normals"].double()[:, :, 1:-1, 1:-1]
    around = torch.nn.functional.unfold(out["target.normals"].double(), 3).reshape(3, 3, 9, size - 2, size - 2)
    smooth = ((around * told[:, :, None]).sum(1).amin(1) > 0.995) & (depth[:, 1:-1, 1:-1] < 25)
    near = 1 / depth  # affine in the pixel on a plane, so that a jump to another surface shows as a bend
    bend = (near[:, 1:-1, 2:] + near[:, 1:-1, :-2] - 2 * near[:, 1:-1, 1:-1]).abs()
    bend = torch.maximum(bend, (near[:, 2:, 1:-1] + near[:, :-2, 1:-1] - 2 * near[:, 1:-1, 1:-1]).abs())
    smooth &= bend < 0.002 * near[:, 1:-1, 1:-1]
    assert smooth.float().mean() > 0.2
    degrees = torch.rad2deg(torch.acos((found * told).sum(1).clamp(-1, 1)))[smooth]
    assert degrees.median() < 0.05
    assert degrees.quantile(0.99) < 1
    assert (told.norm(dim=1)[smooth] - 1).abs().max() < 1e-5
