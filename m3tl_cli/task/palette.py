"""Colours of classes, told apart by people of normal and of colour-blind sight."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

UNLABELLED = (119, 119, 119)
"""Grey of pixels without a label."""

_NAMED: dict[str, tuple[int, int, int]] = {
    "sky": (150, 210, 255),
    "road": (60, 50, 80),
    "lane": (255, 255, 255),
    "mark": (255, 255, 255),
    "pavement": (172, 87, 200),
    "sidewalk": (172, 87, 200),
    "ground": (190, 160, 110),
    "terrain": (190, 160, 110),
    "building": (190, 101, 3),
    "wall": (190, 101, 3),
    "vehicle": (24, 32, 178),
    "car": (24, 32, 178),
    "person": (255, 225, 0),
    "people": (255, 225, 0),
    "pedestrian": (255, 225, 0),
    "tree": (1, 76, 27),
    "vegetation": (1, 76, 27),
}
"""By a word of the class's name, singular or plural. What people expect, moved until the closest two of a driving scene are 29 apart
in CIELAB to normal, protanopic and deuteranopic sight alike (Machado et al. 2009)."""

_PLAIN: tuple[tuple[int, int, int], ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (0, 0, 0),
    (51, 34, 136),
    (221, 221, 221),
    (136, 34, 85),
    (187, 187, 0),
)
"""Okabe and Ito, "Color Universal Design" (2008); then from Tol, "Colour Schemes" (2021), muted and light."""


def class_colours(classes: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Give every class a colour of its own.

    A class of driving scenes gets the colour that people expect of its name, whatever its index; any other class the next of a
    fixed list of colours that are not taken; beyond the list, hues at golden-angle steps.

    Args:
        classes: Names, in the order of the labels.

    Returns:
        [C, 3] RGB, no two rows equal.
    """
    taken: dict[int, tuple[int, int, int]] = {}
    for index, name in enumerate(classes):
        words = [w for word in name.lower().replace("-", "_").replace(" ", "_").split("_") for w in (word, word.removesuffix("s"))]
        colour = next((_NAMED[w] for w in words if w in _NAMED), None)
        if colour is not None and colour not in taken.values():
            taken[index] = colour
    spare = [c for c in _PLAIN if c not in taken.values()]
    step = 0
    for index in range(len(classes)):
        while index not in taken:
            if spare:
                colour = spare.pop(0)
            else:
                # 0.618 of a turn spreads any number of hues evenly; lightness alternates because hue alone is lost on the colour-blind.
                red, green, blue = colorsys.hls_to_rgb(0.618034 * step % 1, (0.35, 0.55, 0.75)[step % 3], 0.6)
                colour = (round(255 * red), round(255 * green), round(255 * blue))
                step += 1
            if colour not in taken.values() and colour != UNLABELLED:
                taken[index] = colour
    return np.array([taken[i] for i in range(len(classes))], dtype=np.uint8).reshape(-1, 3)
