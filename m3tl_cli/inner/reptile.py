"""Reptile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt
from torch import Tensor

from m3tl_cli.core.contracts import Name, Params
from m3tl_cli.inner.base import InnerSGD


class Reptile(InnerSGD):
    """Move the start towards where the inner steps ended: the outer gradient is phi - theta_K.

    phi <- Opt(phi, phi - theta_K); with plain SGD of rate epsilon this is phi + epsilon (theta_K - phi). It reads no query loss, so its
    outer gradient cannot be split by task where tasks adapt together, and no balancer that needs rows can follow. With one step it
    is `inner_lr` times the gradient of joint training on support.

    Source: "On First-Order Meta-Learning Algorithms" (Nichol, Achiam, Schulman; 2018), https://arxiv.org/abs/1803.02999, Algorithm 1.

    Differs from the paper: it steps by Adam with beta_1 = 0 in the inner loop, here by plain SGD; and a guard against divergence (see
    `InnerSGD`).

    Cost: K forward and backward passes per episode; no query pass, no second-order graph.

    Args:
        inner_lr: Rate of the inner steps, above 0.
        clip: Largest norm of an inner gradient over the scope; None: no limit.
        diverge: Growth of the support loss that counts as divergence, above 1.
        max_halvings: How often a call may halve the rate.
    """

    row_per_task: ClassVar[bool] = False
    needs_query: ClassVar[bool] = False

    def __init__(
        self,
        *,
        inner_lr: Annotated[float, Gt(0)],
        clip: Annotated[float, Gt(0)] | None,
        diverge: Annotated[float, Gt(1)],
        max_halvings: Annotated[int, Ge(0)],
    ) -> None:
        super().__init__(inner_lr=inner_lr, clip=clip, diverge=diverge, max_halvings=max_halvings)

    def outer(self, phi: Params, theta: Params, loss: Tensor | None, wrt: Sequence[Name], *, keep: bool) -> dict[Name, Tensor]:  # noqa: ARG002
        """Difference phi - theta of every name that the steps changed; `loss` and `keep` are not read."""
        return {name: (phi[name] - theta[name]).detach() for name in wrt if theta[name] is not phi[name]}
