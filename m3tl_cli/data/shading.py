"""What the camera sees of a hit: texture, light and shadow, wet road, fog, night and noise. Linear light until the last step.

Exactly rounded operations only, see `raycast`; colours are tensors [3, S, R].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from m3tl_cli.data.layouts import BUILDING, GROUND, LANE_MARK, PAVEMENT, ROAD, Scene
from m3tl_cli.data.raycast import NOTHING, PLANE, TEXTURES, Hits, World, any_hit
from m3tl_cli.data.sensors import attenuation

FACADE, VEHICLE, CABIN, FOLIAGE, PERSON = (TEXTURES.index(name) for name in TEXTURES[1:])
NUM_CELLS = 1024  # of the table of random numbers from which surfaces are textured
SKY_DISTANCE = 300.0  # metres of air before the sky
LAMP_SPACING = 24.0  # metres between street lamps


def shade(scenes: Sequence[Scene], world: World, hits: Hits, direction: Tensor, cells: Tensor, random: Tensor) -> Tensor:
    """Colour of each ray.

    Args:
        scenes: S scenes.
        world: The same as tensors.
        hits: What the rays met.
        direction: [3, S, R], R pixels of a square image, row by row.
        cells: [S, NUM_CELLS] uniform numbers of the scene, for textures.
        random: [3, 2, S, R] uniform numbers, for the sensor's noise.

    Returns:
        uint8 [S, 3, R].
    """
    air = {
        name: torch.tensor([getattr(s.atmosphere, name) for s in scenes])
        for name in ("to_sun", "sun", "ambient", "zenith", "horizon", "extinction", "haze", "headlights", "lamps", "wetness", "noise")
    }
    column = {name: value.T[..., None] if value.ndim == 2 else value[:, None] for name, value in air.items()}
    length = torch.sqrt(direction[0] * direction[0] + direction[1] * direction[1] + direction[2] * direction[2])
    view = direction / length
    nothing = hits.kind == NOTHING
    normal = torch.nan_to_num(hits.normal)
    metres = torch.where(nothing, SKY_DISTANCE, hits.distance * length)

    sky = _sky(view, column["zenith"], column["horizon"], column["to_sun"], column["sun"])
    dark = 1 - (3 * column["ambient"].amax(dim=0)).clamp(max=1)
    albedo, glass, glow = _paint(world, hits, cells, metres, dark)
    wet = torch.where(hits.kind == PLANE, column["wetness"], 0.0)
    albedo = albedo * (1 - 0.55 * wet)

    to_sun = column["to_sun"]
    facing = (normal[0] * to_sun[0] + normal[1] * to_sun[1] + normal[2] * to_sun[2]).clamp(min=0)
    facing = torch.where(_in_shadow(world, hits, normal, to_sun, column["sun"]), 0.0, facing)
    cosine = -(normal[0] * view[0] + normal[1] * view[1] + normal[2] * view[2])
    light = column["ambient"] * (0.72 + 0.28 * normal[2]) + column["sun"] * facing
    light = light + _headlights(scenes, view, cosine, metres, column["headlights"]) + _street_lamps(world, hits, column["lamps"])
    colour = albedo * light

    # What mirrors the sky: windows, and a wet road under a grazing view.
    grazing = (1 - cosine.clamp(0, 1)) * (1 - cosine.clamp(0, 1))
    mirror = torch.where(glass, 0.35 + 0.4 * grazing, wet * (0.06 + 0.5 * grazing * grazing))
    colour = colour * (1 - mirror) + mirror * (0.4 * column["horizon"] + 0.6 * column["zenith"])
    colour = torch.where(nothing, sky, colour + glow)

    left = attenuation(column["extinction"], metres)
    colour = colour * left + column["haze"] * (1 - left)
    backscatter = column["headlights"] * (1 - left) * 0.10  # the own headlights in the fog
    colour = colour + backscatter + _rain(column["wetness"], column["horizon"], cells, hits.kind.shape)

    seen = torch.sqrt(colour.clamp(0, 1))  # gamma 2
    noise = (random[:, 0] + random[:, 1] - 1) * (math.sqrt(6) * column["noise"])
    return torch.floor((seen + noise).clamp(0, 1) * 255 + 0.5).to(torch.uint8).transpose(0, 1)


def _sky(view: Tensor, zenith: Tensor, horizon: Tensor, to_sun: Tensor, sun: Tensor) -> Tensor:
    up = torch.sqrt(view[2].clamp(0, 1))
    near = (view[0] * to_sun[0] + view[1] * to_sun[1] + view[2] * to_sun[2]).clamp(min=0)
    halo = near * near * near * near
    halo = halo * halo * halo * halo
    return horizon * (1 - up) + zenith * up + 0.5 * sun * halo


def _paint(world: World, hits: Hits, cells: Tensor, metres: Tensor, dark: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Albedo [3, S, R], whether a hit is glass [S, R], and what it sends out itself [3, S, R]."""
    albedo = hits.colour
    x, y, z = hits.local
    hx, hy, hz = hits.half
    nx, ny, nz = hits.local_normal
    side = nz.abs() < 0.5
    ends = ny.abs() > 0.5

    # The ground: what the road is made of, and grain that fades where a pixel covers much of it.
    asphalt = world.road[8]
    class_id, ground = hits.class_id, hits.kind == PLANE
    near = (1 - metres / 30).clamp(min=0)
    grain = (_noise(cells, x * 4, y * 4, z) - 0.5) * near + (_noise(cells, x * 0.5, y * 0.3, z) - 0.5)
    for class_number, grey in ((ROAD, asphalt), (PAVEMENT, 0.30 + 0 * asphalt), (LANE_MARK, 0.75 + 0 * asphalt)):
        albedo = torch.where(ground & (class_id == class_number), grey, albedo)
    joint = x * 0.8 - torch.floor(x * 0.8)
    albedo = torch.where(ground & (class_id == PAVEMENT) & (joint < 0.12), albedo * 0.8, albedo)
    rough = torch.where(class_id == GROUND, 0.5, 0.22)
    albedo = torch.where(ground, albedo * (1 + rough * grain), albedo)

    # Houses: rows of windows, and a door level without them.
    facade = (hits.texture == FACADE) & side
    along = torch.where(ends, x, y)
    column, row = along / 2.6, (z + hz) / 2.9
    across, above = column - torch.floor(column), row - torch.floor(row)
    window = facade & (across > 0.28) & (across < 0.74) & (above > 0.32) & (above < 0.80) & (metres < 55) & (z < hz - 0.4)
    lit = window & (_noise(cells, column, row, hits.object_id.float()) < 0.3)
    albedo = torch.where(window, 0.05, albedo)
    albedo = torch.where((class_id == BUILDING) & ~window, albedo * (1 + 0.12 * (_noise(cells, x * 2, y * 2, z * 2) - 0.5)), albedo)

    # Vehicles: wheels and their arches, lamps at both ends, glass above.
    body = hits.texture == VEHICLE
    reach = 0.30 * hy / 2.1 + 0.12
    turn_y, turn_z = y.abs() - 0.62 * hy, z + hz - 0.12
    wheel = body & (nx.abs() > 0.5) & (turn_y * turn_y + turn_z * turn_z < reach * reach)
    sill = body & side & (z < -0.72 * hz)
    albedo = torch.where(wheel | sill, 0.03, albedo)
    lamp = body & ends & (x.abs() > hx - 0.42) & (z + hz > 0.28) & (z + hz < 0.62)
    front = lamp & (ny > 0)
    cabin = hits.texture == CABIN
    pane = cabin & side & (z < 0.72 * hz) & (z > -0.85 * hz) & ((y.abs() > 0.14 * hy) | ends)
    albedo = torch.where(pane, 0.03, albedo)

    leaves = hits.texture == FOLIAGE
    albedo = torch.where(leaves, albedo * (0.55 + 0.9 * _noise(cells, x * 3, y * 3, z * 3)), albedo)
    trousers = (hits.texture == PERSON) & (z < -0.1 * hz)
    albedo = torch.where(trousers, 0.35 * albedo + 0.02, albedo)

    warm, white, red = (torch.tensor(c)[:, None, None] for c in ((0.48, 0.34, 0.13), (0.9, 0.9, 0.8), (0.55, 0.02, 0.02)))
    burning = 0.3 + 0.7 * dark
    glow = torch.where(front, white * burning, torch.where(lamp, red * burning, torch.where(lit, warm * dark, 0.0)))
    return albedo, (window & ~(lit & (dark > 0.5))) | pane, glow


