"""Reptile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt
from torch import Tensor

from m3tl_cli.core.contracts import Name, Params
from m3tl_cli.inner.base import InnerSGD, Reached, Scope


class Reptile(InnerSGD):
    """Move the start towards where the inner steps ended: the outer gradient is phi - theta_K.

    phi <- Opt(phi, phi - theta_K); with plain SGD of rate epsilon this is phi + epsilon (theta_K - phi). It reads no query loss, so its
    outer gradient cannot be split by task where tasks adapt together, and no balancer that needs rows can follow. With one step it
    is `inner_lr` times the gradient of joint training on support.

    Source: "On First-Order Meta-Learning Algorithms" (Nichol, Achiam, Schulman; 2018), https://arxiv.org/abs/1803.02999, Algorithm 1.

    Differs from the paper: it steps by Adam with beta_1 = 0 in the inner loop, here by plain SGD; and a guard against divergence (see
    `InnerSGD`). Rates are fixed, since nothing here says how a rate should change. A head that a closed form built is left as it is.

    Cost: K forward and backward passes per episode; no query pass, no second-order graph.

    Args:
        num_inner_steps: K, 0 or more.
        inner_lr: Rate of the inner steps, above 0.
        scope: What adapts, and so what learns.
        clip: Largest norm of a step's gradient over the scope; None: no limit.
        diverge: Growth of the support loss that counts as divergence, above 1.
        max_halvings: How often a call may halve the rates.
    """

    row_per_task: ClassVar[bool] = False
    needs_query: ClassVar[bool] = False

    def __init__(
        self,
        *,
        num_inner_steps: Annotated[int, Ge(0)],
        inner_lr: Annotated[float, Gt(0)],
        scope: Scope,
        clip: Annotated[float, Gt(0)] | None,
        diverge: Annotated[float, Gt(1)],
        max_halvings: Annotated[int, Ge(0)],
    ) -> None:
        super().__init__(
            num_inner_steps=num_inner_steps,
            inner_lr=inner_lr,
            scope=scope,
            order=1,
            rates="fixed",
            rate_factor=1.0,
            loss_weights=None,
            clip=clip,
            diverge=diverge,
            max_halvings=max_halvings,
            engine="loop",
        )

    def outer(
        self,
        phi: Params,
        reached: Sequence[Reached],
        loss: Tensor | None,  # noqa: ARG002
        wrt: Sequence[Name],
        *,
        keep: bool,  # noqa: ARG002
    ) -> dict[Name, Tensor]:
        """Difference phi - theta_K of every name that the steps changed; `loss` and `keep` are not read."""
        theta = reached[-1].params
        return {name: (phi[name] - theta[name]).detach() for name in wrt if name in theta and theta[name] is not phi[name]}
