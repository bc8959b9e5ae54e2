"""Scale and shift in the inner loop."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt

from m3tl_cli.inner.base import HowToVectorise, InnerSGD
from m3tl_cli.inner.rates import RateKind


class ScaleShift(InnerSGD):
    """MAML whose inner steps change the scales and shifts of adapters, and heads: the frozen network is bent, not rewritten.

    What adapts is every parameter whose name ends in `.scale` or `.shift`, which hand-over by scale and shift puts beside each layer, and
    heads. Without such adapters it is ANIL.

    Source: "Meta-Transfer Learning for Few-Shot Learning" (Sun, Liu, Chua, Schiele; CVPR 2019), https://arxiv.org/abs/1812.02391,
    equations 3 to 5.

    Differs from the paper: there the inner loop steps the classifier and the outer loop alone steps scales and shifts; here both adapt, so
    that `anil` on the same network is the paper's own inner loop.

    Cost: as `MAML`; two numbers per channel adapt in the place of its kernel.

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
            scope=["adapter", "head"],
            order=order,
            rates=rates,
            rate_factor=rate_factor,
            loss_weights=loss_weights,
            clip=clip,
            diverge=diverge,
            max_halvings=max_halvings,
            engine=engine,
        )
