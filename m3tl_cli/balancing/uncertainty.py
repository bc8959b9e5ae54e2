"""Homoscedastic uncertainty weighting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from annotated_types import Gt, Le
from torch import Tensor

from m3tl_cli.balancing.base import Balancer
from m3tl_cli.core.contracts import TaskName
from m3tl_cli.core.errors import ConfigError


class Uncertainty(Balancer):
    """Weigh each loss by the inverse of a learnt noise level: minimise sum over tasks of exp(-s_i) L_i + s_i, over s as well.

    * s_i: logarithm of task i's noise variance; starts at 0, where the loss counts 1. At rest s_i = ln L_i, so exp(-s_i) = 1 / L_i.

    Once per optimiser step, after its weights were handed out, s_i of every task that is present descends its own gradient,
    1 - exp(-s_i) L_i, with rate `lr`. The gradient is at most 1; below -1 it is cut to -1, because a first loss of 1000 would
    otherwise throw s so far that the task weighed nothing for thousands of steps. So s moves by `lr` at most, always towards ln L_i,
    and needs no state of an optimiser. The main optimiser never sees s: no weight decay pulls it to 0.

    An absent task's s does not move: its term +s_i would else draw it to minus infinity, and bias a task that is present half of
    the time. A loss of exactly 0 tells nothing of the noise (ln 0) and moves nothing either; nor does a step that the trainer throws
    away because one of its losses is not finite.

    Source: "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics" (Kendall, Gal, Cipolla;
    CVPR 2018), https://arxiv.org/abs/1705.07115, with s = ln sigma^2 as in its section 4.2 "in practice".

    Differs from the paper: it writes L/(2 sigma^2) + ln sigma for regression and L/sigma^2 + ln sigma for classes. At rest both
    weigh the loss 1/(2 L), half of what stands here, whatever the kind of task; the halves only rescale the learning rate, so there
    is no option for them. The paper trains s with the network's optimiser. TorchJD's and LibMTL's `UW` do not leave absent tasks out.

    Cost: nothing beyond the pass; T numbers go to the CPU, one synchronisation per step.

    Args:
        lr: Rate of s, in (0, 1]; the memory of a loss is about 1 / lr steps.
    """

    needs = "losses"

    def __init__(self, *, lr: Annotated[float, Gt(0), Le(1)]) -> None:
        self._lr = lr
        self._log_variance: dict[TaskName, float] = {}

    def reset(self, tasks: Sequence[TaskName]) -> None:
        """Put s at 0 for every task."""
        self._log_variance = dict.fromkeys(tasks, 0.0)

    def weights(self, losses_T: Tensor, tasks: Sequence[TaskName]) -> Tensor:
        """exp(-s) of the tasks present, [T]; then one step on s.

        Raises:
            ConfigError: A loss is negative, where the objective has no minimum over s.
        """
        s = self._log_variance
        weights_T = losses_T.new_tensor([math.exp(-s[task]) for task in tasks])
        losses = losses_T.detach().cpu().tolist()
        finite = all(map(math.isfinite, losses))
        for task, loss in zip(tasks, losses, strict=True):
            if loss < 0:
                raise ConfigError(
                    f"losses must be at least 0 under balancing=uncertainty; found {loss:.4g} for task {task!r}.",
                    hint="type 'balancing=sum' or 'balancing=pcgrad'",
                    place="balancing",
                )
            if loss > 0 and finite:
                s[task] -= self._lr * max(1.0 - math.exp(-s[task]) * loss, -1.0)
        return weights_T

    def state_dict(self) -> dict[str, Any]:
        """s by task; a float survives JSON to the bit."""
        return {"log_variance": dict(self._log_variance)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue bit for bit from `state_dict`."""
        self._log_variance = dict(state["log_variance"])
