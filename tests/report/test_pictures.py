from __future__ import annotations

import io

import numpy as np
from matplotlib.image import imread

from m3tl_cli.report import pictures
from m3tl_cli.report.pictures import CELL, GAP, LINE, MARGIN
from tests.report import _folder


def decode(data: bytes) -> np.ndarray:
    return np.rint(imread(io.BytesIO(data), format="png")[:, :, :3] * 255).astype(np.uint8)


def test_png_keeps_every_pixel() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert (decode(pictures.png(picture)) == picture).all()
    assert (decode(pictures.png(picture[::-1, ::2])) == picture[::-1, ::2]).all()


def test_small_pictures_are_enlarged_by_whole_pixels() -> None:
    picture = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    big = pictures.enlarge(picture, 10)
    assert big.shape == (6, 9, 3)
    assert (big[::3, ::3] == picture).all()
    assert (big[2::3, 2::3] == picture).all()


def test_large_pictures_are_shrunk_to_the_cell() -> None:
    assert pictures.enlarge(np.zeros((300, 200, 3), np.uint8), 128).shape == (100, 67, 3)


def test_the_sheet_shows_pictures_where_they_belong() -> None:
    red = np.full((2, 2, 3), (255, 0, 0), np.uint8)
    blue = np.full((64, 64, 3), (0, 0, 255), np.uint8)
    rows = [
        {"caption": "first", "cells": {"x": {"picture": "r"}, "y": {"text": "3 m"}}},
        {"caption": "second", "cells": {"y": {"picture": "b"}}},
    ]
    sheet = decode(pictures.contact_sheet(["x", "y"], rows, {"r": red, "b": blue}))
    head = MARGIN + LINE + GAP
    assert sheet.shape == (head + 2 * (CELL + LINE + GAP) + MARGIN, 2 * MARGIN + 2 * CELL + GAP, 3)
    first = sheet[head + LINE : head + LINE + CELL, MARGIN : MARGIN + CELL]
    assert (first == (255, 0, 0)).all()
    assert (sheet == (255, 0, 0)).all(-1).sum() == CELL**2
    top, left = head + CELL + LINE + GAP + LINE, MARGIN + CELL + GAP
    assert (sheet[top : top + CELL, left : left + CELL] == (0, 0, 255)).all()
    words = sheet[head + LINE : head + LINE + CELL, left:]
    assert (words < 100).all(-1).any(), "the text cell is drawn"


def test_the_same_samples_give_the_same_bytes() -> None:
    words, images = _folder.samples(1)
    assert pictures.contact_sheet(words["columns"], words["rows"], images) == pictures.contact_sheet(
        words["columns"], words["rows"], images
    )


def test_a_sheet_without_samples_and_words_without_a_font_are_drawn() -> None:
    assert decode(pictures.contact_sheet([], [], {})).size
    rows = [{"caption": "$\\frac{ \u4e2d", "cells": {"x" * 90: {"text": "\u0007$^$"}}}]
    assert decode(pictures.contact_sheet(["x" * 90], rows, {})).size
