"""Which surface does each ray meet first? Exact intersections of many rays of many scenes with solids and the ground.

Only operations that IEEE 754 rounds exactly (+ - * / sqrt, comparisons, where) are used on tensors, here and in shading, and no sums
over a dimension: so the result has the same bits whatever the chunk, the number of threads and the vector width.

Shape letters: S scenes, R rays, K solids. A vector over rays is a tensor [3, S, R].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from m3tl_cli.data.layouts import GROUND, LANE_MARK, PAVEMENT, ROAD, SKY, Scene, Solid

Components = tuple[Tensor, Tensor, Tensor]

KINDS = ("box", "ellipsoid", "cylinder")
PLANE, NOTHING = len(KINDS), len(KINDS) + 1  # what a ray may meet besides solids
TEXTURES = ("plain", "facade", "vehicle", "cabin", "foliage", "person")
NEAREST = 0.05  # metres along the ray, below which nothing is met
LINE = 0.14  # half width of lane marks, metres: wider than real ones, so that they can be seen at 64 pixels


@dataclass(frozen=True)
class World:
    """Scenes of one chunk as tensors.

    Args:
        kind: [K] kind of the solids in slot k, the same in every scene.
        exists: [S, K] whether scene s has a solid in slot k.
        centre, half: [S, K, 3]. axes: [S, K, 3, 3], columns are the solid's own axes.
        table: [S, K + 2, F] what a hit reads of a solid, of the ground (row K) and of the sky (row K + 1): class, object (-1:
            none), kind, texture, reflectivity, colour (3), centre (3), half (3), axes (9).
        road: [9, S, 1]: half width, pavement, crossing's start and end, zebra, dash, phase, edges, asphalt.
    """

    kind: tuple[int, ...]
    exists: Tensor
    centre: Tensor
    half: Tensor
    axes: Tensor
    table: Tensor
    road: Tensor


@dataclass(frozen=True)
class Hits:
    """What each ray met.

    Args:
        distance: [S, R] in units of the ray's direction; infinite where it met nothing.
        position: [3, S, R] in the world, metres. local: the same in the solid's own axes, from its centre.
        normal: [3, S, R] unit, in the world, towards the ray's origin; NaN where it met nothing. local_normal: in the solid's axes.
        class_id: [S, R] index into the classes. object_id: -1 for ground and sky. kind: index into `KINDS`, or PLANE, or NOTHING.
        texture: Index into `TEXTURES`. reflectivity: in [0, 1].
        colour: [3, S, R] albedo before texture. half: [3, S, R] of the solid.
    """

    distance: Tensor
    position: Tensor
    local: Tensor
    normal: Tensor
    local_normal: Tensor
    class_id: Tensor
    object_id: Tensor
    kind: Tensor
    texture: Tensor
    reflectivity: Tensor
    colour: Tensor
    half: Tensor


def build_world(scenes: Sequence[Scene]) -> World:
    """Pack scenes; a slot holds one kind of solid."""
    slots: list[list[Solid | None]] = [[] for _ in scenes]
    kinds: list[int] = []
    for kind, name in enumerate(KINDS):
        own = [[solid for solid in scene.solids if solid.shape == name] for scene in scenes]
        most = max(map(len, own))
        kinds += [kind] * most
        for slot, solids in zip(slots, own, strict=True):
            slot += [*solids, *([None] * (most - len(solids)))]
    absent = [0.0] * 14 + [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    rows = []
    for scene, slot in zip(scenes, slots, strict=True):
        ground = [GROUND, -1.0, PLANE, 0.0, 0.25, *scene.road.colour, *absent[8:]]
        sky = [SKY, -1.0, NOTHING, 0.0, 0.0, *absent[5:]]
        rows.append([*(absent if s is None else _row(s) for s in slot), ground, sky])
    table = torch.tensor(rows, dtype=torch.float32)
    count = len(kinds)
    road = torch.tensor(
        [
            [r.half_width, r.pavement, *r.crossing, r.zebra, r.dash, r.phase, float(r.edges), r.asphalt]
            for r in (scene.road for scene in scenes)
        ]
    )
    return World(
        kind=tuple(kinds),
        exists=torch.tensor([[s is not None for s in slot] for slot in slots], dtype=torch.bool).reshape(len(scenes), count),
        centre=table[:, :count, 8:11],
        half=table[:, :count, 11:14],
        axes=table[:, :count, 14:23].reshape(len(scenes), count, 3, 3),
        table=table,
        road=road.T[..., None].contiguous(),
    )


def _row(solid: Solid) -> list[float]:
    axes = [a for row in solid.axes for a in row]
    paint = [KINDS.index(solid.shape), TEXTURES.index(solid.texture), solid.reflectivity, *solid.colour]
    return [solid.class_id, solid.object_id, *paint, *solid.centre, *solid.half, *axes]


def in_view(world: World, position: Tensor, axes: Tensor, tangent: Tensor) -> Tensor:
    """Which solids may be seen by a camera: their bounding sphere touches its pyramid of view.

    Args:
        world: K solids in S scenes.
        position: [S, 3] of the camera.
        axes: [S, 3, 3], rows right, down, forward.
        tangent: [S] of half the angle of view.

    Returns:
        [S, K] bool, False also where there is no solid.
    """
    x, y, z = (_dot(_parts(axes[:, None, i]), _parts(world.centre - position[:, None])) for i in range(3))
    hx, hy, hz = _parts(world.half)
    radius = torch.sqrt(hx * hx + hy * hy + hz * hz)
    t = tangent[:, None]
    reach = radius * torch.sqrt(1 + t * t) + t * z
    return world.exists & (z > -radius) & (x.abs() < reach) & (y.abs() < reach)


def first_hit(world: World, candidates: Tensor, origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Find the nearest surface on each ray.

    Args:
        world: K solids in S scenes.
        candidates: [S, K] bool; other solids are passed over.
        origin: [3, S, 1], or [3, S, R] for rays with origins of their own.
        direction: [3, S, R], of any length.

    Returns:
        Distance [S, R] in units of the direction's length, infinite where nothing is met; and the slot [S, R] of what is met: K is
        the ground, K + 1 nothing.
    """
    count = len(world.kind)
    down = direction[2]
    ground = -origin[2] / torch.where(down < 0, down, -torch.ones_like(down))
    met = (down < 0) & (ground > NEAREST)
    best = torch.where(met, ground, torch.inf)
    slot = torch.where(met, count, count + 1)
    for k in range(count):
        rows = candidates[:, k].nonzero()[:, 0]
        if not len(rows):
            continue
        every = len(rows) == len(best)
        o, d = (origin, direction) if every else (origin[:, rows], direction[:, rows])
        near, hit = _near(world, k, rows, o, d)
        old = best if every else best[rows]
        nearer = hit & (near < old)
        if every:
            best = torch.where(nearer, near, best)
            slot = torch.where(nearer, k, slot)
        else:
            best[rows] = torch.where(nearer, near, old)
            slot[rows] = torch.where(nearer, k, slot[rows])
    return best, slot


