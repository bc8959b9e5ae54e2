from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest

from m3tl_cli.task.palette import UNLABELLED, class_colours

SCENES = ("ground", "road", "lane_mark", "pavement", "building", "vehicle", "person", "tree", "sky")

# Machado, Oliveira and Fernandes, "A Physiologically-Based Model for Simulation of Color Vision Deficiency", 2009, severity 1.
SIGHT = {
    "normal": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
}


def lab(colours: npt.NDArray[np.uint8], sight: str) -> npt.NDArray[np.float64]:
    srgb = colours / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    linear = (linear @ SIGHT[sight].T).clip(0, 1)
    xyz = linear @ np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).T / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


@pytest.mark.parametrize("sight", SIGHT)
def test_classes_of_driving_scenes_stay_apart_for_every_sight(sight: str) -> None:
    colours = lab(np.concatenate([class_colours(SCENES), [UNLABELLED]]).astype(np.uint8), sight)
    closest = min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(colours, 2))
    assert closest > 28  # CIE76; 2.3 is just noticeable side by side


@pytest.mark.parametrize("number", [1, 2, 9, 21, 150])
def test_no_two_classes_share_a_colour(number: int) -> None:
    colours = [tuple(c) for c in class_colours([f"c{i}" for i in range(number)])]
    assert len(set(colours)) == number
    assert UNLABELLED not in colours


def test_a_known_name_keeps_its_colour_whatever_its_index() -> None:
    colours = class_colours(("a", "lane marks", "Sky", "people"))
    assert colours[2].tolist() == class_colours(("sky",))[0].tolist()
    assert colours[1].tolist() == [255, 255, 255]
    assert colours[3].tolist() == class_colours(("person",))[0].tolist()


def test_two_classes_of_one_name_still_differ() -> None:
    first, second = class_colours(("car left", "car right"))
    assert first.tolist() != second.tolist()
