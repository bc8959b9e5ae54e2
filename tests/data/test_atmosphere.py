"""Weather and light."""

from __future__ import annotations

import random

import numpy as np
import pytest

from m3tl_cli.data.atmosphere import LIGHTS, WEATHERS, draw_atmosphere


@pytest.mark.parametrize("weather", WEATHERS)
@pytest.mark.parametrize("light", LIGHTS)
def test_every_combination_has_light_and_a_sun_above_the_horizon(weather: str, light: str) -> None:
    air = draw_atmosphere(weather, light, True, random.Random(0))
    assert np.linalg.norm(air.to_sun) == pytest.approx(1)
    assert air.to_sun[2] > 0
    assert min(air.ambient) > 0
    assert (max(air.sun) > 0) == (weather == "clear")
    assert (air.wetness > 0) == (weather == "rain")
    assert (air.lamps > 0) == (light != "day")
    assert (air.headlights > 0) == (light != "day")


def test_fog_is_thicker_for_the_camera_than_for_the_lidar() -> None:
    clear, rain, fog = (draw_atmosphere(w, "day", False, random.Random(0)) for w in WEATHERS)
    assert clear.extinction < rain.extinction < fog.extinction
    assert clear.lidar_extinction < rain.lidar_extinction < fog.lidar_extinction < fog.extinction / 2


def test_darkness_brings_noise() -> None:
    day, dusk, night = (draw_atmosphere("clear", light, False, random.Random(0)).noise for light in LIGHTS)
    assert day < dusk < night
