"""Learned rates of inner steps: one number, one per module, one per module and task, or one per element."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from m3tl_cli.core.contracts import Name, Params, TaskName

RateKind = Literal["fixed", "module", "module_task", "element"]
Lookup = Callable[[Name, TaskName | None], float | Tensor]
PREFIX = "inner.rate."


@cache
def module(name: Name) -> str:
    """Module of a parameter: `encoder.<column>.<modality>`, `fusion.<column>`, `backbone.<column>`, `head.<task>`, `sharing.<...>`."""
    parts = name.split(".")
    return ".".join(parts[: 3 if parts[0] == "encoder" else 2])


class Rates:
    """Rates that the outer loop learns, as rate = inner_lr * exp(rho) with rho = 0 at the start.

    The logarithm keeps a rate positive and makes a step of the outer optimiser a relative change; measured from `inner_lr`, weight
    decay pulls a rate back to `inner_lr` and not to 1. Leaves are named `inner.rate.<module>` (`module`),
    `inner.rate.<module>.<task>` (`module_task`) or `inner.rate.<name>` (`element`).

    A rate that comes with growth starts at the mean rho of those of the same part (`head`, `backbone` ...) that were learned: what seen
    tasks learnt is the best guess for a new one. Until it is stepped itself, each `start` brings it up to date.

    Args:
        kind: `fixed`: none is learned.
        inner_lr: Rate at the start, above 0.
    """

    def __init__(self, *, kind: RateKind, inner_lr: float) -> None:
        self.kind = kind
        self.inner_lr = inner_lr
        self._leaves: dict[Name, Tensor] = {}
        self._made: dict[Name, Tensor] = {}  # where each leaf started
        self._now: dict[Name, Tensor] = {}
        self._modules: dict[Name, str] = {}

    def start(self, names: Mapping[Name, Tensor], tasks: Mapping[TaskName, frozenset[Name]]) -> None:
        """Make the rates of a model; those that an earlier call made keep their values.

        Args:
            names: Parameters that the inner steps may change.
            tasks: What each task reads.
        """
        wanted: dict[Name, tuple[Tensor, str]] = {}
        for name, param in names.items():
            place = module(name)
            zero = torch.zeros((), dtype=param.dtype, device=param.device)
            if self.kind == "module":
                wanted.setdefault(f"{PREFIX}{place}", (zero.clone(), place))
            elif self.kind == "module_task":
                for task, read in tasks.items():
                    if name in read:
                        wanted.setdefault(f"{PREFIX}{place}.{task}", (zero.clone(), place))
            elif self.kind == "element":
                wanted[f"{PREFIX}{name}"] = (torch.zeros_like(param, requires_grad=False), name)
        learned = {rate: leaf.detach() for rate, leaf in self._leaves.items() if not torch.equal(leaf, self._made[rate])}
        self._now = {}
        for rate, (zero, place) in wanted.items():
            leaf = self._leaves.get(rate)
            if leaf is None or leaf.device != zero.device or leaf.dtype != zero.dtype:
                leaf = (zero if leaf is None else leaf.detach().to(zero)).requires_grad_()
            if rate not in learned:
                with torch.no_grad():
                    leaf.copy_(self._mean(learned, rate, zero.detach()))
                self._made[rate] = leaf.detach().clone()
            self._leaves[rate] = self._now[rate] = leaf
            self._made[rate] = self._made[rate].to(leaf)
            self._modules[rate] = place

    @staticmethod
    def _mean(learned: Mapping[Name, Tensor], rate: Name, like: Tensor) -> Tensor:
        part = rate.removeprefix(PREFIX).partition(".")[0]
        alike = [rho.mean().to(like) for name, rho in learned.items() if name.removeprefix(PREFIX).partition(".")[0] == part]
        return torch.stack(alike).mean() if alike else like.new_zeros(())

    def params(self) -> dict[Name, Tensor]:
        """Leaves of the model that `start` was last called for."""
        return self._now

    def reads(self, names: frozenset[Name]) -> frozenset[Name]:
        """Rates that move the modules of `names`, for whichever task."""
        places = names if self.kind == "element" else {module(name) for name in names}
        return frozenset(rate for rate in self._now if self._modules[rate] in places)

    def lookup(self, phi: Params, factor: float) -> Lookup:
        """Rate of a name for a task, times `factor`: a number, or a tensor that is attached to phi's leaf.

        What has no leaf in phi is looked up here; what has none here either (a name that came after `start`) moves at `inner_lr`.
        """
        found: dict[Name, float | Tensor] = {}

        def rate(name: Name, task: TaskName | None) -> float | Tensor:
            if self.kind == "fixed":
                return self.inner_lr * factor
            place = name if self.kind == "element" else module(name)
            key = f"{PREFIX}{place}.{task}" if self.kind == "module_task" else f"{PREFIX}{place}"
            if key not in found:
                rho = phi.get(key, self._leaves.get(key))
                found[key] = self.inner_lr * factor if rho is None else (self.inner_lr * factor) * rho.exp()
            return found[key]

        return rate

    @torch.no_grad()
    def measured(self) -> dict[str, float]:
        """Every rate for the log; of elements the geometric mean over a parameter."""
        values = [leaf.float().mean().exp() * self.inner_lr for leaf in self._now.values()]
        numbers = torch.stack(values).tolist() if values else []
        return {rate.removeprefix(PREFIX): number for rate, number in zip(self._now, numbers, strict=True)}
