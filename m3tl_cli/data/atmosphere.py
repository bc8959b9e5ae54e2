"""What weather and light do to a scene: numbers for shading and for the sensors. Colours are linear intensities, about 1 in sunlight."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

Colour = tuple[float, float, float]

WEATHERS = ("clear", "rain", "fog")
LIGHTS = ("day", "dusk", "night")


@dataclass(frozen=True)
class Atmosphere:
    """Light and air of one scene.

    Args:
        to_sun: Unit vector in world axes.
        sun: Direct light; zeros where clouds, fog or night hide the sun.
        ambient: Light from everywhere.
        zenith: Sky overhead. horizon: sky at eye level.
        extinction: Of visible light by the air, per metre.
        haze: Colour that the air takes on.
        headlights: Strength of the own headlights. lamps: of the street lamps.
        wetness: Of the ground, in [0, 1].
        noise: Standard deviation of the camera's noise after exposure, in units of the full scale.
        lidar_extinction: Of the LiDAR's light by the air, per metre.
        lidar_dropout: Probability that a ray is lost for no reason of range.
    """

    to_sun: tuple[float, float, float]
    sun: Colour
    ambient: Colour
    zenith: Colour
    horizon: Colour
    extinction: float
    haze: Colour
    headlights: float
    lamps: float
    wetness: float
    noise: float
    lidar_extinction: float
    lidar_dropout: float


def draw_atmosphere(weather: str, light: str, lamps: bool, rng: random.Random) -> Atmosphere:
    """Draw the atmosphere of a scene.

    Args:
        weather: One of `WEATHERS`.
        light: One of `LIGHTS`.
        lamps: Whether the street has lamps; they burn at dusk and at night.
        rng: Source of what differs between scenes of one weather and light.
    """
    elevation = math.radians({"day": rng.uniform(30, 65), "dusk": rng.uniform(6, 14), "night": 35.0}[light])
    azimuth = rng.uniform(-math.pi, math.pi)
    to_sun = (math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth), math.sin(elevation))
    sun, ambient, zenith, horizon = {
        "day": ((1.0, 0.94, 0.82), (0.30, 0.34, 0.40), (0.10, 0.24, 0.58), (0.55, 0.66, 0.80)),
        "dusk": ((0.62, 0.32, 0.14), (0.15, 0.13, 0.16), (0.06, 0.08, 0.22), (0.72, 0.38, 0.20)),
        "night": ((0.012, 0.014, 0.020), (0.008, 0.009, 0.014), (0.002, 0.003, 0.008), (0.008, 0.009, 0.016)),
    }[light]
    brightness = {"day": 1.0, "dusk": 0.38, "night": 0.012}[light]  # of an overcast sky
    if weather != "clear":
        grey = {"rain": (0.44, 0.48, 0.53), "fog": (0.62, 0.64, 0.66)}[weather]
        sun = (0.0, 0.0, 0.0)
        ambient = _scaled(grey, 1.1 * brightness)
        horizon = _scaled(grey, 1.15 * brightness)
        zenith = _scaled(grey, 0.85 * brightness)
    visibility = {"clear": 2000.0, "rain": rng.uniform(120, 250), "fog": rng.uniform(18, 40)}[weather]
    return Atmosphere(
        to_sun=to_sun,
        sun=sun,
        ambient=ambient,
        zenith=zenith,
        horizon=horizon,
        extinction=3.0 / visibility,  # a twentieth of the contrast is left at the visibility (Koschmieder)
        haze=horizon,
        headlights={"day": 0.0, "dusk": 0.25, "night": 0.9}[light],
        lamps={"day": 0.0, "dusk": 0.10, "night": 0.16}[light] if lamps else 0.0,
        wetness=rng.uniform(0.6, 1.0) if weather == "rain" else 0.0,
        noise={"day": 0.012, "dusk": 0.03, "night": 0.06}[light],
        lidar_extinction={"clear": 0.0, "rain": 0.006, "fog": 0.02}[weather],
        lidar_dropout={"clear": 0.02, "rain": 0.10, "fog": 0.06}[weather],
    )


def _scaled(colour: Colour, factor: float) -> Colour:
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)
