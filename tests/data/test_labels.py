"""Labels against hand-computed views and against one another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from m3tl_cli.core.contracts import Task
from m3tl_cli.data import labels, sensors
from m3tl_cli.data.labels import CLEARANCE, VISIBLE_SHARE
from m3tl_cli.data.layouts import (
    BUILDING,
    GROUND,
    LANE_MARK,
    PERSON,
    ROAD,
    SKY,
    VEHICLE,
    Pose,
    Road,
    Scene,
    Solid,
    _camera_axes,
    draw_scene,
)
from m3tl_cli.data.raycast import NOTHING, PLANE, Hits, build_world, describe, first_hit
from m3tl_cli.data.render import pose_tensors, render
from m3tl_cli.task.depth import Depth
from tests.data._build import LEVEL, SIZES, box, scene


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


STREET = Road(4.0, 0.0, (0.0, 0.0), -1e3, 3.0, 0.0, True, (0.2, 0.2, 0.2), 0.1)  # x from -4 to 4


def cast(scenes: Sequence[Scene], size: int) -> Hits:
    """What the rays of a label's grid meet."""
    world = build_world(scenes)
    position, axes = pose_tensors([s.camera for s in scenes])
    direction = sensors.camera_rays(axes, torch.tensor([s.focal for s in scenes]), size)
    origin = position.T[..., None]
    return describe(world, origin, direction, *first_hit(world, world.exists, origin, direction))


def street(*solids: Solid) -> Scene:
    """Solids before a level camera 1.5 m above x = 2, the middle of the own carriageway."""
    return replace(scene(*solids), road=STREET, camera=Pose((2.0, 0.0, 1.5), LEVEL))


def ground_points() -> tuple[Tensor, Tensor]:
    """x and y of the ground under the 32 x 64 pixels below the horizon of `street`, from the pinhole by hand."""
    tangent = ((torch.arange(64, dtype=torch.float64) + 0.5) / 64 - 0.5) / 0.5
    y = (1.5 / tangent[32:])[:, None].expand(32, 64)
    return 2 + tangent * y, y


def test_the_outline_of_a_box_runs_inside_it_and_that_of_the_ground_below_the_horizon() -> None:
    """The cube covers rows and columns 28 to 35: 28 of its 64 pixels are outline. Sky meets ground between rows 31 and 32."""
    expected = torch.zeros(64, 64, dtype=torch.int8)
    expected[28:36, 28:36] = 1
    expected[29:35, 29:35] = 0
    expected[32, :28] = expected[32, 36:] = 1
    assert torch.equal(render([scene(box(0, 10, 1.5))], **SIZES)["target.edges"][0], expected)
    assert int(expected.sum()) == 28 + 56


def test_where_two_objects_meet_the_edge_belongs_to_the_nearer_and_parts_of_one_object_have_none() -> None:
    wall = Solid("box", (0, 30, 0), (100, 1, 100), BUILDING, 7, (0.5, 0.5, 0.5), 0.5)
    behind = render([scene(box(0, 10, 1.5), wall)], **SIZES)["target.edges"][0]
    assert int(behind[28:36, 28:36].sum()) == 28
    assert int(behind[:28].sum()) == 0
    one = render([scene(box(0, 10, 1.5, number=7), wall)], **SIZES)["target.edges"][0]
    assert int(one[28:34, 28:36].sum()) == 0  # from row 34 on the ground is beside it


