"""Pictures of inputs."""

from __future__ import annotations

import numpy as np
import torch

from m3tl_cli.core.contracts import Batch, ModalityInfo
from m3tl_cli.data.draw import DARK, draw_modality, project

POINTS = ModalityInfo("lidar", "points", channels=5, size=(64, 64), length=3)


def _batch(name: str, x: torch.Tensor, present: bool = True, **geometry: torch.Tensor) -> Batch:
    return Batch({name: x}, {}, {name: torch.tensor([present])}, geometry, {}, {}, torch.zeros(1), torch.zeros(1))


def _points(*rows: list[float], present: bool = True) -> Batch:
    x = torch.tensor([[*rows]])
    geometry = {
        "lidar.position": x[..., :3],
        "lidar.valid": x[..., 4] > 0,
        "lidar.extrinsics": torch.tensor([[[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]]]),
        "intrinsics": torch.tensor([[[0.5, 0, 0.5], [0, 0.5, 0.5], [0, 0, 1]]]),
    }
    return _batch("lidar", x, present, **geometry)


def test_an_image_is_shown_as_it_is() -> None:
    x = torch.rand(1, 3, 4, 5)
    picture = draw_modality(ModalityInfo("rgb", "image", 3, (4, 5)), _batch("rgb", x), 0)
    assert picture.dtype == np.uint8
    assert picture.shape == (4, 5, 3)
    assert abs(picture[1, 2, 0] / 255 - x[0, 0, 1, 2].item()) < 1 / 255


def test_one_channel_is_shown_grey() -> None:
    picture = draw_modality(ModalityInfo("rgb", "image", 1, (4, 4)), _batch("rgb", torch.ones(1, 1, 4, 4)), 0)
    assert (picture == 255).all()


def test_a_point_falls_where_the_calibration_says() -> None:
    """10 m ahead, 5 m to the left, 2.5 m up, in an angle of view of 90 degrees: u = .5 - .25, v = .5 - .125."""
    place, metres = project(POINTS, _points([10, 5, 2.5, 0.5, 1], [10, 0, 0, 0.5, 0], [-10, 0, 0, 0.5, 1]), 0)
    assert place.tolist() == [[16.0, 24.0]]
    assert metres.tolist() == [torch.tensor([10, 5, 2.5]).norm().item()]


def test_points_are_painted_where_they_fall_and_nowhere_else() -> None:
    picture = draw_modality(POINTS, _points([10, 5, 2.5, 0.5, 1], [10, 0, 0, 0.5, 0], [-10, 0, 0, 0.5, 1]), 0)
    painted = np.argwhere((picture != DARK).any(-1))
    assert painted.min(0).tolist() == [23, 15]
    assert painted.max(0).tolist() == [25, 17]


def test_the_nearer_point_is_painted_over_the_farther_one_in_a_warmer_colour() -> None:
    near, far = [5.0, 0, 0, 0.5, 1], [40.0, 0, 0, 0.5, 1]
    pictures = [draw_modality(POINTS, _points(*rows), 0)[32, 32] for rows in ([near, far], [far, near], [near], [far])]
    assert (pictures[0] == pictures[2]).all()
    assert (pictures[1] == pictures[2]).all()
    assert pictures[2][0] > pictures[3][0]
    assert pictures[2][2] < pictures[3][2]


def test_an_absent_modality_is_an_empty_canvas() -> None:
    assert (draw_modality(POINTS, _points([10, 5, 2.5, 0.5, 1], present=False), 0) == DARK).all()
    absent = _batch("rgb", torch.ones(1, 3, 4, 4), present=False)
    assert (draw_modality(ModalityInfo("rgb", "image", 3, (4, 4)), absent, 0) == DARK).all()


def test_a_table_row_is_drawn_as_bars_up_and_down() -> None:
    picture = draw_modality(ModalityInfo("t", "table", 3), _batch("t", torch.tensor([[3.0, -3.0, float("nan")]])), 0)
    assert picture.shape == (48, 18, 3)
    assert (picture[5, 2] != DARK).any()
    assert (picture[40, 2] == DARK).all()
    assert (picture[5, 8] == DARK).all()
    assert (picture[40, 8] != DARK).any()
