"""Scenes that tests place by hand, and an intersector that shares nothing with the ray-caster."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from m3tl_cli.data.atmosphere import draw_atmosphere
from m3tl_cli.data.layouts import VEHICLE, Pose, Road, Scene, Solid

Array = npt.NDArray[np.float64]

LEVEL = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, 1.0, 0.0))  # right, down, forward of a camera that looks along y
NO_ROAD = Road(-1.0, 0.0, (0.0, 0.0), -1e3, 1.0, 0.0, False, (0.2, 0.2, 0.2), 0.1)
SIZES = {"size": 64, "label_size": 64, "num_beams": 4, "num_azimuths": 16, "max_depth": 80.0}


def box(x: float, y: float, z: float, half: float = 1.0, number: int = 0, class_id: int = VEHICLE) -> Solid:
    """A cube."""
    return Solid("box", (x, y, z), (half, half, half), class_id, number, (0.5, 0.5, 0.5), 0.5)


def scene(*solids: Solid) -> Scene:
    """Solids before a level camera at height 1.5 with an angle of view of 90 degrees, on a plain without a road, by day."""
    lidar = Pose((0.0, 0.0, 0.0), ((0.0, 0.0, 1.0), (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0)))
    air = replace(draw_atmosphere("clear", "day", False, random.Random(0)), lidar_dropout=0.0)
    return Scene(0, solids, NO_ROAD, air, Pose((0.0, 0.0, 1.5), LEVEL), 0.5, lidar)


def inside(solid: Solid, points: Array) -> npt.NDArray[np.bool_]:
    """Whether points [..., 3] are in a solid, straight from its definition."""
    local = points - np.array(solid.centre)
    half = np.array(solid.half)
    if solid.shape == "box":
        return np.asarray((np.abs(local @ np.array(solid.axes)) <= half).all(-1))
    if solid.shape == "ellipsoid":
        return np.asarray(((local / half) ** 2).sum(-1) <= 1)
    return np.asarray((local[..., 0] ** 2 + local[..., 1] ** 2 <= half[0] ** 2) & (np.abs(local[..., 2]) <= half[2]))
