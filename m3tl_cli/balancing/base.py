"""Contract of balancers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from m3tl_cli.core.contracts import TaskName


@dataclass(frozen=True)
class Balanced:
    """Outcome of a step.

    Args:
        gradient_P: Gradient of the shared parameters.
        weights_T: Factor of each task's private gradients.
        shown_T: Weights for the log: what each task's row counted for, where the method can say so, else NaN.
    """

    gradient_P: Tensor
    weights_T: Tensor
    shown_T: Tensor


class Balancer(ABC):
    """Decide how much each task counts.

    `needs` says what the engine must bring, and so which method below is called:

    * `nothing`: `weights` before the backward pass, without looking at losses; gradients are summed as they come and freed.
    * `losses`: `weights` with the detached losses; one backward pass of the weighted sum on a shared batch.
    * `rows`: `combine` with a gradient per task over the shared parameters, [T, P].

    `tasks` are those present in this step: any subset, in a stable order, of those given to `reset`. T may be 1, P may be 0.
    State lives in `state_dict`, changes only inside `weights` and `combine` (once per optimiser step), and is reset between stages.
    """

    needs: ClassVar[Literal["nothing", "losses", "rows"]]

    def reset(self, tasks: Sequence[TaskName]) -> None:  # noqa: B027
        """Forget everything and get ready for a stage with these tasks."""

    def weights(self, losses_T: Tensor, tasks: Sequence[TaskName]) -> Tensor:
        """Factor of each task's loss, [T], detached."""
        raise NotImplementedError(f"{type(self).__name__} needs {self.needs}: call combine")

    def combine(self, rows_TP: Tensor, losses_T: Tensor, tasks: Sequence[TaskName]) -> Balanced:
        """Merge per-task gradients of the shared parameters."""
        weights_T = self.weights(losses_T, tasks)
        return Balanced(weights_T @ rows_TP, weights_T, weights_T)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and JSON types only."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Continue bit for bit from `state_dict`."""


class GramianBalancer(Balancer):
    """A method whose gradient is a weighted sum of the rows, with weights that depend only on their inner products."""

    needs = "rows"

    @abstractmethod
    def gramian_weights(self, gramian_TT: Tensor, tasks: Sequence[TaskName]) -> Tensor:
        """Weight of each row, [T], from the matrix of inner products of the rows."""

    def combine(self, rows_TP: Tensor, losses_T: Tensor, tasks: Sequence[TaskName]) -> Balanced:  # noqa: ARG002
        """Weigh the rows; private gradients are left as they are."""
        ones_T = torch.ones(len(tasks), dtype=rows_TP.dtype, device=rows_TP.device)
        if len(tasks) == 1 or rows_TP.shape[1] == 0:
            return Balanced(rows_TP.sum(0), ones_T, ones_T)
        weights_T = self.gramian_weights(rows_TP @ rows_TP.T, tasks)
        return Balanced(weights_T @ rows_TP, ones_T, weights_T)
