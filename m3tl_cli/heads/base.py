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
    def features(self, x: Tensor) -> Tensor:
        """Rows that `out` reads.

        Args:
            x: Vector [B, D] or map [B, D, h, w].

        Returns:
            [N, width]: a row per sample of a vector task; a row per cell of the map of a dense one, sample by sample, row by row.
        """

    @abstractmethod
    def rows(self, y: Tensor) -> Tensor:
        """Arrange something of the output's shape as `out` would have put it out: the inverse of what `forward` does after `out`.

        Args:
            y: [B, num_outputs, *task.size], float; for maps of the size that `inputs` announces.

        Returns:
            [N, O], in the order of `features`.
        """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Predict.

        Args:
            x: Vector [B, D] or map [B, D, h, w].

        Returns:
            [B, num_outputs] for a vector task, [B, num_outputs, *task.size] for a dense one; raw (logits, standardised values).
        """
