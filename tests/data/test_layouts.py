"""What stands where."""

from __future__ import annotations

from statistics import mean

import numpy as np
import pytest

from m3tl_cli.data.layouts import BUILDING, DOMAINS, LEVEL, PAVEMENT, ROAD, STREETS, TREE, VEHICLE, Scene, draw_scene
from m3tl_cli.data.render import render
from tests.data._build import inside


def _scenes(layout: str, count: int = 30) -> list[Scene]:
    return [draw_scene(f"{layout}-clear-day", n, 0) for n in range(count)]


def test_there_are_27_street_domains_and_one_of_shapes() -> None:
    assert len(set(STREETS)) == 27
    assert DOMAINS[0] == "urban-clear-day"
    assert DOMAINS[-1] == "shapes"


def test_layouts_differ_in_height_width_density_and_trees() -> None:
    urban, suburban, rural = (_scenes(name) for name in ("urban", "suburban", "rural"))

    def number(scenes: list[Scene], class_id: int) -> float:
        return mean(len({x.object_id for x in s.solids if x.class_id == class_id}) for s in scenes)

    def height(scenes: list[Scene]) -> float:
        return mean(x.centre[2] + x.half[2] for s in scenes for x in s.solids if x.class_id == BUILDING)

    def width(scenes: list[Scene]) -> float:
        return mean(s.road.half_width for s in scenes)

    assert height(urban) > 2 * height(suburban)
    assert number(urban, BUILDING) > number(rural, BUILDING) + 3
    assert number(urban, TREE) < number(suburban, TREE) < number(rural, TREE)
    assert width(urban) > width(suburban) > width(rural)


def test_only_the_country_has_no_pavement() -> None:
    assert all(s.road.pavement == 0 for s in _scenes("rural"))
    assert all(s.road.pavement > 1 for s in (*_scenes("urban"), *_scenes("suburban")))
    out = render(_scenes("rural", 8), size=8, label_size=32, num_beams=1, num_azimuths=1, max_depth=80.0)["target.segmentation"]
    assert not (out == PAVEMENT).any()
    assert (out == ROAD).any()


@pytest.mark.parametrize("domain", DOMAINS)
def test_nothing_stands_on_the_camera(domain: str) -> None:
    for n in range(10):
        scene = draw_scene(domain, n, 3)
        assert not any(inside(solid, np.array(scene.camera.position)) for solid in scene.solids)


def test_only_boxes_are_turned() -> None:
    solids = [solid for n in range(20) for solid in draw_scene("shapes", n, 0).solids]
    assert {solid.shape for solid in solids} == {"box", "ellipsoid", "cylinder"}
    assert all(solid.axes == LEVEL for solid in solids if solid.shape != "box")
    assert any(solid.axes != LEVEL for solid in solids)


def test_vehicles_do_not_stand_in_one_another() -> None:
    for scene in _scenes("urban", 40):
        bodies = [x for x in scene.solids if x.class_id == VEHICLE and x.texture == "vehicle"]
        for i, one in enumerate(bodies):
            for other in bodies[:i]:
                assert not inside(one, np.array(other.centre))


@pytest.mark.parametrize("layout", ["urban", "suburban", "rural"])
def test_every_count_of_vehicles_occurs(layout: str) -> None:
    out = render(_scenes(layout, 90), size=32, label_size=1, num_beams=1, num_azimuths=1, max_depth=80.0)["target.vehicle_count"]
    assert set(out.tolist()) == {0, 1, 2}


def test_cameras_look_widely_about() -> None:
    yaws = [np.degrees(np.arctan2(-s.camera.axes[2][0], s.camera.axes[2][1])) for s in _scenes("urban", 60)]
    assert max(yaws) > 18
    assert min(yaws) < -18
    for scene in _scenes("urban", 5):
        for pose in (scene.camera, scene.lidar):
            axes = np.array(pose.axes)
            assert np.allclose(axes @ axes.T, np.eye(3), atol=1e-12)
            assert np.linalg.det(axes) == pytest.approx(1)
