"""Fine-tuning: what was learnt is where training starts."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le
from torch import Tensor

from m3tl_cli.core.contracts import Name, Params
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.transfer.base import HandOver, is_head
from m3tl_cli.transfer.handover.levels import levels


class FineTune(HandOver):
    """Train everything, deeper layers more slowly, later, or on a spring, as asked for.

    * Discriminative rates: a name l levels below the heads learns at `decay`^l times the learning rate.
    * Gradual unfreezing: level l changes from step l * `unfreeze_every` * steps on, heads and fresh names from the first.
    * L2-SP: the objective gains `l2_sp` / 2 * sum (w - w0)^2 over what is handed over below the heads, w0 being where the stage starts.

    Source: discriminative rates and gradual unfreezing from "Universal Language Model Fine-tuning for Text Classification" (Howard and
    Ruder, ACL 2018), section 3.3, https://arxiv.org/abs/1801.06146; L2-SP from "Explicit Inductive Bias for Transfer Learning with
    Convolutional Networks" (Li et al., ICML 2018), equation 3, https://arxiv.org/abs/1802.01483.
    Differs from the papers: levels instead of layers (`levels`); unfreezing by shares of the stage instead of epochs; L2-SP leaves new
    parameters to the optimiser's weight decay, and the handed-over ones do not escape that.

    Args:
        decay: Factor of the rate per level, in (0, 1].
        unfreeze_every: Share of the stage's steps between one level and the next, in (0, 1); None: all levels from the first step.
        l2_sp: Strength of L2-SP, in loss per squared distance; 0: none.
    """

    def __init__(
        self,
        *,
        decay: Annotated[float, Gt(0), Le(1)],
        unfreeze_every: Annotated[float, Gt(0), Le(1)] | None,
        l2_sp: Annotated[float, Ge(0)],
    ) -> None:
        self.decay, self.unfreeze_every, self.l2_sp = decay, unfreeze_every, l2_sp

    def trainable(self, params: Params, fresh: frozenset[Name], step: int, steps: int) -> frozenset[Name]:
        """Names of all levels that are unfrozen at `step`.

        Raises:
            ConfigError: If the stage would end before its deepest level is unfrozen.
        """
        if self.unfreeze_every is None:
            return frozenset(params)
        depth = levels(params, fresh)
        deepest = max(depth.values(), default=0)
        every = self.unfreeze_every * steps
        if steps and deepest * every > steps - 1:
            raise ConfigError(
                f"`unfreeze_every` must be so small that all {deepest} levels get their turn in {steps} steps; "
                f"found {self.unfreeze_every:g}, which unfreezes the last at step {deepest * every:g}.",
                hint=f"transfer.handover.unfreeze_every={0.9 / (deepest + 1):.2g}, or null",
                place="transfer.handover.unfreeze_every",
            )
        return frozenset(n for n, level in depth.items() if step >= level * every)

    def rates(self, params: Params, fresh: frozenset[Name]) -> dict[Name, float]:
        """`decay` to the power of the level."""
        return {n: self.decay**level for n, level in levels(params, fresh).items()}

    def penalty(self, params: Params, start: Params) -> Tensor | None:
        """L2-SP, a scalar; None where `l2_sp` is 0 or nothing is handed over below the heads."""
        if not self.l2_sp:
            return None
        distances = [(params[n] - start[n]).square().sum() for n in start if n in params and not is_head(n)]
        return self.l2_sp / 2 * sum(distances[1:], distances[0]) if distances else None
