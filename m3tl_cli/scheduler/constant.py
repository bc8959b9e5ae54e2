"""A learning rate that stays."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Lt

from m3tl_cli.scheduler.base import Scheduler


class Constant(Scheduler):
    """Keep the peak learning rate, after a linear warm-up.

    Args:
        warmup: Share of the updates in which the rate rises linearly to its peak, in [0, 1).
    """

    def __init__(self, *, warmup: Annotated[float, Ge(0), Lt(1)]) -> None:
        self.warmup = warmup

    def factor(self, step: int, updates: int) -> float:
        """The (n + 1)th of N warm-up updates has (n + 1) / N, every later one 1; see `Scheduler.factor`."""
        rising = self.warmup * updates
        return min(1.0, (step + 1) / rising) if step < rising else 1.0
