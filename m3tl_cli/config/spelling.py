"""Guess what a misspelt word was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

CUTOFF = 0.55  # difflib's ratio: `pcgard`/`pcgrad` .83, `sum`/`uw` .4
BEHIND = 0.12  # how far behind the best a guess may be to be named beside it: `updtes` is .92 `updates` and .57 `patience`


def nearest(word: object, options: Iterable[object], num: int = 3) -> list[str]:
    """The options spelt most like `word`, best first; none where nothing is near. Case does not count."""
    given = str(word).lower()
    spelt = {str(option).lower(): str(option) for option in options}
    hits = difflib.get_close_matches(given, spelt, n=num, cutoff=CUTOFF)
    ratios = [difflib.SequenceMatcher(None, hit, given).ratio() for hit in hits]
    return [spelt[hit] for hit, ratio in zip(hits, ratios, strict=True) if ratio >= ratios[0] - BEHIND]


def nearest_key(key: str, keys: Iterable[str], num: int = 3) -> list[str]:
    """Dotted keys near a dotted key: those beside it with a near last part, else the same last part elsewhere, else near as a whole."""
    known = list(keys)
    parent, _, last = key.rpartition(".")
    siblings = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == parent}
    beside = [siblings[hit] for hit in nearest(last, siblings, num)]
    elsewhere = [k for k in known if k.rpartition(".")[2] == last and k != key]
    return (beside or elsewhere or nearest(key, known, num))[:num]


def did_you_mean(hits: list[str]) -> str:
    """One clause; empty where there are no hits."""
    return f"did you mean {' or '.join(hits)}?" if hits else ""
