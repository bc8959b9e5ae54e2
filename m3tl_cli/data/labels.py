"""Labels in closed form: each is one function of what the rays met.

To add one: a function here, a column in `render`, a task in `scenes`, a line in the yaml.

Dense labels come from rays through the pixel centres of the label's own grid; labels of a whole image from the image's rays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from m3tl_cli.data.layouts import PERSON, VEHICLE, Scene
from m3tl_cli.data.raycast import NOTHING, PLANE, Hits, World

VISIBLE_SHARE = 0.01  # of the image that a vehicle must cover to count: 41 of 64 x 64 pixels; with fewer, two cars far off are one blot
MOST_VEHICLES = 2  # 2 stands for 2 or more
CLEARANCE = 0.9  # metres to either side of its middle that a car takes up: half the width of those in the scenes


def segmentation(hits: Hits) -> Tensor:
    """Class of each pixel, int8 [S, R]."""
    return hits.class_id.to(torch.int8)


def depth(hits: Hits, max_depth: float) -> Tensor:
    """Metres along the camera's axis (not along the ray), float32 [S, R]; NaN in the sky and beyond `max_depth`.

    The rays must have a part of 1 along that axis.
    """
    return torch.where((hits.kind == NOTHING) | (hits.distance > max_depth), torch.nan, hits.distance)


def normals(hits: Hits, axes: Tensor) -> Tensor:
    """Unit normal towards the camera in camera axes (x right, y down, z forward), float32 [S, 3, R]; NaN in the sky.

    Args:
        hits: What the rays met.
        axes: [S, 3, 3], rows are the camera's axes in the world.
    """
    n = hits.normal
    return torch.stack([axes[:, i, 0, None] * n[0] + axes[:, i, 1, None] * n[1] + axes[:, i, 2, None] * n[2] for i in range(3)], dim=1)


def vehicle_count(hits: Hits) -> Tensor:
    """Number of visible vehicles, `MOST_VEHICLES` standing for that many or more, int8 [S]."""
    return _visible(hits).sum(1).clamp(max=MOST_VEHICLES).to(torch.int8)


def vehicle_distance(hits: Hits, metres: Tensor) -> Tensor:
    """Metres from the camera, along the ray, to the nearest point that it sees of a visible vehicle, float32 [S, 1]; NaN without one.

    Args:
        hits: What the rays met.
        metres: [S, R] length of each ray.
    """
    visible = _visible(hits)
    if not visible.shape[1]:
        return torch.full((len(metres), 1), torch.nan)
    counts = visible.gather(1, hits.object_id.clamp(min=0)) & (hits.class_id == VEHICLE)
    nearest = torch.where(counts, metres, torch.inf).amin(dim=1, keepdim=True)
    return torch.where(torch.isfinite(nearest), nearest, torch.nan)


def heading(scenes: Sequence[Scene]) -> Tensor:
    """Degrees by which the camera looks to the left of the road's direction, float32 [S, 1]; NaN where there is no road.

    It is the angle on the ground between the two, whatever the camera's pitch and roll. On the image it shows in where the lines of
    the road and the houses meet, and in the normals of walls; it differs from scene to scene and not from domain to domain.
    """
    degrees = []
    for scene in scenes:
        x, y, _ = scene.camera.axes[2]
        degrees.append([math.degrees(math.atan2(-x, y)) if scene.road.half_width > 0 else math.nan])
    return torch.tensor(degrees)  # by the scalar atan2, whose bits do not follow the length of the tensor


def edges(hits: Hits, size: int) -> Tensor:
    """Outlines of things, int8 [S, R]: 1 where a pixel lies in front of another thing beside, above or below it.

    A thing is an object with all its parts, the ground with all that is painted on it, or the sky. Of two neighbours that see two
    things the edge belongs to one: to the object where the other is ground or sky, to the ground before the sky, and of two objects
    to the nearer. So an outline runs inside its object, one pixel wide, also where the object stands on the ground. The borders of
    the image are no edges, nor are those between road, pavement and grass, which are paint.

    Args:
        hits: What the rays met, R = size x size.
        size: Rows and columns of the grid.
    """
    grid = (len(hits.kind), size, size)
    thing = torch.where(hits.kind == NOTHING, -2, hits.object_id).reshape(grid)
    order = torch.where(hits.kind == PLANE, torch.finfo(torch.float32).max, hits.distance).reshape(grid)  # the sky's is infinite
    found = torch.zeros(grid, dtype=torch.bool)
    for dim in (1, 2):
        here, there = (thing.narrow(dim, 0, size - 1), thing.narrow(dim, 1, size - 1))
        near, far = (order.narrow(dim, 0, size - 1), order.narrow(dim, 1, size - 1))
        found.narrow(dim, 0, size - 1).logical_or_((here != there) & (near <= far))
        found.narrow(dim, 1, size - 1).logical_or_((here != there) & (far <= near))
    return found.flatten(1).to(torch.int8)


def drivable(hits: Hits, world: World) -> Tensor:
    """Road that a car can reach by driving on, int8 [S, R]: 1 where a pixel sees it.

    A point of the ground at (x, y) is drivable if it lies in the own carriageway, the right half of the road, and a car whose middle
    keeps to x gets there from y = 0 with no vehicle and no person within `CLEARANCE` to either side. Each part of those counts as
    the rectangle, parallel to the road, that encloses it, and blocks all that lies behind its near side. So neither the oncoming half
    nor what is behind an obstacle is drivable, though all of it is road; and what something hides is not seen.
    """
    x, y, _ = hits.position
    free = (hits.kind == PLANE) & (x > 0) & (x < world.road[0])
    obstacle = world.exists & ((world.table[:, :-2, 0] == VEHICLE) | (world.table[:, :-2, 0] == PERSON))
    ax, ay = world.axes[:, :, 0].abs(), world.axes[:, :, 1].abs()
    hx, hy, hz = world.half[..., 0], world.half[..., 1], world.half[..., 2]
    across = ax[..., 0] * hx + ax[..., 1] * hy + ax[..., 2] * hz + CLEARANCE
    along = ay[..., 0] * hx + ay[..., 1] * hy + ay[..., 2] * hz
    middle, start, end = world.centre[..., 0], world.centre[..., 1] - along, world.centre[..., 1] + along
    ahead = obstacle & (end > 0) & (middle + across > 0) & (middle - across < world.road[0])
    for k in range(len(world.kind)):
        rows = ahead[:, k].nonzero()[:, 0]
        if len(rows):
            blocked = ((x[rows] - middle[rows, k, None]).abs() < across[rows, k, None]) & (y[rows] > start[rows, k, None])
            free[rows] = free[rows] & ~blocked
    return free.to(torch.int8)


def height(hits: Hits) -> Tensor:
    """Metres above the ground of the point that a pixel sees, float32 [S, R]; 0 on the ground, NaN in the sky.

    Depth alone does not tell it: the camera's height, pitch and roll differ from scene to scene.
    """
    above = torch.where(hits.kind == PLANE, 0.0, hits.position[2])
    return torch.where(hits.kind == NOTHING, torch.nan, above)


def inverse_depth(hits: Hits, max_depth: float) -> Tensor:
    """One over `depth`, per metre, float32 [S, R]: a conflict with depth that is planted on purpose.

    Its logarithm is minus that of depth, so that for the kind `depth`, which puts out standardised logarithms, the target of the one
    is the mirror image of the other's: same pixels, same loss, same difficulty, every order turned round. One shared output cannot
    serve both, and at an output of 0 their gradients point opposite ways: a head or an initialisation carried over from depth is as
    wrong as can be. A head of its own undoes the conflict by turning one sign, since the features that both need are the same.

    Measured on the default source scenes, after 300 updates of a small network of the image on both losses: with one shared output the
    gradients on the trunk have a cosine of -1.00 and the losses stay where they began (0.99 and 1.26); with an output each the cosine
    is +.53 and the losses fall to 0.25 and 0.32.
    """
    return 1 / depth(hits, max_depth)


def _visible(hits: Hits) -> Tensor:
    """Which objects are vehicles that cover at least `VISIBLE_SHARE` of the pixels, bool [S, objects]."""
    objects = torch.where(hits.class_id == VEHICLE, hits.object_id + 1, 0)
    pixels = torch.zeros(len(objects), int(hits.object_id.max()) + 2, dtype=torch.int64)
    pixels.scatter_add_(1, objects, torch.ones_like(objects))
    return pixels[:, 1:] >= VISIBLE_SHARE * objects.shape[1]
