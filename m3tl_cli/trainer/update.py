"""One update: differentiate, balance, clip per component, step. Training and adaptation at a target take the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from m3tl_cli.core.contracts import Episode, Name, Params, TaskName
from m3tl_cli.core.errors import TrainingError
from m3tl_cli.optimizer.base import Rate, same_rate
from m3tl_cli.paradigm.engine import Engine
from m3tl_cli.trainer.selection import Component


@dataclass(frozen=True)
class Freedom:
    """What a stage may change, and how fast.

    Args:
        names: Everything that some step of the stage may change.
        trainable: Names that step s may change, of `names`; None: all of them, always.
        rate: Factor of the learning rate by name.
        penalty: Added to the objective at given parameters; belongs to no task and is not balanced.
    """

    names: frozenset[Name]
    trainable: Callable[[int], frozenset[Name]] | None = None
    rate: Rate = same_rate
    penalty: Callable[[Params], Tensor | None] | None = None

    def at(self, step: int) -> frozenset[Name]:
        """Names that step `step` may change."""
        return self.names if self.trainable is None else self.trainable(step) & self.names


@dataclass(frozen=True)
class Measures:
    """What an update measured: losses per task, gradient norms per component before clipping."""

    losses: dict[TaskName, float]
    norms: dict[tuple[TaskName, ...], float]


def update(
    engine: Engine,
    episodes: Sequence[Episode],
    *,
    step: int,
    freedom: Freedom,
    components: Sequence[Component],
    params: Mapping[Name, Tensor],
    optimizer: torch.optim.Optimizer,
    clip: float | None,
) -> Measures:
    """Take one step of `optimizer` on `params` in place.

    Args:
        engine: Its trainable names are set to those of the step.
        episodes: Of this update.
        step: Counted from 0.
        freedom: What may change.
        components: Tasks that are clipped together.
        params: Leaves by name; names of `freedom` that are not trainable now keep their values.
        optimizer: Over `params`.
        clip: Largest gradient norm of a component; None: no clipping.

    Raises:
        TrainingError: If a loss or gradient is not finite; nothing has changed then.
    """
    engine.trainable = freedom.at(step)
    signal = engine.signal(episodes)
    gradient = engine.gradient(signal)
    if freedom.penalty is not None:
        _add_penalty(gradient, freedom.penalty, params, engine.trainable)
    norms: dict[tuple[TaskName, ...], Tensor] = {}
    for component in components:
        if found := [gradient[n] for n in component.names if n in gradient]:
            norms[component.tasks] = get_total_norm(found)
    measured = [*signal.losses.values(), *norms.values()]
    # One wait for the device, and so one look at every number, an update.
    numbers = torch.stack([m.detach().float() for m in measured]).tolist() if measured else []
    losses = dict(zip(signal.losses, numbers, strict=False))
    norm_values = dict(zip(norms, numbers[len(losses) :], strict=True))
    _refuse_not_finite(step, losses, norm_values)
    for component in components:
        norm = norm_values.get(component.tasks, 0.0)
        if clip is not None and norm > clip:
            # Not in place: autograd may hand the same tensor to two parameters.
            gradient.update({n: gradient[n] * (clip / norm) for n in component.names if n in gradient})
    for name, param in params.items():
        param.grad = gradient.get(name) if name in engine.trainable else None
    optimizer.step()
    return Measures(losses, norm_values)


def _add_penalty(
    gradient: dict[Name, Tensor], penalty: Callable[[Params], Tensor | None], params: Mapping[Name, Tensor], trainable: frozenset[Name]
) -> None:
    value = penalty(params)
    if value is None or not value.requires_grad:
        return
    names = [n for n in params if n in trainable]
    found = torch.autograd.grad(value, [params[n] for n in names], allow_unused=True)
    for name, more in zip(names, found, strict=True):
        if more is not None:
            gradient[name] = gradient[name] + more if name in gradient else more


def _refuse_not_finite(step: int, losses: Mapping[TaskName, float], norms: Mapping[tuple[TaskName, ...], float]) -> None:
    hint = "lower optimizer.lr or trainer.clip, or use trainer.precision=32; the last checkpoint is from before this update"
    for task, value in losses.items():
        if not math.isfinite(value):
            raise TrainingError(f"the loss of task `{task}` must be finite; found {value} at update {step + 1}", hint=hint, place=task)
    for tasks, value in norms.items():
        if not math.isfinite(value):
            named = ", ".join(tasks)
            raise TrainingError(f"the gradient of {named} must be finite; found norm {value} at update {step + 1}", hint=hint, place=named)
