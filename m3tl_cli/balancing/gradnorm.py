"""Gradient normalisation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from m3tl_cli.balancing.base import Balanced, Balancer
from m3tl_cli.core.contracts import TaskName
from m3tl_cli.core.errors import ConfigError


class GradNorm(Balancer):
    """Learn loss weights that give tasks gradients of like norm, larger for those that train more slowly.

    The weights descend L_grad = sum over tasks of |G_i - mean(G) r_i^alpha|, the second term held constant.

    * G_i = w_i ||grad L_i||: norm of the weighted gradient over the shared parameters; mean(G) over the tasks present.
    * r_i = (L_i / L_i(0)) / mean over tasks of the same: relative inverse training rate. L_i(0) is the task's first loss above 0.

    One descent step per optimiser step, after its weights were handed out (as in Algorithm 1). The weights that are handed out sum to
    the number of tasks present, so a task alone counts 1. An absent task keeps its weight: a step moves weight among those present
    only, and the weights of all tasks of the stage always sum to their number. A step with a norm or loss that is not finite, or with
    no gradient at all, teaches nothing.

    Source: "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks" (Chen, Badrinarayanan, Lee,
    Rabinovich; ICML 2018), https://arxiv.org/abs/1711.02257, Algorithm 1.

    Differs from the paper: G_i is over all shared parameters, whose gradients are at hand, not over the last shared layer alone.
    The step is an exponentiated-gradient one, w_i <- w_i exp(-lr sign_i G_i / mean(G)): plain descent of L_grad / mean(G) in ln w. It
    keeps weights above 0 and does not depend on the gradients' scale, where a step on w itself crosses 0 as soon as `lr` exceeds a
    weight (.0198 for norms 1:100). The paper uses Adam and finds GradNorm "insensitive to the optimizer chosen" (5.1); the
    fixed points are those of L_grad either way, reached to a relative precision of about `lr`.

    Cost: T norms over [T, P], one synchronisation per step. The T backward passes are those of any balancer that needs rows.

    Args:
        alpha: Strength with which slow tasks are pulled up, 0 or more; 0 makes all norms equal.
        lr: Rate of the weights, in (0, 1].
    """

    needs = "rows"

    def __init__(self, *, alpha: Annotated[float, Ge(0)], lr: Annotated[float, Gt(0), Le(1)]) -> None:
        self._alpha = alpha
        self._lr = lr
        self._weights: dict[TaskName, float] = {}
        self._initial: dict[TaskName, float] = {}

    def reset(self, tasks: Sequence[TaskName]) -> None:
        """Weigh every task 1 and forget the first losses."""
        self._weights = dict.fromkeys(tasks, 1.0)
        self._initial = {}

    def combine(self, rows_TP: Tensor, losses_T: Tensor, tasks: Sequence[TaskName]) -> Balanced:
        """Weigh shared rows and private gradients alike, then take one step on the weights.

        Raises:
            ConfigError: A loss is negative: L_i / L_i(0) is then no training rate.
        """
        total = sum(self._weights[task] for task in tasks)
        weights_T = rows_TP.new_tensor([self._weights[task] * len(tasks) / total for task in tasks])
        norms_T = torch.linalg.vector_norm(rows_TP, dim=1)
        norms, losses = torch.stack([norms_T, losses_T.detach().to(norms_T)]).cpu().tolist()
        for task, loss in zip(tasks, losses, strict=True):
            if loss < 0:
                raise ConfigError(
                    f"losses must be at least 0 under balancing=gradnorm; found {loss:.4g} for task {task!r}.",
                    hint="type 'balancing=sum' or 'balancing=pcgrad'",
                    place="balancing",
                )
        if all(map(math.isfinite, [*norms, *losses])):
            self._step(norms, losses, tasks, total)
        return Balanced(weights_T @ rows_TP, weights_T, weights_T)

    def _step(self, norms: Sequence[float], losses: Sequence[float], tasks: Sequence[TaskName], total: float) -> None:
        for task, loss in zip(tasks, losses, strict=True):
            if loss > 0:
                self._initial.setdefault(task, loss)
        weighted = [self._weights[task] * norm for task, norm in zip(tasks, norms, strict=True)]
        mean = sum(weighted) / len(tasks)
        if mean == 0:
            return
        # A task whose loss has been 0 from the start has no training rate: it counts as one that stands still.
        ratios = [loss / self._initial[task] if task in self._initial else 1.0 for task, loss in zip(tasks, losses, strict=True)]
        mean_ratio = sum(ratios) / len(tasks) or 1.0
        moved = {}
        for task, norm, ratio in zip(tasks, weighted, ratios, strict=True):
            excess = norm - mean * (ratio / mean_ratio) ** self._alpha
            sign = (excess > 0) - (excess < 0)
            moved[task] = self._weights[task] * math.exp(-self._lr * sign * norm / mean)
        scale = total / sum(moved.values())
        self._weights.update({task: weight * scale for task, weight in moved.items()})

    def state_dict(self) -> dict[str, Any]:
        """Weights and first losses by task; a float survives JSON to the bit."""
        return {"weights": dict(self._weights), "initial": dict(self._initial)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue bit for bit from `state_dict`."""
        self._weights = dict(state["weights"])
        self._initial = dict(state["initial"])