def any_hit(world: World, candidates: Tensor, origin: Tensor, direction: Tensor) -> Tensor:
    """Whether anything but the ground stands in a ray's way, [S, R]; arguments as for `first_hit`, directions may be [3, S, 1]."""
    blocked = torch.zeros(origin.shape[1:], dtype=torch.bool)
    for k in range(len(world.kind)):
        rows = candidates[:, k].nonzero()[:, 0]
        if len(rows):
            _, hit = _near(world, k, rows, origin[:, rows], direction[:, rows])
            blocked[rows] |= hit
    return blocked


def describe(world: World, origin: Tensor, direction: Tensor, distance: Tensor, slot: Tensor) -> Hits:
    """Work out what `first_hit` met: place, normal, class, material."""
    read = world.table.permute(2, 0, 1).contiguous()

    def field(column: int) -> Tensor:
        return read[column].gather(1, slot)

    kind = field(2).long()
    nothing = kind == NOTHING
    reach = torch.where(nothing, 0.0, distance)
    position = origin + direction * reach
    half = torch.stack([field(11 + i) for i in range(3)])
    axes = [[field(14 + 3 * i + j) for j in range(3)] for i in range(3)]
    offset = [position[i] - field(8 + i) for i in range(3)]
    local = torch.stack([_dot((axes[0][j], axes[1][j], axes[2][j]), (offset[0], offset[1], offset[2])) for j in range(3)])
    own = _local_normal(kind, local, half)
    normal = torch.stack([_dot((axes[i][0], axes[i][1], axes[i][2]), (own[0], own[1], own[2])) for i in range(3)])
    class_id = field(0).long()
    return Hits(
        distance=distance,
        position=position,
        local=local,
        normal=torch.where(nothing, torch.nan, normal),
        local_normal=own,
        class_id=torch.where(kind == PLANE, ground_class(world.road, position[0], position[1], class_id), class_id),
        object_id=field(1).long(),
        kind=kind,
        texture=field(3).long(),
        reflectivity=field(4),
        colour=torch.stack([field(5 + i) for i in range(3)]),
        half=half,
    )