def test_edges_agree_with_brute_force_on_drawn_scenes() -> None:
    size = 24
    scenes = [
        draw_scene(domain, number, 5)
        for domain in ("urban-clear-day", "suburban-fog-dusk", "rural-rain-day", "shapes")
        for number in (0, 1)
    ]
    hits = cast(scenes, size)
    found = labels.edges(hits, size).reshape(-1, size, size)
    for s in range(len(scenes)):
        seen = [
            ("sky",) if kind == NOTHING else ("ground",) if kind == PLANE else ("object", number)
            for kind, number in zip(hits.kind[s].tolist(), hits.object_id[s].tolist(), strict=True)
        ]
        metres = hits.distance[s].tolist()
        for row in range(size):
            for column in range(size):
                at = row * size + column
                expected = 0
                for r, c in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                    other = r * size + c
                    if 0 <= r < size and 0 <= c < size and seen[other] != seen[at]:
                        ranks = [("object", "ground", "sky").index(seen[i][0]) for i in (at, other)]
                        expected |= ranks[0] < ranks[1] or (ranks[0] == ranks[1] and metres[at] <= metres[other])
                assert found[s, row, column] == expected, (s, row, column)
    assert 0.02 < found.float().mean() < 0.4


def test_an_empty_street_is_drivable_in_its_right_half() -> None:
    x, _ = ground_points()
    found = render([street()], **SIZES)["target.drivable"][0]
    assert not found[:32].any()
    assert torch.equal(found[32:].bool(), (x > 0) & (x < 4))


def test_a_box_across_the_road_blocks_what_is_behind_it_though_it_is_seen() -> None:
    """A vehicle 0.6 m high, whose rear is at y = 9: over it the camera sees the road again from y = 11 * 1.5 / 0.9 on."""
    across = Solid("box", (0, 10, 0.3), (4.5, 1, 0.3), VEHICLE, 0, (0.5, 0.5, 0.5), 0.5)
    x, y = ground_points()
    out = render([street(across)], **SIZES)
    seen = (out["target.segmentation"][0][32:] == ROAD) | (out["target.segmentation"][0][32:] == LANE_MARK)
    own = (x > 0) & (x < 4)
    assert (seen & own & (y > 19)).sum() > 10
    assert torch.equal(out["target.drivable"][0][32:].bool(), own & (y < 9))
    house = render([street(replace(across, class_id=BUILDING))], **SIZES)["target.drivable"][0][32:].bool()
    assert torch.equal(house, own & seen)  # what is neither vehicle nor person only hides


@pytest.mark.parametrize("class_id", [VEHICLE, PERSON])
@pytest.mark.parametrize("turn", [0.0, 45.0])
def test_an_obstacle_blocks_a_car_s_breadth_to_its_sides_and_all_behind_it(class_id: int, turn: float) -> None:
    c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    solid = Solid("box", (3.4, 10, 0.2), (0.5, 0.5, 0.2), class_id, 0, (0.5, 0.5, 0.5), 0.5, axes=((c, -s, 0), (s, c, 0), (0, 0, 1)))
    reach = 0.5 * (c + s)
    x, y = ground_points()
    out = render([street(solid)], **SIZES)
    visible = out["target.segmentation"][0][32:] != class_id
    expected = (x > 0) & (x < 4) & visible & ~((x > 3.4 - reach - CLEARANCE) & (y > 10 - reach))
    assert torch.equal(out["target.drivable"][0][32:].bool(), expected)
    assert (expected & (y > 12)).any()


def test_what_stands_in_the_other_half_or_behind_the_camera_blocks_nothing() -> None:
    x, _ = ground_points()
    oncoming, behind = box(-3, 10, 0.2, half=0.2), box(2, -10, 1)
    for solid in (oncoming, behind):
        out = render([street(solid)], **SIZES)
        assert torch.equal(out["target.drivable"][0][32:].bool(), (x > 0) & (x < 4))


def test_drivable_is_road_on_drawn_scenes_and_nothing_where_there_is_none() -> None:
    scenes = [draw_scene(domain, number, 5) for domain in ("urban-clear-day", "suburban-fog-dusk", "rural-rain-day") for number in range(4)]
    out = render([*scenes, draw_scene("shapes", 0, 5)], **{**SIZES, "label_size": 32})
    found, classes = out["target.drivable"].bool(), out["target.segmentation"]
    road = (classes == ROAD) | (classes == LANE_MARK)
    assert not (found & ~road).any()
    assert 0.2 < found.sum() / road.sum() < 0.95
    assert not found[-1].any()


