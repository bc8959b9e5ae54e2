"""The two sensors: rays of a camera, and a LiDAR that measures with noise, loses returns and knows no colour."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from m3tl_cli.data.raycast import World, describe, first_hit

ELEVATIONS = (-11.0, 4.0)  # degrees of the LiDAR's lowest and highest beam
AZIMUTHS = (-30.0, 30.0)  # degrees of its outermost rays
RANGE_NOISE = 0.03  # metres, standard deviation
LONGEST = 3.0 * RANGE_NOISE  # no range is further off: the noise is a sum of uniform numbers, with limits
SENSITIVITY = 60.0  # metres at which a surface of reflectivity .1 that faces the LiDAR is just seen


def camera_rays(axes: Tensor, focal: Tensor, size: int) -> Tensor:
    """Rays through pixel centres.

    Args:
        axes: [S, 3, 3], rows right, down, forward.
        focal: [S] in units of the image's width.
        size: Rows and columns.

    Returns:
        [3, S, size * size] in world axes, with a part of 1 along the camera's axis: so a distance in units of it is the depth along
        that axis.
    """
    grid = (torch.arange(size, dtype=torch.float32) + 0.5) / size - 0.5
    right = (grid[None, :] / focal[:, None])[:, None, :].expand(-1, size, -1).flatten(1)
    down = (grid[None, :] / focal[:, None])[:, :, None].expand(-1, -1, size).flatten(1)
    return torch.stack([right * axes[:, 0, i, None] + down * axes[:, 1, i, None] + axes[:, 2, i, None] for i in range(3)])


def lidar_rays(num_beams: int, num_azimuths: int) -> Tensor:
    """Unit directions of the LiDAR's rays in its own axes (x forward, y left, z up), [num_beams * num_azimuths, 3], beam by beam."""

    def spread(limits: tuple[float, float], count: int) -> list[float]:
        low, high = limits
        return [math.radians(low + (high - low) * (i + 0.5) / count) for i in range(count)]

    return torch.tensor(
        [
            [math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)]
            for e in spread(ELEVATIONS, num_beams)
            for a in spread(AZIMUTHS, num_azimuths)
        ]
    )


def measure_points(
    world: World, position: Tensor, axes: Tensor, extinction: Tensor, dropout: Tensor, rays: Tensor, random: Tensor
) -> Tensor:
    """Measure with the LiDAR.

    A ray returns where what comes back, reflectivity times cosine over squared distance times the air's transmission both ways, is
    above the sensitivity, and where it is not lost by chance.

    Args:
        world: S scenes.
        position: [S, 3] of the LiDAR in the world.
        axes: [S, 3, 3], rows are its own axes in the world.
        extinction: [S] of its light by the air, per metre.
        dropout: [S] probability of loss.
        rays: [N, 3] unit directions in its own axes.
        random: [S, 4, N] uniform in [0, 1).

    Returns:
        [S, N, 5]: x, y, z in metres in its own axes, intensity in [0, 1], and 1 where the ray returned; zeros where it did not.
    """
    direction = torch.stack(
        [rays[:, 0] * axes[:, 0, i, None] + rays[:, 1] * axes[:, 1, i, None] + rays[:, 2] * axes[:, 2, i, None] for i in range(3)]
    )
    origin = position.T[..., None]
    distance, slot = first_hit(world, world.exists, origin, direction)
    hits = describe(world, origin, direction, distance, slot)
    normal = torch.nan_to_num(hits.normal)
    cosine = (normal[0] * direction[0] + normal[1] * direction[1] + normal[2] * direction[2]).abs()
    reach = torch.where(torch.isfinite(distance), distance, 0.0)
    through = attenuation(extinction[:, None], 2 * reach)
    power = hits.reflectivity * cosine * through * (SENSITIVITY * SENSITIVITY)
    returned = torch.isfinite(distance) & (power > 0.1 * reach * reach) & (random[:, 0] >= dropout[:, None])
    measured = reach + (random[:, 1] + random[:, 2] - 1) * (RANGE_NOISE * math.sqrt(6))  # a triangular density
    intensity = (hits.reflectivity * cosine * through + 0.05 * (random[:, 3] - 0.5)).clamp(0, 1)
    points = torch.stack([measured * rays[:, 0], measured * rays[:, 1], measured * rays[:, 2], intensity, torch.ones_like(reach)], dim=-1)
    return torch.where(returned[..., None], points, 0.0)


def attenuation(extinction: Tensor, metres: Tensor) -> Tensor:
    """Share of light left after a way through the air, in (0, 1].

    (1 + k s / 8)^-8, which follows exp(-k s) within .03 and, made of exactly rounded operations, has the same bits everywhere.
    """
    once = 1 / (1 + extinction * metres / 8)
    squared = once * once
    fourth = squared * squared
    return fourth * fourth
