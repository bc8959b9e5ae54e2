"""First-order MAML."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt

from m3tl_cli.inner.base import HowToVectorise, InnerSGD, Scope
from m3tl_cli.inner.rates import RateKind


class FOMAML(InnerSGD):
    """MAML whose outer gradient is taken at theta_K, as if theta - phi were a constant: `MAML` of order 1 by its own name.

    Source: "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks" (Finn, Abbeel, Levine; ICML 2017),
    https://arxiv.org/abs/1703.03400, 5.2.

    Differs from the paper: as `MAML`.

    Cost: K forward and backward passes on support per episode, beside the query's; nothing is kept of them.

    Args:
        num_inner_steps: K, 0 or more; 0 is joint training.
        inner_lr: Rate of the inner steps, above 0; of learned rates the start.
        scope: What adapts.
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
        scope: Scope,
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
            scope=scope,
            order=1,
            rates=rates,
            rate_factor=rate_factor,
            loss_weights=loss_weights,
            clip=clip,
            diverge=diverge,
            max_halvings=max_halvings,
            engine=engine,
        )
