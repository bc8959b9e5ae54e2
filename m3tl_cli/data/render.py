"""From a list of scenes to the rows of the store: cast, shade, measure, label."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from m3tl_cli.core.contracts import generator
from m3tl_cli.data import atmosphere, labels, layouts, raycast, sensors, shading
from m3tl_cli.data.layouts import Pose, Scene
from m3tl_cli.data.raycast import Hits, build_world, describe, first_hit, in_view
from m3tl_cli.data.store import Column

VERSION = 3  # raise it when the meaning of a column changes


def fingerprint() -> str:
    """Hash of the source of everything that decides what a scene looks like, 16 hexadecimal digits."""
    digest = hashlib.blake2b(str(VERSION).encode(), digest_size=8)
    for module in (atmosphere, labels, layouts, raycast, sensors, shading):
        digest.update(Path(str(module.__file__)).read_bytes())
    digest.update(Path(__file__).read_bytes())
    return digest.hexdigest()


def columns(*, size: int, label_size: int, num_points: int) -> dict[str, Column]:
    """What `render` writes of one scene: names as `StorePool` reads them, types and shapes of a row."""
    return {
        "input.rgb": Column("uint8", (3, size, size)),
        "input.lidar": Column("float32", (num_points, 5)),
        "geometry.intrinsics": Column("float32", (3, 3)),
        "geometry.lidar.extrinsics": Column("float32", (3, 4)),
        "target.segmentation": Column("int8", (label_size, label_size)),
        "target.depth": Column("float32", (label_size, label_size)),
        "target.normals": Column("float32", (3, label_size, label_size)),
        "target.vehicle_count": Column("int8"),
        "target.vehicle_distance": Column("float32", (1,)),
        "target.heading": Column("float32", (1,)),
        "target.edges": Column("int8", (label_size, label_size)),
        "target.drivable": Column("int8", (label_size, label_size)),
        "target.height": Column("float32", (label_size, label_size)),
        "target.inverse_depth": Column("float32", (label_size, label_size)),
    }


def render(
    scenes: Sequence[Scene], *, size: int, label_size: int, num_beams: int, num_azimuths: int, max_depth: float
) -> dict[str, Tensor]:
    """Render scenes; the bits of each do not depend on which others are rendered with it.

    Args:
        scenes: S scenes.
        size: Rows and columns of the image.
        label_size: Rows and columns of dense labels; any grid over the same view.
        num_beams: Of the LiDAR.
        num_azimuths: Rays of a beam.
        max_depth: Metres beyond which depth is not labelled.

    Returns:
        Tensors [S, ...] as `columns` says.
    """
    count = len(scenes)
    world = build_world(scenes)
    position, axes = pose_tensors([s.camera for s in scenes])
    focal = torch.tensor([s.focal for s in scenes])
    origin = position.T[..., None]
    seen = in_view(world, position, axes, 0.5 / focal)

    direction = torch.cat([sensors.camera_rays(axes, focal, size), sensors.camera_rays(axes, focal, label_size)], dim=2)
    distance, slot = first_hit(world, seen, origin, direction)
    fine, coarse = (slice(0, size * size), slice(size * size, None))
    image = describe(world, origin, direction[..., fine], distance[:, fine], slot[:, fine])
    dense = describe(world, origin, direction[..., coarse], distance[:, coarse], slot[:, coarse])

    cells, pixels, rays = _random_numbers(scenes, size, num_beams * num_azimuths)
    rgb = shading.shade(scenes, world, image, direction[..., fine], cells, pixels)

    relative, turned = pose_tensors([s.lidar for s in scenes])
    extinction = torch.tensor([s.atmosphere.lidar_extinction for s in scenes])
    dropout = torch.tensor([s.atmosphere.lidar_dropout for s in scenes])
    lidar_position, lidar_axes = _mounted(position, axes, relative, turned)
    points = sensors.measure_points(
        world, lidar_position, lidar_axes, extinction, dropout, sensors.lidar_rays(num_beams, num_azimuths), rays
    )
    grid = (count, label_size, label_size)
    return {
        "input.rgb": rgb.reshape(count, 3, size, size),
        "input.lidar": points,
        "geometry.intrinsics": intrinsics(focal),
        "geometry.lidar.extrinsics": torch.cat([turned.transpose(1, 2), relative[..., None]], dim=2),
        "target.segmentation": labels.segmentation(dense).reshape(grid),
        "target.depth": labels.depth(dense, max_depth).reshape(grid),
        "target.normals": labels.normals(dense, axes).reshape(count, 3, label_size, label_size),
        "target.vehicle_count": labels.vehicle_count(image),
        "target.vehicle_distance": labels.vehicle_distance(image, _metres(image, direction[..., fine])),
        "target.heading": labels.heading(scenes),
        "target.edges": labels.edges(dense, label_size).reshape(grid),
        "target.drivable": labels.drivable(dense, world).reshape(grid),
        "target.height": labels.height(dense).reshape(grid),
        "target.inverse_depth": labels.inverse_depth(dense, max_depth).reshape(grid),
    }


def intrinsics(focal: Tensor) -> Tensor:
    """Camera matrices in units of the image's width and height, [S, 3, 3], from focal lengths [S] in the same unit."""
    matrix = torch.zeros(len(focal), 3, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = focal
    matrix[:, 0, 2] = matrix[:, 1, 2] = 0.5
    matrix[:, 2, 2] = 1.0
    return matrix


def pose_tensors(poses: Sequence[Pose]) -> tuple[Tensor, Tensor]:
    """Positions [S, 3] and axes [S, 3, 3], a row an axis."""
    return torch.tensor([p.position for p in poses]), torch.tensor([p.axes for p in poses])


def _mounted(position: Tensor, axes: Tensor, relative: Tensor, turned: Tensor) -> tuple[Tensor, Tensor]:
    """Position and axes in the world of a sensor whose pose is given in camera axes."""

    def to_world(vectors: Tensor) -> Tensor:
        return torch.stack(
            [vectors[:, 0] * axes[:, 0, i] + vectors[:, 1] * axes[:, 1, i] + vectors[:, 2] * axes[:, 2, i] for i in range(3)], dim=1
        )

    return position + to_world(relative), torch.stack([to_world(turned[:, i]) for i in range(3)], dim=1)


def _metres(hits: Hits, direction: Tensor) -> Tensor:
    x, y, z = direction
    return hits.distance * torch.sqrt(x * x + y * y + z * z)


def _random_numbers(scenes: Sequence[Scene], size: int, num_points: int) -> tuple[Tensor, Tensor, Tensor]:
    """Uniform numbers: textures [S, cells], the camera's noise [3, 2, S, R], the LiDAR's [S, 4, N]; a generator per scene."""
    cells, pixels, rays = [], [], []
    for scene in scenes:
        own = generator(scene.seed, "noise")
        cells.append(torch.rand(shading.NUM_CELLS, generator=own))
        rays.append(torch.rand(4, num_points, generator=own))
        pixels.append(torch.rand(3, 2, size * size, generator=own))
    return torch.stack(cells), torch.stack(pixels, dim=2), torch.stack(rays)
