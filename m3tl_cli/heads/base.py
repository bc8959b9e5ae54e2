"""Contract of heads."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Head(nn.Module, ABC):
    """Turn the backbone's output into one task's output.

    A subclass takes its hyper-parameters, `task: Task` and `inputs: Signature` (vector or map) as keywords. Its last layer is
    linear and called `out`, so that it can be replaced by a closed form.
    """

    out: nn.Module

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Predict.

        Args:
            x: Vector [B, D] or map [B, D, h, w].

        Returns:
            [B, num_outputs] for a vector task, [B, num_outputs, *task.size] for a dense one; raw (logits, standardised values).
        """
