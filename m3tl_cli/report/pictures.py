"""Inputs, labels and predictions side by side."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from m3tl_cli.report.formats import drawable
from m3tl_cli.report.read import Picture, Samples, samples_from

# Pixels. A picture is enlarged by a whole factor to about CELL, so that its own pixels stay squares.
CELL, GAP, LINE, MARGIN = 128, 8, 15, 12
INK = "#24292f"


def png(picture: Picture) -> bytes:
    """Encode uint8 [H, W, 3] as PNG, the same bytes each time."""
    from matplotlib.image import imsave

    out = io.BytesIO()
    # Pillow leaves out what is None: the version of matplotlib, by which the same picture would differ.
    without: dict[str, Any] = {"Software": None}
    imsave(out, np.ascontiguousarray(picture), format="png", metadata=without)
    return out.getvalue()


def enlarge(picture: Picture, cell: int = CELL) -> Picture:
    """Repeat pixels by the largest whole factor that stays within `cell`; shrink by skipping pixels where it is larger.

    Args:
        picture: uint8 [H, W, 3].
        cell: Largest side of the result in pixels.
    """
    longest = max(picture.shape[:2])
    if longest > cell:
        step = -(-longest // cell)
        return picture[::step, ::step]
    return np.repeat(np.repeat(picture, cell // longest, axis=0), cell // longest, axis=1)


def contact_sheet(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], pictures: Mapping[str, Picture]) -> bytes:
    """Draw samples as one PNG: a line of pictures and words per sample under the columns' names.

    Args:
        columns: Names, in order.
        rows: As in `samples.json`: `{"caption": str, "cells": {column: {"picture": key} | {"text": str}}}`.
        pictures: uint8 [H, W, 3] by key.

    Returns:
        The bytes of a PNG file, the same for the same samples.
    """
    return draw_sheet(samples_from(columns, rows, pictures))


def draw_sheet(samples: Samples) -> bytes:
    """Draw samples as one PNG; see `contact_sheet`."""
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    heads = [_wrap(c) for c in samples.columns]
    head = LINE * max((len(h) for h in heads), default=1)
    row = CELL + LINE + GAP
    width = 2 * MARGIN + max(1, len(heads)) * (CELL + GAP) - GAP
    height = 2 * MARGIN + head + GAP + len(samples.rows) * row
    dpi = 100
    with matplotlib.style.context(["default", {"text.parse_math": False, "font.size": 8, "text.color": INK}]):
        figure = Figure(figsize=(width / dpi, height / dpi), dpi=dpi, facecolor="white")
        canvas = FigureCanvasAgg(figure)

        def write(x: float, y: float, text: str, **style: Any) -> None:
            figure.text(x / width, 1 - y / height, text, va="top", **style)

        for j, words in enumerate(heads):
            for k, line in enumerate(words):
                write(MARGIN + j * (CELL + GAP), MARGIN + head - LINE * (len(words) - k), line, weight="bold")
        for i, sample in enumerate(samples.rows):
            top = MARGIN + head + GAP + i * row
            write(MARGIN, top, drawable(sample.caption)[: max(20, width // 6)])
            for j, column in enumerate(samples.columns):
                cell, left = sample.cells.get(column), MARGIN + j * (CELL + GAP)
                if cell is None:
                    continue
                if cell.picture is not None:
                    big = enlarge(cell.picture)
                    figure.figimage(big, left, height - top - LINE - big.shape[0], origin="upper")
                else:
                    for k, line in enumerate(_wrap(cell.text)[:8]):
                        write(left, top + LINE * (k + 2), line)
        canvas.draw()
        drawn = np.asarray(canvas.buffer_rgba())[:, :, :3]
    return png(drawn)


def _wrap(text: str) -> list[str]:
    return [line for part in drawable(text).split("\n") for line in textwrap.wrap(part, 18)] or [""]