def test_height_of_a_box_and_of_the_ground() -> None:
    """The face at 9 m: row r looks (r + 0.5 - 32) / 32 * 9 m below the camera, which stands at 1.5 m."""
    out = render([scene(box(0, 10, 1.5))], **SIZES)
    found = out["target.height"][0]
    below = (torch.arange(28, 36) + 0.5 - 32) / 32 * 9
    assert found[28:36, 30].tolist() == pytest.approx((1.5 - below).tolist(), abs=1e-6)
    assert found[36:].unique().tolist() == [0]
    assert torch.equal(found.isnan(), out["target.segmentation"][0] == SKY)


def test_the_top_of_a_box_has_one_height() -> None:
    low = render([scene(box(0, 4, 0))], **SIZES)
    top = (low["target.normals"][0, 1] < -0.99) & (low["target.segmentation"][0] == VEHICLE)
    assert top.sum() > 10
    assert low["target.height"][0][top].tolist() == pytest.approx([1.0] * int(top.sum()), abs=1e-6)


def test_height_is_depth_projected_back_through_the_camera_s_pose() -> None:
    scenes = [
        draw_scene(domain, number, 6)
        for domain in ("urban-clear-day", "suburban-rain-dusk", "rural-fog-night", "shapes")
        for number in range(3)
    ]
    out = render(scenes, **{**SIZES, "label_size": 32})
    grid = (torch.arange(32, dtype=torch.float64) + 0.5) / 32 - 0.5
    for s, one in enumerate(scenes):
        (_, _, right), (_, _, down), (_, _, forward) = one.camera.axes
        upward = forward + grid[None, :] / one.focal * right + grid[:, None] / one.focal * down
        expected = one.camera.position[2] + out["target.depth"][s].double() * upward
        known = ~expected.isnan()
        torch.testing.assert_close(out["target.height"][s].double()[known], expected[known], atol=2e-5, rtol=1e-5)
        assert out["target.height"][s].nan_to_num().min() >= -1e-5


def test_heading_is_the_yaw_of_the_camera_whatever_its_pitch_and_roll() -> None:
    road = Road(4.0, 0.0, (0.0, 0.0), -1e3, 1.0, 0.0, False, (0.2, 0.2, 0.2), 0.1)
    scenes = []
    for yaw, pitch, roll in ((0, 0, 0), (20, 0, 0), (-7.5, -10, 3), (24, 5, -3)):
        axes = _camera_axes(math.radians(yaw), math.radians(pitch), math.radians(roll))
        scenes.append(replace(scene(), road=road, camera=Pose((0.0, 0.0, 1.5), axes)))
    assert labels.heading(scenes)[:, 0].tolist() == pytest.approx([0, 20, -7.5, 24], abs=1e-5)
    assert labels.heading([scene()]).isnan().all()  # without a road


def test_a_camera_turned_to_the_left_sees_the_road_s_end_on_its_right() -> None:
    """The vanishing point lies at a column of 1/2 + focal * tan(heading)."""
    left = _camera_axes(math.radians(20), 0.0, 0.0)
    turned = replace(street(), camera=Pose((0.0, 0.0, 1.5), left))
    out = render([turned], **SIZES)
    classes = out["target.segmentation"][0]
    columns = ((classes[33] == ROAD) | (classes[33] == LANE_MARK)).nonzero()[:, 0].float()  # just below the horizon
    expected = 64 * (0.5 + turned.focal * math.tan(math.radians(out["target.heading"].item())))
    assert columns.mean().item() + 0.5 == pytest.approx(expected, abs=2)
    assert expected > 40


