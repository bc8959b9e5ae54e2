"""Which of many tasks a page draws: the worst, the median and the best. All of them stand in a table and in the CSV files."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

MANY = 12
"""Tasks that are all drawn, at most: their pictures fill two screens."""

ENDS = 2
"""Of more, so many are drawn from each end, and the one in the middle: with the mean over tasks six charts, two rows of a page."""


def is_many(tasks: Collection[str]) -> bool:
    """Whether there are more tasks than a page draws one by one."""
    return len(tasks) > MANY


def rising(values: Mapping[str, float]) -> list[str]:
    """Tasks from the lowest value to the highest, those without a number last; ties in the order given."""
    return sorted(values, key=lambda task: values[task] if math.isfinite(values[task]) else math.inf)


def picked(values: Mapping[str, float]) -> tuple[str, ...]:
    """The tasks to draw, from the worst to the best.

    Args:
        values: By which to choose, more is better. Tasks without a number are taken only where no task has one.

    Returns:
        All in the order given where they are not many.
    """
    if not is_many(values):
        return tuple(values)
    ranked = [task for task in rising(values) if math.isfinite(values[task])] or list(values)
    return tuple(dict.fromkeys((*ranked[:ENDS], ranked[len(ranked) // 2], *ranked[-ENDS:])))


def left_out(num: int, by: str, where: str) -> str:
    """One sentence of HTML: which of `num` tasks are shown, and where all of them stand.

    Args:
        num: How many tasks there are.
        by: What they were chosen by, as HTML; empty where nothing is known of them yet.
        where: Where all of them stand, as HTML.
    """
    which = f"the {ENDS} worst, the median and the {ENDS} best by {by} are shown, in this order" if by else "a few are shown"
    return f"<p class='soft few'>Of {num} tasks {which}; all {num} are in {where}.</p>"
