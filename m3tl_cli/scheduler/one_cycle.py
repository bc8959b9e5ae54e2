"""A learning rate that rises high and falls to almost nothing."""

from __future__ import annotations

import math
from typing import Annotated

from annotated_types import Ge, Le, Lt

from m3tl_cli.scheduler.base import Scheduler


class OneCycle(Scheduler):
    """Rise linearly from a fraction of the peak learning rate, then fall along half a cosine to almost nothing at the last update.

    Source: Smith and Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates", 2018,
    https://arxiv.org/abs/1708.07120. Differs from the paper: falls along a cosine, at once to `end` (as torch's `OneCycleLR`), and
    leaves the momentum alone.

    Args:
        warmup: Share of the updates in which the rate rises, in [0, 1).
        start: Factor at the first update, in [0, 1]; 1 where there is no rise.
        end: Factor at the last update, in [0, 1].
    """

    def __init__(
        self,
        *,
        warmup: Annotated[float, Ge(0), Lt(1)],
        start: Annotated[float, Ge(0), Le(1)],
        end: Annotated[float, Ge(0), Le(1)],
    ) -> None:
        self.warmup = warmup
        self.start = start
        self.end = end

    def factor(self, step: int, updates: int) -> float:
        """Factor of the peak learning rate; see `Scheduler.factor`."""
        last = max(updates - 1, 0)
        peak = max(self.warmup * updates - 1, 0)  # the update of the highest rate, as in torch
        if step < peak:
            return self.start + (1 - self.start) * step / peak
        fallen = min(1.0, (step - peak) / (last - peak)) if last > peak else 0.0
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * fallen)) / 2