def _noise(cells: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """A random number in [0, 1) for the unit cube that (x, y, z) lies in, [S, R]."""
    a, b, c = (torch.floor(v).clamp(-1e6, 1e6).long() for v in (x, y, z))
    place = (a * 73856093) ^ (b * 19349663) ^ (c * 83492791)  # Teschner et al. 2003, spatial hashing
    return cells.gather(1, (place ^ (place >> 11)) & (NUM_CELLS - 1))


def _in_shadow(world: World, hits: Hits, normal: Tensor, to_sun: Tensor, sun: Tensor) -> Tensor:
    """Whether a solid stands between the hit and the sun; looked for only in scenes where the sun shines."""
    shadow = torch.zeros(hits.kind.shape, dtype=torch.bool)
    rows = (sun.amax(dim=0)[:, 0] > 0.05).nonzero()[:, 0]
    if len(rows):
        start = hits.position[:, rows] + 0.03 * normal[:, rows]
        one = World(
            kind=world.kind,
            exists=world.exists[rows],
            centre=world.centre[rows],
            half=world.half[rows],
            axes=world.axes[rows],
            table=world.table[rows],
            road=world.road[:, rows],
        )
        shadow[rows] = any_hit(one, one.exists, start, to_sun[:, rows].expand_as(start))
    return shadow


def _headlights(scenes: Sequence[Scene], view: Tensor, cosine: Tensor, metres: Tensor, strength: Tensor) -> Tensor:
    """A cone of light along the camera's axis that falls off with squared distance, [S, R]."""
    forward = torch.tensor([s.camera.axes[2] for s in scenes]).T[..., None]
    aligned = (view[0] * forward[0] + view[1] * forward[1] + view[2] * forward[2]).clamp(min=0)
    cone = aligned * aligned * aligned * aligned
    return strength * cone * cone * cosine.clamp(0.05, 1) / (0.4 + metres * metres / 81)


def _street_lamps(world: World, hits: Hits, strength: Tensor) -> Tensor:
    """Pools of warm light under lamps along both kerbs, [3, S, R]."""
    x, y, z = hits.position
    turn = y / LAMP_SPACING
    along = (turn - torch.floor(turn) - 0.5) * LAMP_SPACING
    across = x.abs() - world.road[0]
    rise = z - 5.0
    pool = strength * 16 / (8 + along * along + across * across + 0.4 * rise * rise)
    return torch.stack([pool, 0.72 * pool, 0.40 * pool])


def _rain(wetness: Tensor, horizon: Tensor, cells: Tensor, shape: torch.Size) -> Tensor:
    """Bright upright streaks before the picture, [3, S, R]."""
    size = math.isqrt(shape[1])
    row, column = (t.flatten().float() for t in torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij"))
    shift = cells[:, column.long()] * 9
    drop = _noise(cells, column.expand(shape), (row + shift) / 5, torch.full(shape, 7.0)) < 0.035
    return torch.where(drop & (wetness > 0), 0.18, 0.0) * horizon
