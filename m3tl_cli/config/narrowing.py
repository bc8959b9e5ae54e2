"""Make the networks of a config narrower, until several of them are no larger than one was."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, get_args, get_origin

from annotated_types import Ge

from m3tl_cli.config.constructor import NoSuchTarget, constructor
from m3tl_cli.core.widths import Width

NETWORK = ("encoder", "fusion", "backbone", "heads")
"""Nodes of the root that make networks."""

MULTIPLES = (4, 2, 1)
"""What narrowed widths are multiples of where the full ones are, the first that will do: groups of a GroupNorm divide the width, and an
odd one would leave a single group."""

FULL = 0.9
"""Share of the size, at least, that a coarser multiple must use to be preferred to a finer one."""

Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Narrowed:
    """A narrower config.

    Args:
        config: Its network nodes.
        factor: Of the widths; a width is rounded down from it.
        size: Parameters of one network a task.
    """

    config: dict[str, Any]
    factor: float
    size: int


def narrow(config: Mapping[str, Any], members: int, size_of: Callable[[Mapping[str, Any]], int]) -> Narrowed | None:
    """The widest networks of which `members` are together no larger than one of the config's own.

    Args:
        config: Network nodes, plain containers.
        members: At least 1.
        size_of: Number of parameters of a config like it; falls nowhere when widths grow.

    Returns:
        None where no widths are small enough, or none are marked: nothing can be said to be of equal size.
    """
    found = dict(_widths(config))
    most = size_of(config)
    if not found or members * size_of(_with(config, found, Fraction(0), 1)) > most:
        return None
    best: Narrowed | None = None
    for multiple in MULTIPLES:
        here = _widest(config, found, multiple, lambda c: members * size_of(c) <= most)
        if here is None:
            continue
        narrowed = Narrowed(_with(config, found, here, multiple), float(here), 0)
        size = size_of(narrowed.config)
        if best is None or size > best.size:
            best = Narrowed(narrowed.config, narrowed.factor, size)
        if members * size >= FULL * most:
            break
    return best


def _widest(
    config: Mapping[str, Any], widths: Mapping[Place, _Found], multiple: int, fits: Callable[[dict[str, Any]], bool]
) -> Fraction | None:
    """The largest factor at which it fits; None: it fits at none."""
    # Where any width changes, and nothing between.
    steps = sorted({Fraction(k * math.gcd(w.value, multiple), w.value) for w in widths.values() for k in range(1, w.value + 1)})
    steps = [factor for factor in steps if factor <= 1]
    low, high = -1, len(steps)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(_with(config, widths, steps[middle], multiple)) else (low, middle)
    return steps[low] if low >= 0 else None


@dataclass(frozen=True)
class _Found:
    value: int
    least: int


def _widths(config: Mapping[str, Any]) -> Iterator[tuple[Place, _Found]]:
    for key in NETWORK:
        yield from _in(config[key], (key,))


def _in(node: Any, place: Place) -> Iterator[tuple[Place, _Found]]:
    """Widths of a node, and of those below it."""
    if not isinstance(node, Mapping):
        return
    if "_target_" not in node:
        for key, child in node.items():
            yield from _in(child, (*place, key))
        return
    try:
        found = constructor(node["_target_"])
    except NoSuchTarget:
        return
    for name, argument in (found.arguments if found else {}).items():
        yield from _marked(node.get(name), argument.kind, (*place, name))


def _marked(value: Any, kind: Any, place: Place) -> Iterator[tuple[Place, _Found]]:
    """Where a value, or an element of it, is a width by its annotation."""
    if get_origin(kind) is Annotated:
        marks = get_args(kind)[1:]
        if isinstance(value, int) and any(isinstance(m, Width) for m in marks):
            yield place, _Found(value, max([1, *(int(str(m.ge)) for m in marks if isinstance(m, Ge))]))
    elif isinstance(value, list) and get_origin(kind) is list:
        for index, item in enumerate(value):
            yield from _marked(item, get_args(kind)[0], (*place, index))
    else:
        for member in get_args(kind):
            yield from _marked(value, member, place)


def _with(config: Mapping[str, Any], widths: Mapping[Place, _Found], factor: Fraction, multiple: int) -> dict[str, Any]:
    """The config with every width times `factor`, rounded down to a multiple that the width itself is one of."""
    narrowed = copy.deepcopy(dict(config))
    for place, found in widths.items():
        step = math.gcd(found.value, multiple)
        node: Any = narrowed
        for key in place[:-1]:
            node = node[key]
        node[place[-1]] = min(found.value, max(found.least, step, math.floor(factor * found.value / step) * step))
    return narrowed
