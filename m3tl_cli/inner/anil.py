"""Almost no inner loop."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt

from m3tl_cli.inner.base import HowToVectorise, InnerSGD
from m3tl_cli.inner.rates import RateKind


class ANIL(InnerSGD):
    """MAML whose inner steps change heads only: almost no inner loop.

    Everything below the heads is the same for support and query of every episode, and learns by the outer gradient alone.

    Source: "Rapid Learning or Feature Reuse? Towards Understanding the Effectiveness of MAML" (Raghu, Raghu, Bengio, Vinyals; ICLR 2020),
    https://arxiv.org/abs/1909.09157, section 4.

    Differs from the paper: the whole head of a task adapts, which may have hidden layers, not the last layer only.

    Cost: as `MAML`, less the backward passes below the heads in order 1.

    Args:
        num_inner_steps: K, 0 or more; 0 is joint training.
        inner_lr: Rate of the inner steps, above 0; of learned rates the start.
        order: 2: exact; 1: every inner gradient is a constant to the outer one.
        rates: Which rates are learned: none (`fixed`), one per `module`, per module and task, per `element`.
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
        order: Literal[1, 2],
        rates: RateKind,
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
            scope=["head"],
            order=order,
            rates=rates,
            rate_factor=rate_factor,
            loss_weights=loss_weights,
            clip=clip,
            diverge=diverge,
            max_halvings=max_halvings,
            engine=engine,
        )
