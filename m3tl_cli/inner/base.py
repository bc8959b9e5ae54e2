"""Contract of inner loops, and the descent that they share. It knows tensors and a closure; neither a model nor a task."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, cast

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from m3tl_cli.core.contracts import Name, Params, TaskName
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.inner.rates import Lookup, RateKind, Rates

Objective = Callable[[Params], Mapping[TaskName, Tensor]]
"""Support loss of each task at given parameters, scalars."""
OnStep = Callable[[int, Params], None]
"""Told k = 1 ... K and the parameters after step k, detached."""
Scope = list[Literal["encoder", "fusion", "backbone", "sharing", "head", "adapter"]]
"""Parts that adapt: the first component of a parameter's name; `adapter`: names that end in `.scale` or `.shift`."""
HowToVectorise = Literal["auto", "loop", "vmap"]
"""`loop`: episode after episode; `vmap`: all of a step at once; `auto`: `vmap` where it is faster."""


@dataclass(frozen=True)
class Reached:
    """A point of the descent whose query loss counts.

    Args:
        step: Inner steps that led here.
        weight: Of its query loss; the weights of a descent sum to 1.
        params: Attached to phi. At step 0 the very mapping that the descent was given.
    """

    step: int
    weight: float
    params: Params


class InnerLoop(ABC):
    """Adapt phi to theta on support, and say which gradient the outcome sends to phi.

    Phi holds the model's parameters and, beside them, the learned rates that `params` names.

    Attributes:
        num_inner_steps: K.
        scope: First components of the names that adapt; see `adapts`.
        row_per_task: False where the outer gradient cannot be split by task (Reptile); such a loop refuses balancers that need rows.
        needs_query: Whether `outer` reads a query loss.
        second_order: Whether the outer gradient goes through the inner steps; then tasks of an episode are coupled.
        walks_per_task: Whether an inner step walks back once a task instead of once in all.
        rate_factor: The outer optimiser steps learned rates at this times its own rate.
        engine: How the episodes of a step are computed.
        halvings: Descents that diverged since construction.
    """

    row_per_task: ClassVar[bool] = True
    needs_query: ClassVar[bool] = True
    second_order: bool = False
    walks_per_task: bool = False
    num_inner_steps: int
    scope: tuple[str, ...]
    rate_factor: float = 1.0
    engine: HowToVectorise = "loop"
    halvings: int = 0

    def adapts(self, name: Name) -> bool:
        """Whether the inner steps may change this parameter."""
        first, last = name.partition(".")[0], name.rpartition(".")[2]
        return first in self.scope or ("adapter" in self.scope and last in ("scale", "shift"))

    def start(self, names: Mapping[Name, Tensor], tasks: Mapping[TaskName, frozenset[Name]]) -> None:  # noqa: B027
        """Make the learned rates of a model, or keep those that are there; the engine calls it, again whenever the model has grown.

        Args:
            names: The model's parameters.
            tasks: What each task reads.
        """

    def params(self) -> dict[Name, Tensor]:
        """Learned rates by name, `inner.rate. ...`: leaves, part of phi. The same object until `start` is called."""
        return {}

    def reads(self, names: frozenset[Name]) -> frozenset[Name]:  # noqa: ARG002
        """Learned rates that decide how `names` move."""
        return frozenset()

    def measured(self) -> dict[str, float]:
        """Numbers for the log."""
        return {"inner/halvings": float(self.halvings)}

    @abstractmethod
    def adapt(
        self,
        objective: Objective,
        phi: Params,
        names: frozenset[Name],
        *,
        steps: int,
        differentiable: bool,
        on_step: OnStep | None = None,
    ) -> list[Reached]:
        """Take `steps` steps on the objective.

        Args:
            objective: Support loss of each task at given parameters.
            phi: Start. Tensors outside `names` are passed on as the same objects.
            names: What the steps may change.
            steps: K; 0 returns phi itself.
            differentiable: Keep what `outer` needs. False for adaptation at the target.
            on_step: Called with k = 1 ... K and the parameters after step k, detached; from 1 again where the loop starts anew.

        Returns:
            The points whose query loss counts, in order; one alone where not `differentiable`. The last is where the descent ended.
        """

    @abstractmethod
    def outer(self, phi: Params, reached: Sequence[Reached], loss: Tensor | None, wrt: Sequence[Name], *, keep: bool) -> dict[Name, Tensor]:
        """Gradient for phi, learned rates included.

        Args:
            phi: As given to `adapt`, leaves.
            reached: What `adapt` returned.
            loss: Weighted query loss at the points reached, attached; None where `needs_query` is False.
            wrt: Names wanted. Names that the loss does not reach are left out of the result.
            keep: Keep the graph for another call.
        """


