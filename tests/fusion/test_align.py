from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from m3tl_cli.core.contracts import Signature
from m3tl_cli.core.errors import DataError
from m3tl_cli.fusion.align import FLOOR, Alignment, project, scatter, spread_out
from tests.fusion.inputs import SIGNATURES, calibration, everywhere, features

CAMERA = torch.tensor([[[0.5, 0, 0.5], [0, 1.0, 0.5], [0, 0, 1]]])  # 90 degrees wide, 53 high


def test_a_point_at_a_known_place_lands_in_the_computed_cell() -> None:
    # The sensor stands 1 m above the camera; x forward, y left, z up. The point is 10 m ahead, 4 m to the left, 2 m below the sensor:
    # in the camera (x right, y down, z forward) (-4, 1, 10); u = .5 + .5 * -4 / 10 = .3, v = .5 + 1 / 10 = .6.
    extrinsics = torch.tensor([[[0.0, -1, 0, 0], [0, 0, -1, -1], [1, 0, 0, 0]]])
    position = torch.tensor([[[10.0, 4.0, -2.0]]])
    cell, depth, seen = project(position, torch.ones(1, 1, dtype=torch.bool), extrinsics, CAMERA, (8, 10))
    # Rows: .6 * 8 = 4.8; columns: .3 * 10 = 3.0 up to rounding of float32, so that the column is checked off the edge below.
    assert seen.item()
    assert depth.item() == pytest.approx(10)
    assert cell.item() // 10 == 4
    cell, _, _ = project(position, torch.ones(1, 1, dtype=torch.bool), extrinsics, CAMERA, (8, 16))  # .3 * 16 = 4.8
    assert cell.item() == 4 * 16 + 4


@pytest.mark.parametrize(
    ("point", "valid"),
    [
        ((0.0, 0.0, -5.0), True),  # behind the camera
        ((0.0, 0.0, 0.0), True),  # in the camera
        ((6.0, 0.0, 5.0), True),  # u = 1.1
        ((0.0, -3.0, 5.0), True),  # v = -.1
        ((0.0, 0.0, 5.0), False),
        ((math.nan, 0.0, 5.0), True),
        ((math.inf, 0.0, 5.0), True),
    ],
)
def test_points_that_the_camera_does_not_see_are_dropped(point: tuple[float, float, float], valid: bool) -> None:
    extrinsics = torch.eye(4)[None, :3]
    position = torch.tensor([[point, (0.0, 0.0, 5.0)]])
    cell, depth, seen = project(position, torch.tensor([[valid, True]]), extrinsics, CAMERA, (4, 4))
    assert seen.tolist() == [[False, True]]
    assert cell.tolist() == [[0, 10]]
    assert depth.tolist() == [[0, 5]]


def test_the_image_edge_belongs_to_the_last_cell() -> None:
    position = torch.tensor([[[5.0, 2.5, 5.0]]])  # u = v = 1
    cell, _, seen = project(position, torch.ones(1, 1, dtype=torch.bool), torch.eye(4)[None, :3], CAMERA, (4, 6))
    assert seen.item()
    assert cell.item() == 23


def test_tokens_of_a_cell_add_up() -> None:
    tokens = torch.tensor([[[1.0], [2.0], [4.0], [math.nan]], [[8.0], [16.0], [32.0], [64.0]]])
    cell = torch.tensor([[0, 3, 3, 0], [3, 1, 1, 1]])
    seen = torch.tensor([[True, True, True, False], [True, True, True, False]])
    total, count = scatter(tokens, cell, seen, (2, 2))
    assert total.flatten(1).tolist() == [[1, 0, 0, 6], [0, 48, 0, 8]]
    assert count.flatten(1).tolist() == [[1, 0, 0, 2], [0, 2, 0, 1]]


def test_spreading_is_a_weighted_mean_over_all_tokens() -> None:
    total, count = torch.zeros(1, 1, 4, 1, dtype=torch.float64), torch.zeros(1, 1, 4, 1, dtype=torch.float64)
    total[0, 0, 0], count[0, 0, 0] = 6.0, 2.0  # two tokens of mean 3 in the first column
    total[0, 0, 3], count[0, 0, 3] = 9.0, 1.0  # one token of 9 in the last
    # spread = one column of four: weights exp(-d^2 / 2) + FLOOR.
    out = spread_out(total, count, 0.25)[0, 0, :, 0]
    for column in range(4):
        near, far = (math.exp(-(d**2) / 2) + FLOOR for d in (column, 3 - column))
        assert out[column].item() == pytest.approx((near * 6 + far * 9) / (near * 2 + far), rel=1e-12)


