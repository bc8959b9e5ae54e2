"""What stands where: a street in town, in a suburb or in the country, or floating shapes, as a list of solids, a road and two sensors.

World axes: x right, y along the road, z up, metres; the ground is z = 0 and the camera stands above x = lane, y = 0. Plain Python,
deterministic by seed: nothing here knows tensors.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Literal

from m3tl_cli.core.contracts import stable_seed
from m3tl_cli.data.atmosphere import LIGHTS, WEATHERS, Atmosphere, Colour, draw_atmosphere

Vector = tuple[float, float, float]
Matrix = tuple[Vector, Vector, Vector]

LEVEL: Matrix = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))

CLASSES = ("ground", "road", "lane_mark", "pavement", "building", "vehicle", "person", "tree", "sky")
GROUND, ROAD, LANE_MARK, PAVEMENT, BUILDING, VEHICLE, PERSON, TREE, SKY = range(len(CLASSES))

LAYOUTS = ("urban", "suburban", "rural")
SHAPES = "shapes"  # the abstract domain
STREETS = tuple(f"{layout}-{weather}-{light}" for layout in LAYOUTS for weather in WEATHERS for light in LIGHTS)
DOMAINS = (*STREETS, SHAPES)

Shape = Literal["box", "ellipsoid", "cylinder"]
Texture = Literal["plain", "facade", "vehicle", "cabin", "foliage", "person"]


@dataclass(frozen=True)
class Solid:
    """A convex body.

    Args:
        shape: box; ellipsoid with axes along the world's; upright cylinder.
        centre: Metres.
        half: Half edges of a box; radii of an ellipsoid; (radius, radius, half height) of a cylinder.
        class_id: Index into `CLASSES`.
        object_id: Number of the object that it is a part of, unique among objects of a scene.
        colour: Albedo, linear. reflectivity: for the LiDAR, in [0, 1].
        texture: How its surface is painted.
        axes: Columns are its own axes in world axes; only a box may be turned.
    """

    shape: Shape
    centre: Vector
    half: Vector
    class_id: int
    object_id: int
    colour: Colour
    reflectivity: float
    texture: Texture = "plain"
    axes: Matrix = LEVEL


@dataclass(frozen=True)
class Road:
    """What the ground plane is painted with; metres.

    Args:
        half_width: Of the road, around x = 0; negative where there is none.
        pavement: Width of the strip on either side.
        crossing: Range of y of a road that crosses; empty where its end is not above its start.
        zebra: y at which a zebra crossing begins; far behind where there is none.
        dash: Length of a dash of the centre line and of the gap after it. phase: where along y the dashes begin.
        edges: Whether lines mark the road's edges.
        colour: Of the ground beside the road; asphalt: of the road.
    """

    half_width: float
    pavement: float
    crossing: tuple[float, float]
    zebra: float
    dash: float
    phase: float
    edges: bool
    colour: Colour
    asphalt: float


@dataclass(frozen=True)
class Pose:
    """Where a sensor is and looks.

    Args:
        position: In the world.
        axes: Rows are the sensor's own axes in world axes.
    """

    position: Vector
    axes: Matrix


@dataclass(frozen=True)
class Scene:
    """Everything that decides a sample.

    Args:
        seed: Of the noise of its sensors and surfaces.
        camera: Axes x right, y down, z forward.
        focal: Focal length in units of the image's width (and height).
        lidar: Pose relative to the camera, in camera axes; its own axes are x forward, y left, z up.
    """

    seed: int
    solids: tuple[Solid, ...]
    road: Road
    atmosphere: Atmosphere
    camera: Pose
    focal: float
    lidar: Pose


def draw_scene(domain: str, number: int, seed: int) -> Scene:
    """Draw scene `number` of a domain; each combination of the three arguments is its own scene, whatever else is drawn."""
    own_seed = stable_seed(seed, "scene", domain, number)
    rng = random.Random(own_seed)
    if domain == SHAPES:
        stage = _shapes(rng)
        atmosphere = draw_atmosphere("clear", "day", False, rng)
    else:
        layout, weather, light = domain.split("-")
        stage = {"urban": _urban, "suburban": _suburban, "rural": _rural}[layout](rng)
        atmosphere = draw_atmosphere(weather, light, layout != "rural", rng)
    yaw, pitch, roll = (math.radians(a) for a in (rng.uniform(-24, 24), rng.uniform(-10, 5), rng.uniform(-3, 3)))
    camera = Pose((stage.lane + rng.uniform(-0.8, 0.8), 0.0, rng.uniform(1.35, 1.95)), _camera_axes(yaw, pitch, roll))
    return Scene(
        seed=own_seed,
        solids=tuple(stage.solids),
        road=stage.road,
        atmosphere=atmosphere,
        camera=camera,
        focal=0.5 / math.tan(math.radians(rng.uniform(62, 80)) / 2),
        lidar=_mount(rng),
    )


@dataclass
class _Stage:
    """A scene in the making."""

    road: Road
    lane: float
    solids: list[Solid] = field(default_factory=list)
    num_objects: int = 0
    taken: list[tuple[float, float, float]] = field(default_factory=list)  # x, y and radius of what stands on the ground

    def new_object(self) -> int:
        self.num_objects += 1
        return self.num_objects - 1

    def claim(self, x: float, y: float, radius: float) -> bool:
        """Take a disc of the ground unless someone stands there."""
        if any((x - a) ** 2 + (y - b) ** 2 < (radius + r) ** 2 for a, b, r in self.taken):
            return False
        self.taken.append((x, y, radius))
        return True

    def crosses(self, start: float, end: float) -> bool:
        """Whether a range of y touches the crossing road or its pavements."""
        low, high = self.road.crossing
        return low < high and start < high + self.road.pavement and end > low - self.road.pavement


def _urban(rng: random.Random) -> _Stage:
    lane = rng.uniform(3.0, 3.5)
    start = rng.uniform(18, 45)
    crossing = (start, start + rng.uniform(7, 11)) if rng.random() < 0.4 else (0.0, 0.0)
    zebra = crossing[0] - 5.0 if crossing[1] > 0 else (rng.uniform(9, 30) if rng.random() < 0.4 else -1e3)
    shade = rng.uniform(0.20, 0.30)
    road = Road(2 * lane, rng.uniform(2.5, 4.5), crossing, zebra, 3.0, rng.uniform(0, 6), True, (shade, shade, 0.9 * shade), 0.10)
    stage = _Stage(road, 0.5 * lane)
    edge = road.half_width + road.pavement
    for side in (-1, 1):
        y = rng.uniform(-14, -4)
        while y < 75:
            length = rng.uniform(9, 22)
            if not stage.crosses(y, y + length):
                _building(stage, side * (edge + rng.uniform(0, 1.2)), y, length, rng.uniform(9, 14), rng.uniform(8, 30), side, rng)
            y += length + (rng.uniform(2, 7) if rng.random() < 0.25 else 0.0)
    for _ in range(rng.randint(0, 4)):
        _vehicle(stage, rng.choice((-1, 1)) * (road.half_width - 1.15), _ahead(rng, 5, 45), rng, parked=True)
    for _ in range(rng.randint(0, 4)):
        _vehicle(stage, rng.choice((-0.5, 0.5)) * lane, _ahead(rng, 7, 50), rng)
    for _ in range(rng.randint(1, 7)):
        _person(stage, rng.choice((-1, 1)) * rng.uniform(road.half_width + 0.3, edge - 0.3), _ahead(rng, 4, 32), rng)
    if rng.random() < 0.5:
        _person(stage, rng.uniform(-1, 1) * road.half_width, _ahead(rng, 5, 25), rng)
    for _ in range(rng.randint(0, 5)):
        _tree(stage, rng.choice((-1, 1)) * (road.half_width + 0.8), rng.uniform(6, 50), rng.uniform(0.7, 1.0), rng)
    return stage


def _suburban(rng: random.Random) -> _Stage:
    lane = rng.uniform(3.2, 4.2)
    road = Road(lane, rng.uniform(1.4, 2.4), (0.0, 0.0), -1e3, 2.0, rng.uniform(0, 4), False, _grass(rng), 0.14)
    stage = _Stage(road, 0.5 * lane)
    edge = road.half_width + road.pavement
    for side in (-1, 1):
        y = rng.uniform(-6, 8)
        while y < 70:
            length = rng.uniform(8, 13)
            _building(stage, side * (edge + rng.uniform(3, 8)), y, length, rng.uniform(7, 10), rng.uniform(3, 5.5), side, rng, gable=True)
            y += length + rng.uniform(5, 14)
    for _ in range(rng.randint(0, 4)):
        _vehicle(stage, rng.choice((-1, 1)) * (road.half_width - 1.0), _ahead(rng, 5, 40), rng, parked=True)
    for _ in range(rng.randint(0, 3)):
        _vehicle(stage, rng.choice((-0.5, 0.5)) * lane, _ahead(rng, 8, 50), rng)
    for _ in range(rng.randint(0, 4)):
        _person(stage, rng.choice((-1, 1)) * rng.uniform(road.half_width + 0.2, edge), _ahead(rng, 4, 28), rng)
    for _ in range(rng.randint(3, 9)):
        _tree(stage, rng.choice((-1, 1)) * rng.uniform(edge + 1.5, edge + 9), rng.uniform(5, 55), rng.uniform(0.7, 1.3), rng)
    return stage


def _rural(rng: random.Random) -> _Stage:
    lane = rng.uniform(2.6, 3.4)
    road = Road(lane, 0.0, (0.0, 0.0), -1e3, 4.0, rng.uniform(0, 8), rng.random() < 0.5, _grass(rng), rng.uniform(0.13, 0.18))
    stage = _Stage(road, 0.5 * lane)
    for _ in range(rng.randint(0, 2)):
        side = rng.choice((-1, 1))
        offset = side * (lane + rng.uniform(5, 25))
        _building(stage, offset, rng.uniform(12, 60), rng.uniform(8, 20), rng.uniform(7, 11), rng.uniform(3, 6), side, rng, gable=True)
    for _ in range(rng.randint(0, 6)):
        _vehicle(stage, rng.choice((-0.5, 0.5)) * lane, _ahead(rng, 6, 50), rng)
    for _ in range(rng.randint(0, 2)):
        _person(stage, rng.choice((-1, 1)) * (lane + rng.uniform(-0.6, 1.0)), _ahead(rng, 5, 28), rng)
    for _ in range(rng.randint(4, 16)):
        _tree(stage, rng.choice((-1, 1)) * (lane + rng.uniform(2.5, 28)), rng.uniform(6, 75), rng.uniform(0.6, 1.9), rng)
    return stage


def _shapes(rng: random.Random) -> _Stage:
    """Boxes, spheres and cylinders that float over a floor before random walls. They take the class whose bodies they resemble: a wall
    building, a box vehicle, a cylinder person, a sphere tree, the floor ground."""

    def colour() -> Colour:
        return (rng.uniform(0.03, 0.9), rng.uniform(0.03, 0.9), rng.uniform(0.03, 0.9))

    stage = _Stage(Road(-1.0, 0.0, (0.0, 0.0), -1e3, 1.0, 0.0, False, colour(), 0.1), 0.0)
    for _ in range(rng.randint(1, 3)):
        y = rng.uniform(14, 45)
        centre, half = (rng.uniform(-0.8, 0.8) * y, y, rng.uniform(0, 6)), (rng.uniform(3, 14), 0.1, rng.uniform(2, 9))
        stage.solids.append(Solid("box", centre, half, BUILDING, stage.new_object(), colour(), rng.random(), axes=_any_axes(rng, 0.5)))
    for _ in range(rng.randint(2, 12)):
        y = 4 + 28 * rng.random() ** 1.5
        size = rng.uniform(0.3, 1.6)
        x, z = rng.uniform(-0.75, 0.75) * y, rng.uniform(size, 1.5 + 0.3 * y)
        if not stage.claim(x, y, 1.2 * size):
            continue
        bodies: tuple[tuple[Shape, int], ...] = (("box", VEHICLE), ("ellipsoid", TREE), ("cylinder", PERSON))
        shape, class_id = rng.choice(bodies)
        half = (size, size, size)
        if shape == "box":
            half = (size * rng.uniform(0.4, 1), size * rng.uniform(0.4, 1), size * rng.uniform(0.4, 1))
        elif shape == "cylinder":
            half = (0.5 * size, 0.5 * size, size)
        axes = _any_axes(rng, math.pi) if shape == "box" else LEVEL
        stage.solids.append(Solid(shape, (x, y, z), half, class_id, stage.new_object(), colour(), rng.random(), axes=axes))
    return stage


def _building(
    stage: _Stage, near: float, start: float, length: float, depth: float, height: float, side: int, rng: random.Random, gable: bool = False
) -> None:
    """A block whose front stands at x = `near`, from y = `start` on; with `gable`, a pitched roof along the road."""
    wall: Colour = rng.choice(
        ((0.42, 0.20, 0.14), (0.50, 0.44, 0.34), (0.38, 0.37, 0.36), (0.60, 0.56, 0.50), (0.30, 0.26, 0.24), (0.55, 0.42, 0.28))
    )
    wall = _tinted(wall, rng)
    x, y = near + side * depth / 2, start + length / 2
    number = stage.new_object()
    reflectivity = rng.uniform(0.25, 0.5)
    half = (depth / 2, length / 2, height / 2)
    stage.solids.append(Solid("box", (x, y, height / 2), half, BUILDING, number, wall, reflectivity, "facade"))
    if gable:
        # A square bar turned by 45 degrees, half sunk into the house: its upper half is the roof.
        edge = (depth / 2 + 0.3) / math.sqrt(2)
        turned = ((math.sqrt(0.5), 0.0, -math.sqrt(0.5)), (0.0, 1.0, 0.0), (math.sqrt(0.5), 0.0, math.sqrt(0.5)))
        roof = _tinted((0.26, 0.11, 0.08) if rng.random() < 0.7 else (0.12, 0.12, 0.13), rng)
        body = (edge, length / 2 + 0.2, edge)
        stage.solids.append(Solid("box", (x, y, height - 0.3), body, BUILDING, number, roof, 0.3, axes=turned))
    stage.taken.append((x, y, min(depth, length) / 2))


def _vehicle(stage: _Stage, x: float, y: float, rng: random.Random, parked: bool = False) -> None:
    """A car, van or lorry at (x, y) unless something stands there; on the right it drives away, on the left towards the camera."""
    kind = rng.choices(("car", "van", "lorry"), (0.72, 0.18, 0.10))[0]
    length, width, height = {"car": (4.3, 1.8, 1.45), "van": (5.2, 2.0, 2.3), "lorry": (7.5, 2.4, 3.1)}[kind]
    size = rng.uniform(0.92, 1.08)
    length, width, height = length * size, width * size, height * size
    if not stage.claim(x, y + length / 2, length / 2 + 0.3):
        return
    y += length / 2
    yaw = math.radians(rng.uniform(-4, 4) if parked else rng.gauss(0, 6)) + (math.pi if x < 0 else 0.0)
    axes = _upright(yaw)
    colour = rng.choice(
        (
            (0.55, 0.05, 0.05),
            (0.06, 0.10, 0.42),
            (0.72, 0.72, 0.72),
            (0.04, 0.04, 0.05),
            (0.32, 0.34, 0.36),
            (0.75, 0.60, 0.10),
            (0.06, 0.25, 0.12),
        )
    )
    colour = _tinted(colour, rng)
    number = stage.new_object()
    reflectivity = rng.uniform(0.35, 0.9)

    def part(texture: Texture, low: float, high: float, back: float, front: float, wide: float) -> None:
        """A box from `low` to `high`, and from `back` to `front` in shares of the length."""
        along = (back + front - 1) / 2 * length
        centre = (x + axes[0][1] * along, y + axes[1][1] * along, (low + high) / 2)
        half = (wide * width / 2, (front - back) / 2 * length, (high - low) / 2)
        stage.solids.append(Solid("box", centre, half, VEHICLE, number, colour, reflectivity, texture, axes))

    if kind == "car":
        part("vehicle", 0.18, 0.60 * height, 0.0, 1.0, 1.0)
        part("cabin", 0.60 * height, height, 0.10, 0.72, 0.88)
    elif kind == "van":
        part("vehicle", 0.22, 0.55 * height, 0.0, 1.0, 1.0)
        part("cabin", 0.55 * height, height, 0.0, 0.84, 0.96)
    else:
        part("vehicle", 0.30, height, 0.0, 0.74, 1.0)
        part("cabin", 0.30, 0.78 * height, 0.76, 1.0, 0.92)


def _person(stage: _Stage, x: float, y: float, rng: random.Random) -> None:
    """A standing person: a body and a head."""
    height = rng.uniform(1.5, 1.9)
    radius = rng.uniform(0.20, 0.28)
    if not stage.claim(x, y, radius + 0.2):
        return
    number = stage.new_object()
    clothes = (rng.uniform(0.03, 0.6), rng.uniform(0.03, 0.5), rng.uniform(0.03, 0.6))
    neck = 0.86 * height
    stage.solids.append(
        Solid("cylinder", (x, y, neck / 2), (radius, radius, neck / 2), PERSON, number, clothes, rng.uniform(0.2, 0.6), "person")
    )
    skin = _tinted((0.55, 0.36, 0.26), rng)
    stage.solids.append(Solid("ellipsoid", (x, y, neck + 0.1), (0.12, 0.12, 0.15), PERSON, number, skin, 0.4))


def _tree(stage: _Stage, x: float, y: float, size: float, rng: random.Random) -> None:
    """A trunk and a crown."""
    crown = (size * rng.uniform(1.1, 2.0), size * rng.uniform(1.1, 2.0), size * rng.uniform(1.3, 2.6))
    trunk = rng.uniform(1.4, 2.4) * max(size, 0.8)
    if not stage.claim(x, y, 0.5 * size):
        return
    number = stage.new_object()
    thick = 0.16 * size
    stage.solids.append(Solid("cylinder", (x, y, trunk / 2 + 0.3), (thick, thick, trunk / 2 + 0.3), TREE, number, (0.12, 0.08, 0.05), 0.3))
    leaves = _tinted(rng.choice(((0.07, 0.20, 0.05), (0.12, 0.25, 0.06), (0.05, 0.14, 0.06), (0.24, 0.20, 0.05))), rng)
    stage.solids.append(Solid("ellipsoid", (x, y, trunk + 0.8 * crown[2]), crown, TREE, number, leaves, rng.uniform(0.25, 0.5), "foliage"))


def _ahead(rng: random.Random, near: float, far: float) -> float:
    """A place along the road, more often near than far, as what is far covers few pixels."""
    return near + (far - near) * rng.random() ** 1.5


def _grass(rng: random.Random) -> Colour:
    return _tinted(rng.choice(((0.12, 0.22, 0.06), (0.16, 0.24, 0.08), (0.26, 0.24, 0.10))), rng)


def _tinted(colour: Colour, rng: random.Random) -> Colour:
    """The colour, up to a fifth lighter or darker and a tenth off in hue."""
    light = rng.uniform(0.8, 1.2)
    return tuple(min(0.95, c * light * rng.uniform(0.9, 1.1)) for c in colour)  # type: ignore[return-value]


def _upright(yaw: float) -> Matrix:
    """Axes of a box that is turned about the vertical; its own y axis points forward."""
    c, s = math.cos(yaw), math.sin(yaw)
    return ((c, -s, 0.0), (s, c, 0.0), (0.0, 0.0, 1.0))


def _product(a: Matrix, b: Matrix) -> Matrix:
    return tuple(tuple(sum(a[i][k] * b[k][j] for k in range(3)) for j in range(3)) for i in range(3))  # type: ignore[return-value]


def _any_axes(rng: random.Random, most: float) -> Matrix:
    """Turned about all three axes, by up to `most` radians about the upright one and half of it about the others."""
    a, b, c = rng.uniform(-most, most), rng.uniform(-most, most) / 2, rng.uniform(-most, most) / 2
    about_x = ((1.0, 0.0, 0.0), (0.0, math.cos(b), -math.sin(b)), (0.0, math.sin(b), math.cos(b)))
    about_y = ((math.cos(c), 0.0, math.sin(c)), (0.0, 1.0, 0.0), (-math.sin(c), 0.0, math.cos(c)))
    return _product(_upright(a), _product(about_x, about_y))


def _camera_axes(yaw: float, pitch: float, roll: float) -> Matrix:
    """Rows right, down, forward; `yaw` to the left, `pitch` up and `roll` anticlockwise, radians, from level along the road."""
    cy, sy, cp, sp, cr, sr = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch), math.cos(roll), math.sin(roll)
    right, up, forward = (cy, sy, 0.0), (sy * sp, -cy * sp, cp), (-sy * cp, cy * cp, sp)
    turned_right = tuple(cr * a + sr * b for a, b in zip(right, up, strict=True))
    turned_down = tuple(sr * a - cr * b for a, b in zip(right, up, strict=True))
    return (turned_right, turned_down, forward)  # type: ignore[return-value]


def _mount(rng: random.Random) -> Pose:
    """The LiDAR on the roof: above, beside and behind the camera, and never quite parallel to it."""
    yaw, pitch, roll = (math.radians(rng.uniform(-3, 3)) for _ in range(3))
    # Rows: the LiDAR's forward, left and up in camera axes (right, down, forward), each a little turned.
    level: Matrix = ((0.0, 0.0, 1.0), (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0))
    about_x = ((1.0, 0.0, 0.0), (0.0, math.cos(roll), -math.sin(roll)), (0.0, math.sin(roll), math.cos(roll)))
    about_y = ((math.cos(pitch), 0.0, math.sin(pitch)), (0.0, 1.0, 0.0), (-math.sin(pitch), 0.0, math.cos(pitch)))
    turned = _product(_upright(yaw), _product(about_y, about_x))
    return Pose((rng.uniform(-0.5, 0.5), rng.uniform(-0.6, -0.3), rng.uniform(-0.4, 0.0)), _product(turned, level))