def ground_class(road: Tensor, x: Tensor, y: Tensor, ground: Tensor) -> Tensor:
    """Class of points of the ground plane: road, lane mark, pavement, or `ground` beside them.

    Args:
        road: [9, S, 1], see `World`.
        x: [S, R] metres.
        y: The same.
        ground: [S, R] class where no road is.
    """
    half_width, pavement, start, end, zebra, dash, phase, edges, _ = road
    across = x.abs()
    junction = (start < end) & (y > start) & (y < end)
    along = across < half_width
    on_road = along | junction
    beside = (across < half_width + pavement) | ((start < end) & (y > start - pavement) & (y < end + pavement))
    turn = (y + phase) / (2 * dash)
    centre = (across < LINE) & (turn - torch.floor(turn) < 0.5)
    edge = (edges > 0) & ((across - (half_width - 0.3)).abs() < LINE)
    stripe = x / 1.2
    bars = (y > zebra) & (y < zebra + 3.0) & (stripe - torch.floor(stripe) < 0.5) & (across < half_width - 0.3)
    mark = along & ~junction & ((bars) | ((centre | edge) & ~((y > zebra - 1.0) & (y < zebra + 4.0))))
    result = torch.where(beside & (pavement > 0) & (half_width > 0), PAVEMENT, ground)
    return torch.where(mark, LANE_MARK, torch.where(on_road & (half_width > 0), ROAD, result))