class InnerSGD(InnerLoop):
    """Adapt by plain gradient descent without state, and take a divergent descent back.

    theta_k = theta_{k-1} - rate * g, over the names in scope, theta_0 = phi. With `rates` of `fixed` or `module`, g is the gradient of
    the mean of the tasks' losses, clipped over the whole scope. With `module_task` every task i has a gradient and a clip of its own, and
    theta_m <- theta_m - sum_i rate[m, i] g_i on module m: under one rate and one clip the task with the largest gradient leaves the
    others nothing (on the scenes depth got worse, .158 to .198). Plain SGD, because a stateful optimiser would carry one episode into
    the next and has no closed-form checks.

    The outer gradient is that of sum_k loss_weights_k L_query(theta_k). Order 2 differentiates through the steps. Order 1 takes every g
    as a constant: the gradient arrives at phi as it is at theta_k, and at a rate as minus its inner product with the clipped gradients up
    to step k, which is exact given that approximation. What phi's own tensors already depend on (a head that a closed form built from
    the backbone's features) keeps its gradient in both orders.

    A descent diverges when the mean loss is not finite, or above `diverge` times that at phi. It then starts anew from phi with half of
    every rate, for this call only; after `max_halvings` halvings without success theta stays at phi. The loss after the last step is
    looked at where `differentiable` is False, by one more forward pass; in training the query loss shows it. A loss that is not finite
    at phi itself is no fault of the rate: the descent goes on, and its gradient shows it to the trainer.

    Cost: one synchronisation with the device per step, to read the loss.

    Args:
        num_inner_steps: K, 0 or more.
        inner_lr: Rate, above 0; of learned rates the start.
        scope: What adapts.
        order: 2: exact; 1: every inner gradient is a constant to the outer one.
        rates: Which rates are learned: none, one per module, one per module and task, one per element.
        rate_factor: Rate of the learned rates' own steps, over the outer optimiser's.
        loss_weights: Weight of the query loss at theta_0 ... theta_K, normalised to sum 1; None: all on theta_K. Only of a descent of K
            steps; a longer or shorter one counts its end.
        clip: Largest norm of a step's gradient over all names in scope; None: no limit.
        diverge: Growth of the support loss that counts as divergence, above 1.
        max_halvings: How often a call may halve the rates.
        engine: How the episodes of a step are computed.

    Raises:
        ConfigError: If `loss_weights` are not K + 1 numbers of 0 or more with a sum above 0, or `scope` is empty.
    """

    def __init__(
        self,
        *,
        num_inner_steps: Annotated[int, Ge(0)],
        inner_lr: Annotated[float, Gt(0)],
        scope: Scope,
        order: Literal[1, 2],
        rates: RateKind,
        rate_factor: Annotated[float, Gt(0)],
        loss_weights: list[Annotated[float, Ge(0)]] | None,
        clip: Annotated[float, Gt(0)] | None,
        diverge: Annotated[float, Gt(1)],
        max_halvings: Annotated[int, Ge(0)],
        engine: HowToVectorise,
    ) -> None:
        if loss_weights is not None and (len(loss_weights) != num_inner_steps + 1 or min(loss_weights) < 0 or not sum(loss_weights) > 0):
            ends = [0.5, *[0.0] * (num_inner_steps - 1), 0.5] if num_inner_steps else [1.0]
            raise ConfigError(
                f"`loss_weights` must be {num_inner_steps + 1} numbers of 0 or more, for 0 to num_inner_steps = {num_inner_steps} steps, "
                f"with a sum above 0; found {list(loss_weights)}.",
                hint=f"inner.loss_weights=[{','.join(map(str, ends))}]; null puts all weight on the last step",
                place="inner.loss_weights",
            )
        if not scope:
            raise ConfigError("`scope` must be one part or more; found none.", hint="inner.scope=[backbone,head]", place="inner.scope")
        self.num_inner_steps = num_inner_steps
        self.scope = tuple(scope)
        self.second_order = order == 2
        self.rates = Rates(kind=rates, inner_lr=inner_lr)
        self.walks_per_task = rates == "module_task"
        self.rate_factor = rate_factor
        self.loss_weights = None if loss_weights is None else [w / sum(loss_weights) for w in loss_weights]
        self.clip = clip
        self.diverge = diverge
        self.max_halvings = max_halvings
        self.engine = engine
        self.halvings = 0

    def start(self, names: Mapping[Name, Tensor], tasks: Mapping[TaskName, frozenset[Name]]) -> None:
        """Make the learned rates, as `InnerLoop.start` says."""
        self.rates.start({name: tensor for name, tensor in names.items() if self.adapts(name)}, tasks)

    def params(self) -> dict[Name, Tensor]:
        """Learned rates by name; see `Rates`."""
        return self.rates.params()

    def reads(self, names: frozenset[Name]) -> frozenset[Name]:
        """Learned rates of the modules of `names`, for whichever task."""
        return self.rates.reads(frozenset(name for name in names if self.adapts(name)))

    def measured(self) -> dict[str, float]:
        """Descents that were halved, and every learned rate."""
        return super().measured() | {f"inner/rate/{name}": value for name, value in self.rates.measured().items()}

    def adapt(
        self,
        objective: Objective,
        phi: Params,
        names: frozenset[Name],
        *,
        steps: int,
        differentiable: bool,
        on_step: OnStep | None = None,
    ) -> list[Reached]:
        """Take `steps` steps on the objective, as `InnerLoop.adapt` says.

        Returns:
            Names that a step changed: attached to phi where `differentiable`, else without a graph. All other names: phi's own tensors.
        """
        weights = self._weights(steps, differentiable)
        last = max(weights)  # a step after the last point that counts would change nothing
        if last == 0:
            return [Reached(0, 1.0, phi)]
        with torch.enable_grad():
            for halving in range(self.max_halvings + 1):
                found = self._descend(objective, phi, names, 0.5**halving, weights, last, differentiable, on_step)
                if found is not None:
                    return found
                self.halvings += 1
        if on_step is not None:
            for k in range(1, last + 1):
                on_step(k, {name: tensor.detach() for name, tensor in phi.items()})
        return [Reached(step, weight, phi) for step, weight in weights.items()]

    def outer(
        self,
        phi: Params,
        reached: Sequence[Reached],  # noqa: ARG002 (the loss is attached to phi through them)
        loss: Tensor | None,
        wrt: Sequence[Name],
        *,
        keep: bool,
    ) -> dict[Name, Tensor]:
        """Gradient of the query loss, by name of phi; names that it does not reach are left out."""
        names = [name for name in wrt if phi[name].requires_grad]
        if loss is None or not loss.requires_grad or not names:
            return {}
        grads = torch.autograd.grad(loss, [phi[name] for name in names], retain_graph=keep, allow_unused=True)
        return {name: grad for name, grad in zip(names, grads, strict=True) if grad is not None}

    def trace(self, objective: Objective, phi: Params, names: frozenset[Name], *, steps: int) -> tuple[list[Reached], Tensor]:
        """The same descent without a look at any number, so that `torch.func` can differentiate and vectorise it; it has no guard.

        Returns:
            The points that count, and the mean support loss at theta_0 ... before each step taken, [K] (empty without steps), for
            `diverged`.
        """
        weights = self._weights(steps, True)
        rate = self.rates.lookup(phi, 1.0)
        ordered = [name for name in phi if name in names]
        theta, values = dict(phi), []
        points = {0: dict(theta)}
        for k in range(1, max(weights) + 1):
            at = theta if self.second_order else {name: tensor.detach() for name, tensor in theta.items()}

            tasks: list[TaskName] = []

            def losses_at(moving: dict[Name, Tensor], at: Params = at, tasks: list[TaskName] = tasks) -> Tensor:
                found = objective({**at, **moving})
                tasks[:] = found
                return torch.stack(list(found.values()))

            moving = {name: at[name] for name in ordered}
            losses_T, pull = cast("tuple[Tensor, Callable[[Tensor], tuple[dict[Name, Tensor]]]]", torch.func.vjp(losses_at, moving))
            values.append(losses_T.detach().mean())
            ones_T = torch.ones_like(losses_T)
            rows: list[tuple[TaskName | None, Tensor]] = [(None, ones_T / len(tasks))]
            if self.walks_per_task:
                rows = list(zip(tasks, torch.diag(ones_T), strict=True))
            for task, cotangent_T in rows:
                grads = {n: g if self.second_order else g.detach() for n, g in pull(cotangent_T)[0].items()}
                for name, grad in self._clipped(grads).items():
                    theta[name] = theta[name] - rate(name, task) * grad
            points[k] = dict(theta)
        reached = [Reached(step, weight, points[step]) for step, weight in weights.items()]
        return reached, torch.stack(values) if values else next(iter(phi.values())).new_zeros(0)

    def diverged(self, values: Tensor) -> bool:
        """Whether any descent diverged, from the support losses of `trace`, [episodes, K]."""
        if values.shape[-1] == 0:
            return False
        first = values[:, :1]
        limit = first + (self.diverge - 1) * first.abs()
        return bool((first.isfinite() & ~(values <= limit)).any())

    def _weights(self, steps: int, differentiable: bool) -> dict[int, float]:
        """Weight of the query loss by number of steps, above 0, rising."""
        if not differentiable or self.loss_weights is None or steps != self.num_inner_steps:
            return {steps: 1.0}
        return {step: weight for step, weight in enumerate(self.loss_weights) if weight > 0}

    def _descend(
        self,
        objective: Objective,
        phi: Params,
        names: frozenset[Name],
        factor: float,
        weights: Mapping[int, float],
        steps: int,
        differentiable: bool,
        on_step: OnStep | None,
    ) -> list[Reached] | None:
        """Take the steps at `factor` times the rates; None as soon as they diverge."""
        graph = differentiable and self.second_order
        ordered = [name for name in phi if name in names]
        rate = self.rates.lookup(phi, factor)
        theta = dict(phi)
        reached = [Reached(0, weights[0], phi)] if 0 in weights else []
        limit = math.inf
        for k in range(1, steps + 1):
            at = dict(theta) if graph else {name: tensor.detach() for name, tensor in theta.items()}
            for name in ordered:
                if not at[name].requires_grad:
                    at[name] = at[name].detach().requires_grad_()
                elif k == 1 and graph:
                    # A start that depends on another (a head made from the backbone's features) must not add to that one's gradient.
                    at[name] = at[name].view_as(at[name])
            losses = objective(at)
            if losses:
                value = float(_mean(losses).detach())
                if k == 1:
                    limit = value + (self.diverge - 1) * abs(value) if math.isfinite(value) else math.nan
                elif self._above(value, limit):
                    return None
                base = at if graph else theta
                self._move(theta, base, losses, at, ordered, rate, graph, differentiable)
            if k in weights:
                reached.append(Reached(k, weights[k], dict(theta)))
            if on_step is not None:
                on_step(k, {name: tensor.detach() for name, tensor in theta.items()})
        if not differentiable:
            with torch.no_grad():
                final = objective(theta)
                if final and self._above(float(_mean(final)), limit):
                    return None
        return reached

    def _move(
        self,
        theta: dict[Name, Tensor],
        base: Mapping[Name, Tensor],
        losses: Mapping[TaskName, Tensor],
        at: Mapping[Name, Tensor],
        ordered: Sequence[Name],
        rate: Lookup,
        graph: bool,
        differentiable: bool,
    ) -> None:
        """Step from `base` by the gradients of `losses` at `at`, into `theta`."""
        moved: dict[Name, Tensor] = {}
        for task, grads in self._gradients(losses, at, ordered, graph):
            with torch.set_grad_enabled(differentiable):
                for name, grad in self._clipped(grads).items():
                    by = rate(name, task)
                    here = moved.get(name, base[name])
                    moved[name] = here.sub(grad, alpha=by) if isinstance(by, float) else here - by * grad
        theta.update(moved)

    def _gradients(
        self, losses: Mapping[TaskName, Tensor], at: Mapping[Name, Tensor], ordered: Sequence[Name], graph: bool
    ) -> Iterator[tuple[TaskName | None, dict[Name, Tensor]]]:
        """Gradient of each task's loss, or under None of their mean, without names that it does not reach."""
        tensors = [at[name] for name in ordered]
        if self.walks_per_task:
            objectives: list[tuple[TaskName | None, Tensor]] = [(t, loss) for t, loss in losses.items() if loss.requires_grad]
        else:
            mean = _mean(losses)
            objectives = [(None, mean)] if mean.requires_grad else []
        for i, (task, loss) in enumerate(objectives):
            if not tensors:
                return
            more = i + 1 < len(objectives)
            grads = torch.autograd.grad(loss, tensors, create_graph=graph, retain_graph=graph or more, allow_unused=True)
            yield task, {name: grad for name, grad in zip(ordered, grads, strict=True) if grad is not None}

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


def _mean(losses: Mapping[TaskName, Tensor]) -> Tensor:
    return next(iter(losses.values())) if len(losses) == 1 else torch.stack(list(losses.values())).mean()
