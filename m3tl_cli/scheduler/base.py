"""Contract of schedulers."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Scheduler(ABC):
    """A pure function of the step, so that it has no state to save."""

    @abstractmethod
    def factor(self, step: int, updates: int) -> float:
        """Factor of the peak learning rate at update `step` (from 0) of `updates`, in [0, 1]."""