def test_a_shared_output_cannot_learn_depth_and_inverse_depth_and_two_outputs_can() -> None:
    out = render([draw_scene("urban-clear-day", number, 6) for number in range(16)], **{**SIZES, "size": 32, "label_size": 16})
    image = out["input.rgb"].float() / 255
    everything = torch.ones(16, dtype=torch.bool)
    targets = {name: out[f"target.{name}"] for name in ("depth", "inverse_depth")}
    kinds = {}
    for name, target in targets.items():
        known = target[~target.isnan()].double()
        task = Task(name, "depth", num_outputs=1, dense=True, size=(16, 16), mean=(known.mean().item(),), std=(known.std().item(),))
        kinds[name] = Depth(task=task, loss="log_l1")

    def train(num_outputs: int) -> tuple[float, float]:
        """Cosine of the two gradients on the trunk, and the larger of the losses in shares of what it was at the start."""
        torch.manual_seed(0)
        trunk = nn.Sequential(nn.Conv2d(5, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
        heads = nn.Conv2d(16, num_outputs, 1)
        nn.init.zeros_(heads.weight)
        nn.init.zeros_(heads.bias)
        place = torch.stack(torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij"))
        x = torch.cat([image - 0.5, place.expand(16, 2, 32, 32)], dim=1)
        optimizer = torch.optim.Adam([*trunk.parameters(), *heads.parameters()], lr=1e-2)
        for step in range(60):
            y = heads(trunk(x)).expand(16, -1, 16, 16)
            losses = [kinds[name].loss(y[:, [i % num_outputs]], target, everything) for i, (name, target) in enumerate(targets.items())]
            if step == 0:
                start = [loss.item() for loss in losses]
            elif step == 50:
                rows = [torch.cat([g.flatten() for g in torch.autograd.grad(v, trunk.parameters(), retain_graph=True)]) for v in losses]
            optimizer.zero_grad()
            sum(losses).backward()  # type: ignore[union-attr]
            optimizer.step()
        share = max(loss.item() / first for loss, first in zip(losses, start, strict=True))
        return torch.cosine_similarity(rows[0], rows[1], dim=0).item(), share

    (planted, stuck), (own, learnt) = train(1), train(2)
    assert planted < -0.95
    assert stuck > 0.9
    assert own > planted + 0.5
    assert learnt < 0.7


def test_inverse_depth_is_depth_with_every_order_turned_round() -> None:
    """For the kind `depth` the two are mirror images: gradients at an output of 0 are opposite, and no output suits both."""
    out = render([draw_scene("urban-clear-day", number, 6) for number in range(8)], **{**SIZES, "label_size": 32})
    depth, inverse = out["target.depth"], out["target.inverse_depth"]
    assert torch.equal(inverse.nan_to_num(), (1 / depth).nan_to_num())
    assert torch.equal(inverse.isnan(), depth.isnan())
    logs = torch.stack([depth[~depth.isnan()], inverse[~depth.isnan()]]).double().log()
    torch.testing.assert_close(logs[1], -logs[0], atol=1e-6, rtol=1e-6)
    mu, sigma = logs[0].mean().item(), logs[0].std().item()

    def kind(name: str, middle: float) -> Depth:
        mean = math.exp(middle + sigma**2 / 2)  # of the log-normal distribution
        std = mean * math.sqrt(math.expm1(sigma**2))
        return Depth(task=Task(name, "depth", num_outputs=1, dense=True, size=(32, 32), mean=(mean,), std=(std,)), loss="log_mse")

    everything = torch.ones(8, dtype=torch.bool)
    output = torch.zeros(8, 1, 32, 32, dtype=torch.float64, requires_grad=True)
    pairs = ((kind("depth", mu), depth), (kind("inverse_depth", -mu), inverse))
    gradients = [torch.autograd.grad(k.loss(output, target.double(), everything), output)[0] for k, target in pairs]
    torch.testing.assert_close(gradients[1], -gradients[0], atol=1e-9, rtol=1e-5)
    assert gradients[0].norm() > 0
    perfect = ((depth.double().log() - mu) / sigma).nan_to_num()[:, None]
    losses = [k.loss(perfect, target.double(), everything).item() for k, target in pairs]
    assert losses == pytest.approx([0, 4], abs=1e-2)  # e = 2 z, and z has a variance of 1
