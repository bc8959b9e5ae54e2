"""Rendering: the same bits whatever is rendered beside a scene and on however many threads."""

from __future__ import annotations

import pytest
import torch

from m3tl_cli.data.layouts import DOMAINS, Scene, draw_scene
from m3tl_cli.data.render import columns, fingerprint, render

SIZES = {"size": 32, "label_size": 16, "num_beams": 3, "num_azimuths": 5, "max_depth": 80.0}


def _mixed() -> list[Scene]:
    return [draw_scene(domain, 0, 1) for domain in DOMAINS[::3]]


def _bytes(out: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: value.contiguous().numpy().tobytes() for name, value in out.items()}


def test_the_size_of_the_chunk_does_not_matter() -> None:
    scenes = _mixed()
    whole = render(scenes, **SIZES)
    for start, stop in ((0, 1), (1, 4), (4, len(scenes))):
        assert _bytes(render(scenes[start:stop], **SIZES)) == _bytes({k: v[start:stop] for k, v in whole.items()})


def test_the_number_of_threads_does_not_matter() -> None:
    scenes = [draw_scene("urban-clear-day", n, 1) for n in range(20)]  # 20 x 2048 rays: more than torch's grain of 32768
    sizes = {**SIZES, "size": 40, "label_size": 20}
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results.append(_bytes(render(scenes, **sizes)))
    assert results[0] == results[1]


def test_the_columns_are_those_announced() -> None:
    out = render(_mixed(), **SIZES)
    told = columns(size=32, label_size=16, num_points=15)
    assert set(out) == set(told)
    for name, value in out.items():
        assert tuple(value.shape[1:]) == told[name].shape, name
        assert str(value.dtype) == f"torch.{told[name].dtype}", name


def test_another_number_seed_or_domain_is_another_scene() -> None:
    scenes = [
        draw_scene(*a) for a in (("urban-clear-day", 0, 0), ("urban-clear-day", 1, 0), ("urban-clear-day", 0, 1), ("urban-rain-day", 0, 0))
    ]
    assert len(set(_bytes({str(i): v for i, v in enumerate(render(scenes, **SIZES)["input.rgb"])}).values())) == 4
    assert scenes[0] == draw_scene("urban-clear-day", 0, 0)


def test_labels_are_the_same_on_every_grid() -> None:
    """A grid of 16 rows whose pixel centres are among those of one of 48."""
    scenes = _mixed()
    few, many = (render(scenes, **{**SIZES, "label_size": size})["target.segmentation"] for size in (16, 48))
    assert (few == many[:, 1::3, 1::3]).float().mean() > 0.999  # centres agree to rounding


def test_the_fingerprint_is_stable() -> None:
    assert fingerprint() == fingerprint()
    assert len(fingerprint()) == 16


@pytest.mark.parametrize("number", range(3))
def test_every_value_is_in_its_range(number: int) -> None:
    out = render([draw_scene(domain, number, 7) for domain in DOMAINS], **SIZES)
    assert out["target.segmentation"].min() >= 0
    assert out["target.segmentation"].max() <= 8
    depth = out["target.depth"]
    assert depth[~depth.isnan()].min() > 0.5
    assert out["target.normals"].nan_to_num().norm(dim=1).max() < 1 + 1e-5
    facing = torch.nn.functional.normalize(out["target.normals"].nan_to_num(), dim=1)[:, 2]
    assert facing.max() < 0.75  # no surface is seen from behind, up to the obliqueness of rays at the border
    assert out["input.lidar"].isfinite().all()
