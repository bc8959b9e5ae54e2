"""Which numbers of a network are widths. Imports nothing: configs are checked, and networks narrowed, without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Width:
    """Marks, in a constructor's annotation, a number of channels or units that a smaller network may have fewer of.

    `width: Annotated[int, Ge(2), Width()]`; the network must have more parameters the wider it is. A list is marked at its elements.
    """
