"""Contract of inner loops. It knows tensors and a closure; neither a model nor a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor

from m3tl_cli.core.contracts import Name, Params


class InnerLoop(ABC):
    """Adapt phi to theta on support, and say which gradient the outcome sends to phi.

    Attributes:
        row_per_task: False where the outer gradient cannot be split by task (Reptile); such a loop refuses balancers that need rows.
        second_order: Whether the outer gradient goes through the inner steps; then tasks of an episode are coupled.
        needs_query: Whether `outer` reads a query loss.
    """

    row_per_task: ClassVar[bool] = True
    needs_query: ClassVar[bool] = True
    second_order: bool = False

    @abstractmethod
    def adapt(
        self,
        objective: Callable[[Params], Tensor],
        phi: Params,
        scope: Callable[[int], frozenset[Name]],
        *,
        steps: int,
        differentiable: bool,
        on_step: Callable[[int, Params], None] | None = None,
    ) -> dict[Name, Tensor]:
        """Take `steps` steps on the objective.

        Args:
            objective: Support loss at given parameters, scalar.
            phi: Start. Tensors outside the scope are returned as the same objects.
            scope: Names that step k may change.
            steps: K; 0 returns phi's own tensors.
            differentiable: Keep what `outer` needs. False for adaptation at the target.
            on_step: Called with k and the parameters after step k, detached.
        """

    @abstractmethod
    def outer(self, phi: Params, theta: Params, loss: Tensor | None, wrt: Sequence[Name], *, keep: bool) -> dict[Name, Tensor]:
        """Gradient for phi.

        Args:
            phi: As given to `adapt`, leaves.
            theta: What `adapt` returned.
            loss: Query loss at theta, attached; None where `needs_query` is False.
            wrt: Names wanted. Names that the loss does not reach are left out of the result.
            keep: Keep the graph for another call.
        """
