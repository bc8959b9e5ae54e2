"""Two quadratic tasks whose fixed points are known, the small outer loop that finds them, and inner loops from their option files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from m3tl_cli.core.contracts import Name, Params, TaskName
from m3tl_cli.inner.base import InnerSGD

CONF = Path(__file__).resolve().parents[2] / "conf" / "inner"
SLOPES, CENTRES = (1.0, 4.0), (0.0, 1.0)  # a and c of a (theta - c)^2 / 2
PLAIN = {"rates": "fixed", "loss_weights": None, "clip": None, "scope": ["backbone", "head"], "engine": "loop"}
Loss = Callable[[Params], dict[TaskName, Tensor]]


def build(stem: str, **changes: Any) -> InnerSGD:
    """Make an inner loop with the numbers of its option file, changed by `changes`."""
    node = yaml.safe_load((CONF / f"{stem}.yaml").read_text())
    module, _, name = node.pop("_target_").rpartition(".")
    inner = getattr(import_module(module), name)(**{**node, **changes})
    assert isinstance(inner, InnerSGD)
    return inner


def plain(stem: str, **changes: Any) -> InnerSGD:
    """The algorithm of the paper: one fixed rate, no clip, all weight on the last step."""
    known = set(yaml.safe_load((CONF / f"{stem}.yaml").read_text()))
    return build(stem, **{k: v for k, v in PLAIN.items() if k in known}, **changes)


def adapted(
    inner: InnerSGD, loss: Loss, phi: Params, steps: int | None = None, names: frozenset[Name] | None = None
) -> Mapping[Name, Tensor]:
    """Where the descent ends, with what the outer gradient needs."""
    names = frozenset(n for n in phi if not n.startswith("inner.")) if names is None else names
    steps = inner.num_inner_steps if steps is None else steps
    return inner.adapt(loss, phi, names, steps=steps, differentiable=True)[-1].params


def quadratic(slope: float, centre: float, name: str = "theta") -> Loss:
    """Loss a (theta - c)^2 / 2 of one task."""
    return lambda params: {"task": (slope * (params[name] - centre).square() / 2).sum()}


def outer_gradient(inner: InnerSGD, phi: Params, steps: int) -> Tensor:
    """Sum over both tasks of what the loop sends to phi; support and query losses are the same function."""
    total = torch.zeros((), dtype=torch.float64)
    for slope, centre in zip(SLOPES, CENTRES, strict=True):
        loss = quadratic(slope, centre)
        reached = inner.adapt(loss, phi, frozenset({"theta"}), steps=steps, differentiable=True)
        query = weighted(loss, reached) if inner.needs_query else None
        total += inner.outer(phi, reached, query, ["theta"], keep=False).get("theta", torch.zeros(()))
    return total


def weighted(loss: Loss, reached: Any) -> Tensor:
    """Query loss over the points reached, summed over tasks."""
    return torch.stack([point.weight * torch.stack(list(loss(point.params).values())).sum() for point in reached]).sum()


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
    shapes = {"backbone.s.weight": (3, 2), "backbone.s.bias": (3,), "head.a.out": (3,), "head.b.out": (3,)}
    return {name: torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_() for name, shape in shapes.items()}


def net_reads() -> dict[TaskName, frozenset[Name]]:
    """What its tasks read."""
    return {t: frozenset({"backbone.s.weight", "backbone.s.bias", f"head.{t}.out"}) for t in ("a", "b")}


def net_loss(seed: int, heads: tuple[str, ...] = ("a",)) -> Loss:
    """Squared error of the network's `heads` on six random points."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(6, 2, dtype=torch.float64, generator=generator)
    targets = torch.randn(6, dtype=torch.float64, generator=generator)

    def loss(params: Params) -> dict[TaskName, Tensor]:
        hidden = torch.tanh(points @ params["backbone.s.weight"].T + params["backbone.s.bias"])
        return {head: (1 + i) * (hidden @ params[f"head.{head}.out"] - targets).square().mean() for i, head in enumerate(heads)}

    return loss


def started(inner: InnerSGD) -> dict[Name, Tensor]:
    """Phi of the network with the learned rates of `inner`, each a little off its start."""
    phi = net()
    inner.start(phi, net_reads())
    with torch.no_grad():
        for i, rho in enumerate(inner.params().values()):
            rho += 0.1 * (i + 1)
    return phi | inner.params()


def finite_differences(value: Callable[[Params], float], phi: Params, step: float = 1e-5) -> dict[Name, Tensor]:
    """Slope of `value` along every element of phi."""
    slopes = {name: torch.zeros_like(tensor, requires_grad=False) for name, tensor in phi.items()}
    for name, tensor in phi.items():
        for place in range(tensor.numel()):
            ends = []
            for shift in (step, -step):
                moved = {n: t.detach().clone() for n, t in phi.items()}
                moved[name].view(-1)[place] += shift
                ends.append(value({n: t.requires_grad_() for n, t in moved.items()}))
            slopes[name].view(-1)[place] = (ends[0] - ends[1]) / (2 * step)
    return slopes