def _near(world: World, k: int, rows: Tensor, origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays enter the solids of slot k in scenes `rows`, and whether they do."""
    centre, half = world.centre[rows, k, :, None], world.half[rows, k, :, None]
    offset = (origin[0] - centre[:, 0], origin[1] - centre[:, 1], origin[2] - centre[:, 2])
    ray = (direction[0], direction[1], direction[2])
    h = (half[:, 0], half[:, 1], half[:, 2])
    if world.kind[k] == 0:
        axes = world.axes[rows, k, :, :, None]
        columns = [(axes[:, 0, j], axes[:, 1, j], axes[:, 2, j]) for j in range(3)]
        o = (_dot(columns[0], offset), _dot(columns[1], offset), _dot(columns[2], offset))
        d = (_dot(columns[0], ray), _dot(columns[1], ray), _dot(columns[2], ray))
        return _box(o, d, h)
    return _ROUND[world.kind[k]](offset, ray, h)


def _box(o: Components, d: Components, h: Components) -> tuple[Tensor, Tensor]:
    """The slab method: the last entry into, and the first exit from, three pairs of planes."""
    slabs = [_slab(o[i], d[i], h[i]) for i in range(3)]
    near = torch.maximum(torch.maximum(slabs[0][0], slabs[1][0]), slabs[2][0])
    far = torch.minimum(torch.minimum(slabs[0][1], slabs[1][1]), slabs[2][1])
    return near, (near < far) & (near > NEAREST)


def _slab(o: Tensor, d: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    inverse = 1 / torch.where(d.abs() < 1e-9, 1e-9, d)  # parallel rays: so slow that the slab is for ever, or never
    one, other = (-h - o) * inverse, (h - o) * inverse
    return torch.minimum(one, other), torch.maximum(one, other)


def _ellipsoid(o: Components, d: Components, h: Components) -> tuple[Tensor, Tensor]:
    """The unit sphere, after dividing by the radii."""
    u = (o[0] / h[0], o[1] / h[1], o[2] / h[2])
    v = (d[0] / h[0], d[1] / h[1], d[2] / h[2])
    a, b, c = _dot(v, v), _dot(u, v), _dot(u, u) - 1
    inside = b * b - a * c
    near = (-b - torch.sqrt(inside.clamp(min=0))) / a
    return near, (inside > 0) & (near > NEAREST)


def _cylinder(o: Components, d: Components, h: Components) -> tuple[Tensor, Tensor]:
    """An endless upright cylinder cut by a slab."""
    a = (d[0] * d[0] + d[1] * d[1]).clamp(min=1e-12)
    b = o[0] * d[0] + o[1] * d[1]
    c = o[0] * o[0] + o[1] * o[1] - h[0] * h[0]
    inside = b * b - a * c
    root = torch.sqrt(inside.clamp(min=0))
    low, high = _slab(o[2], d[2], h[2])
    near, far = torch.maximum((-b - root) / a, low), torch.minimum((-b + root) / a, high)
    return near, (inside > 0) & (near < far) & (near > NEAREST)


_ROUND: dict[int, Callable[[Components, Components, Components], tuple[Tensor, Tensor]]] = {1: _ellipsoid, 2: _cylinder}


def _local_normal(kind: Tensor, local: Tensor, half: Tensor) -> Tensor:
    """Outward unit normal in the solid's own axes, [3, S, R]; up for the ground."""
    safe = torch.where(half > 0, half, 1.0)
    share = (local / safe).abs()
    sign = torch.where(local < 0, -1.0, 1.0)
    x_wins = (share[0] >= share[1]) & (share[0] >= share[2])
    y_wins = ~x_wins & (share[1] >= share[2])
    box = sign * torch.stack([x_wins, y_wins, ~x_wins & ~y_wins])

    round_ = local / (safe * safe)
    round_ = round_ / torch.sqrt(_dot(_first(round_), _first(round_))).clamp(min=1e-12)

    around = torch.sqrt(local[0] * local[0] + local[1] * local[1]).clamp(min=1e-12)
    cap = share[2] > around / safe[0]
    flat = torch.zeros_like(around)
    cylinder = torch.stack(
        [
            torch.where(cap, flat, local[0] / around),
            torch.where(cap, flat, local[1] / around),
            torch.where(cap, sign[2], flat),
        ]
    )
    up = torch.stack([flat, flat, flat + 1])
    return torch.where(kind == 0, box, torch.where(kind == 1, round_, torch.where(kind == 2, cylinder, up)))


def _first(vectors: Tensor) -> Components:
    """Parts of a tensor of vectors [3, ...]."""
    return vectors[0], vectors[1], vectors[2]


def _parts(vectors: Tensor) -> Components:
    """Parts of a tensor of vectors [..., 3]."""
    return vectors[..., 0], vectors[..., 1], vectors[..., 2]


def _dot(a: Components, b: Components) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
