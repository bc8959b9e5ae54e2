"""Guess what a misspelt word was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

CUTOFF = 0.55  # difflib's ratio: `pcgard`/`pcgrad` .83, `sum`/`uw` .4


def nearest(word: object, options: Iterable[object], num: int = 3) -> list[str]:
    """The options spelt most like `word`, best first; none where nothing is near. Case does not count."""
    spelt = {str(option).lower(): str(option) for option in options}
    return [spelt[hit] for hit in difflib.get_close_matches(str(word).lower(), spelt, n=num, cutoff=CUTOFF)]


def nearest_key(key: str, keys: Iterable[str], num: int = 3) -> list[str]:
    """Dotted keys near a dotted key: those beside it with a near last part, then the same last part elsewhere, then near as a whole."""
    known = list(keys)
    parent, _, last = key.rpartition(".")
    siblings = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == parent}
    hits = [siblings[hit] for hit in nearest(last, siblings, num)]
    hits += [k for k in known if k.rpartition(".")[2] == last and k not in hits]
    hits += [k for k in nearest(key, known, num) if k not in hits]
    return hits[:num]


def did_you_mean(hits: list[str]) -> str:
    """One clause; empty where there are no hits."""
    return f"did you mean {' or '.join(hits)}?" if hits else ""
