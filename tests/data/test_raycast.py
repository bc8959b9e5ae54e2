"""The ray-caster against hand-made cases and against a march along the ray that knows only what is inside a solid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from m3tl_cli.data.layouts import GROUND, LANE_MARK, PAVEMENT, ROAD, SKY, Road, Solid, draw_scene
from m3tl_cli.data.raycast import NOTHING, PLANE, build_world, describe, first_hit, ground_class, in_view
from m3tl_cli.data.render import pose_tensors
from m3tl_cli.data.sensors import camera_rays
from tests.data._build import LEVEL, NO_ROAD, box, inside, scene


def _cast(solids: list[Solid], origin: tuple[float, float, float], direction: tuple[float, float, float]):  # type: ignore[no-untyped-def]
    world = build_world([scene(*solids)])
    o, d = torch.tensor(origin)[:, None, None], torch.tensor(direction)[:, None, None]
    distance, slot = first_hit(world, world.exists, o, d)
    return describe(world, o, d, distance, slot)


TURNED = Solid("box", (0, 10, 1.5), (1, 1, 1), 5, 0, (1, 1, 1), 0.5, axes=((0.5**0.5, -(0.5**0.5), 0), (0.5**0.5, 0.5**0.5, 0), (0, 0, 1)))


@pytest.mark.parametrize(
    ("solid", "distance", "normal"),
    [
        (box(0, 10, 1.5), 9.0, (0, -1, 0)),
        (replace(TURNED, centre=(0.5, 10, 1.5)), 10 - 2**0.5 + 0.5, (-(0.5**0.5), -(0.5**0.5), 0)),
        (Solid("ellipsoid", (0, 10, 1.5), (1, 2, 3), 5, 0, (1, 1, 1), 0.5), 8.0, (0, -1, 0)),
        (Solid("cylinder", (0, 10, 1.5), (2, 2, 1), 5, 0, (1, 1, 1), 0.5), 8.0, (0, -1, 0)),
        (Solid("cylinder", (0.6, 10, 1.5), (1, 1, 1), 5, 0, (1, 1, 1), 0.5), 10 - 0.8, (-0.6, -0.8, 0)),
    ],
)
def test_a_ray_meets_a_solid_where_geometry_says(solid: Solid, distance: float, normal: tuple[float, float, float]) -> None:
    hits = _cast([solid], (0, 0, 1.5), (0, 1, 0))
    assert hits.distance.item() == pytest.approx(distance, abs=1e-5)
    assert hits.normal.flatten().tolist() == pytest.approx(normal, abs=1e-5)
    assert hits.position.flatten().tolist() == pytest.approx((0, distance, 1.5), abs=1e-5)
    assert hits.object_id.item() == 0


def test_a_cylinder_has_a_lid() -> None:
    hits = _cast([Solid("cylinder", (0, 10, 1), (2, 2, 1), 5, 0, (1, 1, 1), 0.5)], (0, 10, 5), (0, 0, -1))
    assert hits.distance.item() == pytest.approx(3)
    assert hits.normal.flatten().tolist() == [0, 0, 1]


def test_the_nearer_solid_hides_the_other_whatever_their_order() -> None:
    near, far = box(0, 5, 1.5, number=0), box(0, 10, 1.5, number=1)
    for solids in ([near, far], [far, near]):
        assert _cast(solids, (0, 0, 1.5), (0, 1, 0)).object_id.item() == 0


def test_distance_is_in_units_of_the_direction() -> None:
    assert _cast([box(0, 10, 1.5)], (0, 0, 1.5), (0, 2, 0)).distance.item() == pytest.approx(4.5)


def test_down_is_the_ground_and_up_is_nothing() -> None:
    down, up = _cast([], (0, 0, 1.5), (0, 1, -0.5)), _cast([], (0, 0, 1.5), (0, 1, 0.5))
    assert (down.distance.item(), down.class_id.item(), down.kind.item()) == (3.0, GROUND, PLANE)
    assert down.normal.flatten().tolist() == [0, 0, 1]
    assert (up.distance.item(), up.class_id.item(), up.kind.item()) == (float("inf"), SKY, NOTHING)
    assert up.normal.isnan().all()


def test_what_is_behind_is_not_met() -> None:
    assert _cast([box(0, -10, 1.5)], (0, 0, 1.5), (0, 1, 0)).kind.item() == NOTHING


@pytest.mark.parametrize("domain", ["urban-clear-day", "suburban-clear-day", "rural-clear-day", "shapes"])
def test_marching_along_the_ray_finds_the_same_surface(domain: str) -> None:
    drawn = [draw_scene(domain, number, 5) for number in range(3)]
    world = build_world(drawn)
    position, axes = pose_tensors([s.camera for s in drawn])
    direction = camera_rays(axes, torch.tensor([s.focal for s in drawn]), 11)
    origin = position.T[..., None]
    distance, slot = first_hit(world, world.exists, origin, direction)
    hits = describe(world, origin, direction, distance, slot)
    met = 0
    for s, one in enumerate(drawn):
        start = np.array(one.camera.position)
        rays = direction[:, s].double().numpy().T
        t = distance[s].double().numpy()
        stop = np.minimum(t, 60.0)
        # No solid holds a point before the hit ...
        shares = np.linspace(0, 1, 1500)[None, :] * (stop[:, None] - 2e-3)
        points = start + rays[:, None] * shares[..., None]
        for solid in one.solids:
            assert not inside(solid, points).any()
        assert (points[..., 2] > 0).all()
        # ... and just behind it lies the solid that is claimed.
        for r in np.flatnonzero(np.isfinite(t) & (t < 60)):
            behind = start + rays[r] * (t[r] + 2e-3)
            if hits.kind[s, r] == PLANE:
                assert behind[2] < 0
                continue
            claimed = [x for x in one.solids if x.object_id == hits.object_id[s, r] and x.class_id == hits.class_id[s, r]]
            slow = abs(float((hits.normal[:, s, r].double().numpy() * rays[r]).sum())) < 0.05  # a grazing ray is out again at once
            assert slow or any(inside(x, behind) for x in claimed)
            met += 1
    assert met > 20


def test_leaving_out_what_is_not_in_view_changes_nothing() -> None:
    drawn = [draw_scene(domain, number, 9) for domain in ("urban-fog-day", "rural-rain-night", "shapes") for number in range(4)]
    world = build_world(drawn)
    position, axes = pose_tensors([s.camera for s in drawn])
    focal = torch.tensor([s.focal for s in drawn])
    direction = camera_rays(axes, focal, 24)
    seen = in_view(world, position, axes, 0.5 / focal)
    assert seen.sum() < 0.9 * world.exists.sum()
    some, every = (first_hit(world, candidates, position.T[..., None], direction) for candidates in (seen, world.exists))
    assert torch.equal(some[0], every[0])
    assert torch.equal(some[1], every[1])


def test_the_ground_is_painted_as_the_road_says() -> None:
    road = Road(4.0, 2.0, (20.0, 28.0), 10.0, 3.0, 0.0, True, (0, 0, 0), 0.1)
    world = build_world([replace(scene(), road=road), scene()])
    points = {
        (2.0, 1.0): ROAD,
        (0.0, 1.0): LANE_MARK,  # a dash of the centre line: y in [0, 3)
        (0.0, 4.0): ROAD,  # the gap after it
        (3.7, 4.0): LANE_MARK,  # the edge line
        (5.0, 4.0): PAVEMENT,
        (-5.9, 4.0): PAVEMENT,
        (6.1, 4.0): GROUND,
        (0.3, 11.0): LANE_MARK,  # a bar of the zebra crossing
        (0.9, 11.0): ROAD,  # between its bars
        (0.0, 24.0): ROAD,  # no marks on the junction
        (30.0, 24.0): ROAD,
        (30.0, 29.0): PAVEMENT,
        (30.0, 31.0): GROUND,
    }
    x, y = (torch.tensor([[p[i] for p in points]] * 2) for i in range(2))
    painted = ground_class(world.road, x, y, torch.full(x.shape, GROUND))
    assert painted[0].tolist() == list(points.values())
    assert painted[1].tolist() == [GROUND] * len(points)
    assert NO_ROAD.half_width < 0
    assert LEVEL[2] == (0.0, 1.0, 0.0)
