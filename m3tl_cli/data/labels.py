"""Labels in closed form: each is one function of what the rays met.

To add one: a function here, a column in `render`, a task in `scenes`, a line in the yaml.

Dense labels come from rays through the pixel centres of the label's own grid; labels of a whole image from the image's rays.
"""

from __future__ import annotations

import torch
from torch import Tensor

from m3tl_cli.data.layouts import VEHICLE
from m3tl_cli.data.raycast import NOTHING, Hits

VISIBLE_SHARE = 0.01  # of the image that a vehicle must cover to count: 41 of 64 x 64 pixels; with fewer, two cars far off are one blot
MOST_VEHICLES = 2  # 2 stands for 2 or more


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


def _visible(hits: Hits) -> Tensor:
    """Which objects are vehicles that cover at least `VISIBLE_SHARE` of the pixels, bool [S, objects]."""
    objects = torch.where(hits.class_id == VEHICLE, hits.object_id + 1, 0)
    pixels = torch.zeros(len(objects), int(hits.object_id.max()) + 2, dtype=torch.int64)
    pixels.scatter_add_(1, objects, torch.ones_like(objects))
    return pixels[:, 1:] >= VISIBLE_SHARE * objects.shape[1]
