"""Body only update in the inner loop."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt

from m3tl_cli.inner.base import HowToVectorise, InnerSGD
from m3tl_cli.inner.rates import RateKind


class BOIL(InnerSGD):
    """MAML whose inner steps change everything but heads: body only update in the inner loop.

    Heads learn by the outer gradient alone, so that adapting must change the representation instead of reusing it.

    Source: "BOIL: Towards Representation Change for Few-shot Learning" (Oh, Yoo, Kim, Yun; ICLR 2021), https://arxiv.org/abs/2008.08882.

    Differs from the paper: which part of the body adapts is chosen; by default the backbone, as encoders may be frozen.

    Cost: as `MAML`.

    Args:
        num_inner_steps: K, 0 or more; 0 is joint training.
        inner_lr: Rate of the inner steps, above 0; of learned rates the start.
        scope: What adapts: any parts but heads.
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
        scope: list[Literal["encoder", "fusion", "backbone", "sharing", "adapter"]],
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
            scope=list(scope),
            order=order,
            rates=rates,
            rate_factor=rate_factor,
            loss_weights=loss_weights,
            clip=clip,
            diverge=diverge,
            max_halvings=max_halvings,
            engine=engine,
        )
