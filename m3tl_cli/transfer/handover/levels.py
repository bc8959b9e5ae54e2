"""How far below the heads a parameter lies."""

from __future__ import annotations

from itertools import groupby

from m3tl_cli.core.contracts import Name, Params

Place = tuple[int, int]
"""Part of the network counted from the heads, and position in it counted from its end."""


def levels(params: Params, fresh: frozenset[Name]) -> dict[Name, int]:
    """Depth of every name, counted over what is handed over: 0 heads and fresh names, then 1, 2, ... from the heads downward.

    The stages of a backbone from last to first are a level each, then fusion, then the blocks of the encoders from last to first. All
    columns and modalities are counted alike, encoders from their ends. A sharing's own parameters lie with the last stage.

    A block of an encoder is what its names number first (`layers.3`, `blocks.11`); the names before, between and after the numbered
    ones are a block each. Numbers that hold vectors alone, a normalisation after its layer, belong to the block before.

    Args:
        params: In the order of the model.
        fresh: Names that are not handed over.
    """
    handed = {n: p for n, p in params.items() if n not in fresh}
    places = _encoder_places(handed)
    stages = {int(n.split(".")[3]) for n in handed if n.startswith("backbone.")}
    last = max(stages, default=0)
    for name in handed:
        family = name.split(".")[0]
        if family == "backbone":
            places[name] = (0, last - int(name.split(".")[3]))
        elif family == "sharing":
            places[name] = (0, 0)
        elif family == "fusion":
            places[name] = (1, 0)
    rank = {place: level for level, place in enumerate(sorted(set(places.values())), 1)}
    return {n: rank[places[n]] if n in places else 0 for n in params}


def _encoder_places(handed: Params) -> dict[Name, Place]:
    places: dict[Name, Place] = {}
    encoders: dict[str, list[Name]] = {}
    for name in handed:
        if name.startswith("encoder."):
            encoders.setdefault(".".join(name.split(".")[1:3]), []).append(name)
    for names in encoders.values():
        blocks: list[list[Name]] = []
        for number, group in groupby(names, _number):
            block = list(group)
            if blocks and number and all(handed[n].dim() < 2 for n in block):
                blocks[-1] += block
            else:
                blocks.append(block)
        places |= {name: (2, k) for k, block in enumerate(reversed(blocks)) for name in block}
    return places


def _number(name: Name) -> str:
    """The name up to its first number; empty where it has none."""
    words = name.split(".")
    return next((".".join(words[: i + 1]) for i, word in enumerate(words) if word.isdigit()), "")
