"""Meta-SGD."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt

from m3tl_cli.inner.base import HowToVectorise, InnerSGD, Scope


class MetaSGD(InnerSGD):
    """Learn the start and, for every element of every parameter, the rate at which it adapts.

    theta_k = theta_{k-1} - alpha * gradient of L_support(theta_{k-1}), element by element, with alpha learned by the outer gradient. On
    quadratics a (theta - c)^2 / 2 it learns alpha = 1 / a, one Newton step.

    Source: "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning" (Li, Zhou, Chen, Li; 2017), https://arxiv.org/abs/1707.09835,
    equation 3.

    Differs from the paper: alpha = inner_lr * exp(rho) stays positive, where theirs may turn a direction round; it has an outer rate of
    its own (`rate_factor`); any number of steps, theirs is one; all alpha start at `inner_lr`, theirs at random; order 1 as well.

    Cost: as `MAML`, and as many rates as parameters in scope.

    Args:
        num_inner_steps: K, 0 or more; 0 is joint training.
        inner_lr: Rate at the start, above 0.
        scope: What adapts.
        order: 2: exact; 1: every inner gradient is a constant to the outer one; the rates' gradient is exact given that.
        rate_factor: Rate of the learned rates' own steps, over the outer optimiser's.
        loss_weights: Weight of the query loss at theta_0 ... theta_K, K + 1 numbers, normalised; None: all on theta_K.
        clip: Largest norm of a step's gradient over the scope; None: no limit.
        diverge: Growth of the support loss that counts as divergence, above 1.
        max_halvings: How often a call may halve the rates.
        engine: How the episodes of a step are computed: one by one, all at once by `vmap`, or whichever is faster.
    """

    def __init__(
        self,
        *,
        num_inner_steps: Annotated[int, Ge(0)],
        inner_lr: Annotated[float, Gt(0)],
        scope: Scope,
        order: Literal[1, 2],
        rate_factor: Annotated[float, Gt(0)],
        loss_weights: list[Annotated[float, Ge(0)]] | None,
        clip: Annotated[float, Gt(0)] | None,
        diverge: Annotated[float, Gt(1)],
        max_halvings: Annotated[int, Ge(0)],
        engine: HowToVectorise,
    ) -> None:
        super().__init__(
            num_inner_steps=num_inner_steps,
            inner_lr=inner_lr,
            scope=scope,
            order=order,
            rates="element",
            rate_factor=rate_factor,
            loss_weights=loss_weights,
            clip=clip,
            diverge=diverge,
            max_halvings=max_halvings,
            engine=engine,
        )
