"""Contract of samplers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from m3tl_cli.core.contracts import Episode, TaskName


class Sampler(ABC):
    """Draw the episodes of a step.

    Pure in (seed, step): drawing the same step twice gives the same episodes, so that resuming needs the step and the scores only.
    A subclass takes its hyper-parameters, and `pool: Pool`, `tasks: Sequence[Task]` and `seed: int`, as keywords.
    """

    @abstractmethod
    def draw(self, step: int) -> Sequence[Episode]:
        """Episodes of optimiser step `step`, counted from 0; each is one accumulation."""

    @property
    @abstractmethod
    def samples_per_step(self) -> int:
        """Training samples that a step reads."""

    def update(self, losses: Mapping[TaskName, float]) -> None:  # noqa: B027 (most samplers learn nothing)
        """Learn from the losses of the last step."""

    def state_dict(self) -> dict[str, Any]:
        """Scores, where it has any."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Inverse of `state_dict`."""
