"""What light and air do to a picture."""

from __future__ import annotations

from dataclasses import replace

import torch

from m3tl_cli.data.layouts import BUILDING, SKY, VEHICLE, draw_scene
from m3tl_cli.data.render import render
from tests.data._build import SIZES, box, scene


def _pictures(domain: str) -> tuple[torch.Tensor, torch.Tensor]:
    out = render([draw_scene(domain, n, 8) for n in range(12)], **SIZES)
    return out["input.rgb"].float() / 255, out["target.segmentation"]


def _contrast(domain: str) -> float:
    """How well vehicles, people and trees stand out: distance of their mean colours from the rest, over the spread within."""
    rgb, classes = _pictures(domain)
    things = (classes >= VEHICLE) & (classes < SKY)
    pixels = rgb.permute(0, 2, 3, 1)
    return ((pixels[things].mean(0) - pixels[~things].mean(0)).norm() / pixels.std(dim=(0, 1, 2)).norm()).item()


def test_night_is_darker_than_dusk_is_darker_than_day() -> None:
    day, dusk, night = (_pictures(f"suburban-clear-{light}")[0].mean() for light in ("day", "dusk", "night"))
    assert night < 0.6 * dusk < 0.6 * day


def test_fog_hides_what_is_far() -> None:
    near, far = (
        render([replace(scene(box(0, y, 1.5)), atmosphere=draw_scene("rural-fog-day", 0, 0).atmosphere)], **SIZES)["input.rgb"].float()
        for y in (5.0, 45.0)
    )
    sky = near[0, :, :10].mean()
    assert (near[0, :, 31, 31].mean() - sky).abs() > 25
    assert (far[0, :, 31, 31].mean() - sky).abs() < 10


def test_fog_and_night_blind_the_camera() -> None:
    clear = _contrast("urban-clear-day")
    assert _contrast("urban-fog-night") < 0.6 * clear


def test_the_sun_casts_a_shadow() -> None:
    base = scene(box(3, 10, 1.5, half=1.5))
    sun = replace(base.atmosphere, to_sun=(0.8, 0.0, 0.6))  # from the right: the shadow falls to the left of the box
    cloudy = replace(sun, sun=(0.0, 0.0, 0.0))
    lit, dull = (render([replace(base, atmosphere=a)], **SIZES)["input.rgb"].float()[0].mean(0) for a in (sun, cloudy))
    row = 32 + round(1.5 / 10 * 32)  # the ground at 10 m
    in_shadow, in_sun = 32 + round(0.0 / 10 * 32), 32 + round(-8.0 / 10 * 32)
    assert lit[row, in_sun] > 1.4 * lit[row, in_shadow]
    assert dull[row, in_sun] < 1.2 * dull[row, in_shadow]


def test_a_side_that_faces_the_sun_is_brighter() -> None:
    base = scene(box(0, 60, 0, half=50, class_id=BUILDING))
    towards, away = (
        render([replace(base, atmosphere=replace(base.atmosphere, to_sun=(0.0, y, 0.6)))], **SIZES)["input.rgb"].float()[0, :, :30].mean()
        for y in (-0.8, 0.8)
    )
    assert towards > away + 20


def test_a_lidar_point_has_no_colour_and_a_pixel_does() -> None:
    red, blue = (render([scene(replace(box(0, 10, 1.5), colour=c))], **SIZES) for c in ((0.8, 0.0, 0.0), (0.0, 0.0, 0.8)))
    assert torch.equal(red["input.lidar"], blue["input.lidar"])
    assert red["input.rgb"][0, 0, 31, 31] > red["input.rgb"][0, 2, 31, 31] + 40
    assert blue["input.rgb"][0, 2, 31, 31] > blue["input.rgb"][0, 0, 31, 31] + 40
