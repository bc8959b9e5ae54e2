"""Contract of inner loops, and the descent that they share. It knows tensors and a closure; neither a model nor a task."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
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
            scope: Names that step k = 1 ... K may change.
            steps: K; 0 returns phi's own tensors.
            differentiable: Keep what `outer` needs. False for adaptation at the target.
            on_step: Called with k = 1 ... K and the parameters after step k, detached; from 1 again where the loop starts anew.
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


class InnerSGD(InnerLoop):
    """Adapt by plain gradient descent without state, and take a divergent descent back.

    theta_k = theta_{k-1} - rate * gradient of the objective at theta_{k-1}, over the names in scope(k). Plain SGD, because a stateful
    optimiser would carry one episode into the next and has no closed-form checks.

    A descent diverges when a loss is not finite, or above `diverge` times the loss at phi. It then starts anew from phi with half the
    rate, for this call only; after `max_halvings` halvings without success theta stays at phi. The loss after the last step is looked at
    where `differentiable` is False, by one more forward pass; in training the query loss shows it. A loss that is not finite at phi
    itself is no fault of the rate: the descent goes on, and its gradient shows it to the trainer.

    Cost: one synchronisation with the device per step, to read the loss.

    Args:
        inner_lr: Rate, above 0.
        clip: Largest norm of a step's gradient over all names in scope; None: no limit.
        diverge: Growth of the support loss that counts as divergence, above 1.
        max_halvings: How often a call may halve the rate.

    Attributes:
        halvings: Descents that diverged since construction, for the log.
    """

    def __init__(self, *, inner_lr: float, clip: float | None, diverge: float, max_halvings: int) -> None:
        self.inner_lr = inner_lr
        self.clip = clip
        self.diverge = diverge
        self.max_halvings = max_halvings
        self.halvings = 0

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
        """Take `steps` steps on the objective, as `InnerLoop.adapt` says.

        Returns:
            Names that a step changed: in second order attached to phi; else fresh leaves, which require a gradient where
            `differentiable`. All other names: phi's own tensors.
        """
        theta = dict(phi)
        if steps == 0:
            return theta
        with torch.enable_grad():
            for halving in range(self.max_halvings + 1):
                rate = self.inner_lr * 0.5**halving
                if self._descend(objective, phi, theta, scope, rate, steps, differentiable, on_step):
                    break
                self.halvings += 1
                theta = dict(phi)
        return theta

    def _descend(
        self,
        objective: Callable[[Params], Tensor],
        phi: Params,
        theta: dict[Name, Tensor],
        scope: Callable[[int], frozenset[Name]],
        rate: float,
        steps: int,
        differentiable: bool,
        on_step: Callable[[int, Params], None] | None,
    ) -> bool:
        """Take `theta`, at first phi, `steps` steps on; False as soon as it diverges."""
        graph = differentiable and self.second_order
        limit = math.inf
        for k in range(1, steps + 1):
            scoped = scope(k)
            names = [name for name in phi if name in scoped]
            at = dict(theta) if graph else {name: tensor.detach() for name, tensor in theta.items()}
            for name in names:
                if not at[name].requires_grad:
                    at[name] = at[name].detach().requires_grad_()
            loss = objective(at)
            value = float(loss.detach())
            if k == 1:
                limit = value + (self.diverge - 1) * abs(value) if math.isfinite(value) else math.nan
            elif self._above(value, limit):
                return False
            if names and loss.requires_grad:
                grads = torch.autograd.grad(loss, [at[name] for name in names], create_graph=graph, allow_unused=True)
                reached = {name: grad for name, grad in zip(names, grads, strict=True) if grad is not None}
                for name, grad in self._clipped(reached).items():
                    theta[name] = (at[name] if graph else at[name].detach()) - rate * grad
            if on_step is not None:
                on_step(k, {name: tensor.detach() for name, tensor in theta.items()})
        if not differentiable:
            with torch.no_grad():
                return not self._above(float(objective(theta)), limit)
        if not graph:
            for name, tensor in theta.items():
                if tensor is not phi[name]:
                    tensor.requires_grad_()
        return True

    @staticmethod
    def _above(value: float, limit: float) -> bool:
        return not math.isnan(limit) and not value <= limit

    def _clipped(self, grads: dict[Name, Tensor]) -> dict[Name, Tensor]:
        """Scale gradients to a norm of at most `clip`; part of the graph in second order."""
        if self.clip is None or not grads:
            return grads
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(grad) for grad in grads.values()]))
        # Clamped below before the division: at a gradient of 0 the other order has 0 * inf in its derivative.
        scale = self.clip / norm.clamp(min=self.clip)
        return {name: scale * grad for name, grad in grads.items()}
