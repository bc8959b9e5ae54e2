"""Two quadratic tasks whose fixed points are known, the small outer loop that finds them, and inner loops from their option files."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from m3tl_cli.core.contracts import Name, Params
from m3tl_cli.inner.base import InnerSGD

CONF = Path(__file__).resolve().parent / "options"  # they move to conf/ with the switch that reads them
SLOPES, CENTRES = (1.0, 4.0), (0.0, 1.0)  # a and c of a (theta - c)^2 / 2


def build(stem: str, **changes: Any) -> InnerSGD:
    """Make an inner loop with the numbers of its option file, changed by `changes`."""
    node = yaml.safe_load((CONF / f"{stem}.yaml").read_text())
    module, _, name = node.pop("_target_").rpartition(".")
    inner = getattr(import_module(module), name)(**{**node, **changes})
    assert isinstance(inner, InnerSGD)
    return inner


def everything(phi: Params) -> Callable[[int], frozenset[Name]]:
    """Scope that lets every step change every name."""
    return lambda k: frozenset(phi)


def quadratic(slope: float, centre: float) -> Callable[[Params], Tensor]:
    """Loss a (theta - c)^2 / 2."""
    return lambda params: slope * (params["theta"] - centre).square() / 2


def outer_gradient(inner: InnerSGD, phi: Params, steps: int) -> Tensor:
    """Sum over both tasks of what the loop sends to phi; support and query losses are the same function."""
    total = torch.zeros((), dtype=torch.float64)
    for slope, centre in zip(SLOPES, CENTRES, strict=True):
        loss = quadratic(slope, centre)
        theta = inner.adapt(loss, phi, everything(phi), steps=steps, differentiable=True)
        query = loss(theta) if inner.needs_query else None
        total += inner.outer(phi, theta, query, ["theta"], keep=False).get("theta", torch.zeros(()))
    return total


def fixed_point(inner: InnerSGD, steps: int) -> float:
    """Where plain descent of the outer gradient comes to rest."""
    start = torch.tensor(0.6, dtype=torch.float64)
    for _ in range(200):
        phi = {"theta": start.clone().requires_grad_()}
        start = start - 0.3 * outer_gradient(inner, phi, steps)
    return float(start)


def net() -> dict[Name, Tensor]:
    """Parameters of a small smooth network: a trunk and two heads."""
    generator = torch.Generator().manual_seed(5)
    shapes = {"trunk.weight": (3, 2), "trunk.bias": (3,), "head.a": (3,), "head.b": (3,)}
    return {name: torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_() for name, shape in shapes.items()}


def net_loss(seed: int, heads: tuple[str, ...] = ("a",)) -> Callable[[Params], Tensor]:
    """Squared error of the network's `heads` on six random points."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(6, 2, dtype=torch.float64, generator=generator)
    targets = torch.randn(6, dtype=torch.float64, generator=generator)

    def loss(params: Params) -> Tensor:
        hidden = torch.tanh(points @ params["trunk.weight"].T + params["trunk.bias"])
        return torch.stack([(hidden @ params[f"head.{head}"] - targets).square().mean() for head in heads]).sum()

    return loss
