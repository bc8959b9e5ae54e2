"""Model-agnostic meta-learning."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt

from m3tl_cli.inner.base import HowToVectorise, InnerSGD, Scope
from m3tl_cli.inner.rates import RateKind


class MAML(InnerSGD):
    """Learn a start from which a few gradient steps on support serve query: the outer gradient is that of the adapted query loss.

    phi <- Opt(phi, gradient of L_query(theta_K)) with theta_k = theta_{k-1} - inner_lr * gradient of L_support(theta_{k-1}), theta_0 = phi.

    Order 2 differentiates through the steps, d L_query(theta_K(phi)) / d phi; tasks that adapt together are then coupled. Order 1
    (FOMAML) applies the gradient at theta_K to phi, as if theta - phi were a constant. With 0 steps both are the gradient of joint
    training. With loss_weights [.5, 0, .5] half of the query loss is that before adaptation: phi serves both ends.

    Source: "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks" (Finn, Abbeel, Levine; ICML 2017),
    https://arxiv.org/abs/1703.03400, Algorithm 1 and 5.2 (first order). Loss weights over steps: "How to train your MAML" (Antoniou,
    Edwards, Storkey; ICLR 2019), https://arxiv.org/abs/1810.09502, 3.1; they anneal theirs, here they stay.

    Differs from the paper: a rate per module and task may be learned, in the place of one fixed alpha; an optional clip of the inner
    gradient; a guard against divergence (see `InnerSGD`).

    Cost: K forward and backward passes on support per episode, beside the query's. Order 2 keeps the graph of all K steps and walks it
    back. CPU time of an episode with 1 / 2 / 3 steps on a small convolutional net: 61 / 68 / 89 ms in order 1, 99 / 151 / 214 in order 2.

    Args:
        num_inner_steps: K, 0 or more; 0 is joint training.
        inner_lr: Rate of the inner steps (the paper's alpha), above 0; of learned rates the start.
        scope: What adapts.
        order: 2: exact; 1: FOMAML.
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
            scope=scope,
            order=order,
            rates=rates,
            rate_factor=rate_factor,
            loss_weights=loss_weights,
            clip=clip,
            diverge=diverge,
            max_halvings=max_halvings,
            engine=engine,
        )
