"""One thing that is wrong with a config."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """What is wrong, where, and what would be right.

    Args:
        place: Dotted key, group or option.
        found: What was given, as the user wrote it.
        expected: What must stand there.
        hint: The nearest right spelling, or what to type; empty where there is nothing to say.
    """

    place: str
    found: str
    expected: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.place}: expected {self.expected}; found {self.found}" + (f" ({self.hint})" if self.hint else "")