def test_one_token_fills_the_grid_and_none_leaves_it_empty() -> None:
    total, count = torch.zeros(2, 16, 16, 1), torch.zeros(2, 16, 16, 1)
    total[0, 0, 0], count[0, 0, 0] = 5.0, 1.0
    out = spread_out(total, count, 0.02)
    torch.testing.assert_close(out[0], torch.full((16, 16, 1), 5.0))
    assert (out[1] == 0).all()


def test_points_bring_mean_depth_occupancy_and_both_spread_out() -> None:
    inputs = {"lidar": Signature("tokens", 1, (2, 2))}
    geometry = {
        "lidar.position": torch.tensor([[[-1.0, -1, 4], [-1, -1, 4], [1, 1, 9]]]),
        "lidar.valid": torch.ones(1, 3, dtype=torch.bool),
        "lidar.extrinsics": torch.eye(4)[None, :3],
        "intrinsics": CAMERA,
    }
    align = Alignment(inputs, spread=0.1)
    assert (align.kind, align.grid, align.channels, align.flat) == ("map", (2, 2), {"lidar": 5}, frozenset())
    out = align({"lidar": torch.tensor([[[1.0], [3.0], [7.0]]])}, everywhere(["lidar"], 1), geometry)["lidar"][0]
    assert out[0].tolist() == [[2, 0], [0, 7]]
    torch.testing.assert_close(out[1], torch.tensor([[math.log(5), 0], [0, math.log(10)]]))
    assert out[2].tolist() == [[1, 0], [0, 1]]
    near, far = 1 + FLOOR, math.exp(-50) + FLOOR  # the cells lie 5 spreads apart along both axes
    assert out[3, 0, 0].item() == pytest.approx((near * 4 + far * 7) / (near * 2 + far), rel=1e-5)
    assert out[3, 0, 1].item() == pytest.approx(11 / 3, rel=1e-2)  # as far from one as from the other


def test_maps_are_resized_to_the_finest_and_vectors_keep_one_cell() -> None:
    names = ["thermal", "rgb", "table", "lidar"]
    align = Alignment({m: SIGNATURES[m] for m in names}, spread=0.1)
    given = features(names, 2)
    out = align(given, everywhere(names, 2), calibration(2))
    assert {m: tuple(x.shape[1:]) for m, x in out.items()} == {
        "thermal": (3, 8, 10),
        "rgb": (6, 8, 10),
        "table": (4, 1, 1),
        "lidar": (13, 8, 10),
    }
    assert torch.equal(out["rgb"], given["rgb"])
    torch.testing.assert_close(out["thermal"], F.interpolate(given["thermal"], (8, 10), mode="bilinear"))


def test_tokens_without_a_place_are_averaged() -> None:
    align = Alignment({"bag": Signature("tokens", 2)}, spread=0.1)
    assert (align.kind, align.grid) == ("vector", (1, 1))
    x = torch.tensor([[[1.0, 2], [3, 4], [math.nan, 0]], [[1, 1], [1, 1], [1, 1]]])
    valid = torch.tensor([[True, True, False], [False, False, False]])
    out = align({"bag": x}, everywhere(["bag"], 2), {"bag.valid": valid})["bag"]
    assert out.flatten(1).tolist() == [[2, 3], [0, 0]]
    assert align({"bag": x[1:]}, everywhere(["bag"], 1), {})["bag"].flatten().tolist() == [1, 1]


def test_points_to_be_placed_without_calibration_are_refused() -> None:
    align = Alignment({"lidar": SIGNATURES["lidar"]}, spread=0.1)
    geometry = calibration(2)
    del geometry["intrinsics"]
    with pytest.raises(DataError, match="intrinsics not found"):
        align(features(["lidar"], 2), everywhere(["lidar"], 2), geometry)
