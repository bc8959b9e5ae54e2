"""A learning rate that falls along a cosine."""

from __future__ import annotations

import math
from typing import Annotated

from annotated_types import Ge, Le, Lt

from m3tl_cli.scheduler.base import Scheduler


class Cosine(Scheduler):
    """Fall from the peak learning rate along half a cosine, after a linear warm-up.

    Source: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017, equation 5. Differs from the paper:
    no restarts.

    Args:
        warmup: Share of the updates in which the rate rises linearly to its peak, in [0, 1).
        end: Factor that the fall would reach one update after the last, in [0, 1].
    """

    def __init__(self, *, warmup: Annotated[float, Ge(0), Lt(1)], end: Annotated[float, Ge(0), Le(1)]) -> None:
        self.warmup = warmup
        self.end = end

    def factor(self, step: int, updates: int) -> float:
        """Factor of the peak learning rate; see `Scheduler.factor`."""
        rising = self.warmup * updates
        if step < rising:
            return min(1.0, (step + 1) / rising)
        fallen = min(1.0, (step - rising) / (updates - rising))
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * fallen)) / 2
