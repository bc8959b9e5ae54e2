"""Small networks with every kind of normalisation, episodes on a table, and derivatives by differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from m3tl_cli.balancing.base import Balancer
from m3tl_cli.core.contracts import Batch, Episode, Name, Params, Part, Task, TaskName, generator
from m3tl_cli.inner.base import InnerSGD
from m3tl_cli.paradigm.engine import Engine
from m3tl_cli.selftest import Quadratic
from tests.inner._inputs import build
from tests.toys import TABLE, TablePool, regression

NORMS = ("none", "batch", "layer", "group", "attention")


class Attention(nn.Module):
    """Four tokens of two numbers that look at one another through the fused kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(2, 6)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.view(len(x), 1, 4, 2)).chunk(3, dim=-1)
        return F.scaled_dot_product_attention(q, k, v).reshape(len(x), 8)


class Net(nn.Module):
    """One shared trunk with a normalisation, and a linear head per task."""

    def __init__(self, norm: str, tasks: Sequence[TaskName] = ("a", "b")) -> None:
        super().__init__()
        layers: dict[str, Callable[[], nn.Module]] = {
            "none": nn.Identity,
            "batch": lambda: nn.BatchNorm1d(8),
            "own": lambda: nn.BatchNorm1d(8, track_running_stats=False),
            "layer": lambda: nn.LayerNorm(8),
            "group": lambda: nn.GroupNorm(2, 8),
            "attention": Attention,
            "dropout": lambda: nn.Dropout(0.5),
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.backbone = nn.ModuleDict({"shared": nn.Sequential(nn.Linear(TABLE.channels, 8), layers[norm](), nn.Tanh())})
            self.head = nn.ModuleDict({t: nn.Linear(8, 1) for t in tasks})
            for name, param in self.named_parameters():
                if "norm" in norm or name.startswith("backbone.shared.1."):
                    nn.init.normal_(param, 0.7, 0.3)
        self.double()
        for name, buffer in self.named_buffers():
            if name.endswith("running_var"):
                buffer.fill_(0.6)
            elif name.endswith("running_mean"):
                buffer.copy_(torch.linspace(-0.5, 0.5, 8))
        self._tasks = {t: regression(t) for t in tasks}
        self._phi = dict(self.named_parameters())

    @property
    def tasks(self) -> Mapping[TaskName, Task]:
        return self._tasks

    def params(self) -> dict[Name, Tensor]:
        return self._phi  # type: ignore[return-value]

    def forward(self, batch: Batch, tasks: Sequence[TaskName]) -> dict[TaskName, Tensor]:
        features = self.backbone["shared"](batch.inputs["table"])
        return {t: self.head[t](features) for t in tasks}

    def outputs(self, params: Params, batch: Batch, tasks: Sequence[TaskName]) -> dict[TaskName, Tensor]:
        if params is self._phi:
            return self(batch, tasks)
        return functional_call(self, {n: p for n, p in params.items() if n in self._phi}, (batch, tasks))

    def reads(self, task: TaskName) -> frozenset[Name]:
        return frozenset(n for n in self._phi if n.startswith(("backbone.", f"head.{task}.")))


class Known(Quadratic):
    """A quadratic whose minimum is its ideal output, so that a head can be built for it."""

    def ideal_output(self, target: Tensor, labelled: Tensor) -> tuple[Tensor, Tensor]:
        known = labelled[:, None].expand_as(target)
        return torch.where(known, target, 0.0), known


def an_episode(uid: int, tasks: Sequence[TaskName] = ("a", "b"), *, per_task: bool = False, shots: int = 5, weight: float = 1.0) -> Episode:
    """Support and query of `shots` and 7 samples, the same for the same `uid`."""
    pool = TablePool(tasks, dtype=torch.float64)
    order = torch.randperm(len(pool), generator=generator("episode", uid))

    def parts(index: Tensor) -> tuple[Part, ...]:
        groups = [(t,) for t in tasks] if per_task else [tuple(tasks)]
        return tuple(Part(pool.read(rows), group) for rows, group in zip(index.tensor_split(len(groups)), groups, strict=True))

    factor = len(tasks) if per_task else 1
    support, query = order[: shots * factor], order[40 : 40 + 7 * factor]
    return Episode(uid, parts(support), parts(query), tuple(regression(t) for t in tasks), weight=weight)


def an_engine(model: Any, balancer: Balancer, inner: InnerSGD | None, **changes: Any) -> Engine:
    """An engine whose kinds are quadratics; learned rates a little off their start."""
    balancer.reset(tuple(model.tasks))
    kinds = {t: Known(task=task) for t, task in model.tasks.items()}
    engine = Engine(model=model, kinds=kinds, balancer=balancer, **({"trainable": frozenset(model.params())} | changes), inner=inner)
    with torch.no_grad():
        for i, rho in enumerate(inner.params().values() if inner is not None else ()):
            rho.fill_(0.1 * (i % 5) - 0.2)
    return engine


def maml(**changes: Any) -> InnerSGD:
    """The default option, at a rate that shows in a gradient, and without a guard that would jump under a finite difference."""
    return build("maml", **({"inner_lr": 0.3, "diverge": 1e6, "engine": "loop"} | changes))


def query_losses(engine: Engine, episodes: Sequence[Episode], phi: Params) -> dict[TaskName, float]:
    """Weighted query loss of each task summed over episodes, after the descent written out without a graph."""
    inner, total = engine.inner, dict.fromkeys(engine.kinds, 0.0)
    assert isinstance(inner, InnerSGD)
    weights = inner.loss_weights or [0.0] * inner.num_inner_steps + [1.0]
    for episode in episodes:
        theta = {n: p.detach().clone() for n, p in phi.items() if not n.startswith("inner.")}
        for k, weight in enumerate(weights):
            if k:
                theta = _one_step(engine, inner, episode, phi, theta)
            for part in episode.query:
                with torch.no_grad():
                    for task, loss in engine.losses(theta, part).items():
                        total[task] += weight * episode.weight * float(loss)
    return total


def _one_step(engine: Engine, inner: InnerSGD, episode: Episode, phi: Params, theta: dict[Name, Tensor]) -> dict[Name, Tensor]:
    at = {n: t.clone().requires_grad_(inner.adapts(n)) for n, t in theta.items()}
    moving = [n for n in at if inner.adapts(n)]
    losses: dict[TaskName, Tensor] = {}
    for part in episode.support:
        losses.update(engine.losses(at, part))
    objectives = losses if inner.walks_per_task else {"": torch.stack(list(losses.values())).mean()}
    new = dict(theta)
    for task, loss in objectives.items():
        grads = torch.autograd.grad(loss, [at[n] for n in moving], allow_unused=True, retain_graph=True)
        found = {n: g for n, g in zip(moving, grads, strict=True) if g is not None}
        norm = float(torch.cat([g.flatten() for g in found.values()]).norm())
        scale = 1.0 if inner.clip is None or norm <= inner.clip else inner.clip / norm
        for n, g in found.items():
            module = ".".join(n.split(".")[:2])
            key = {"module": module, "module_task": f"{module}.{task}", "element": n}.get(inner.rates.kind)
            rate = inner.rates.inner_lr * (1.0 if key is None else phi[f"inner.rate.{key}"].detach().exp())
            new[n] = new[n] - rate * scale * g
    return new


def check_slopes(engine: Engine, episodes: Sequence[Episode], rows: Mapping[TaskName, Mapping[Name, Tensor]], step: float = 1e-5) -> None:
    """Compare every task's row with central differences of its query loss, along two random directions of each parameter."""
    phi = {n: p.detach().clone() for n, p in engine.params().items()}
    for name, tensor in phi.items():
        for trial in range(2):
            direction = torch.randn(tensor.shape, dtype=torch.float64, generator=generator("direction", name, trial))
            up = query_losses(engine, episodes, phi | {name: tensor + step * direction})
            down = query_losses(engine, episodes, phi | {name: tensor - step * direction})
            for task, row in rows.items():
                found = float((row.get(name, torch.zeros_like(tensor)) * direction).sum())
                wanted = (up[task] - down[task]) / (2 * step) if task else (sum(up.values()) - sum(down.values())) / (2 * step)
                assert found == pytest.approx(wanted, rel=1e-5, abs=1e-7), f"{task or 'sum'} {name}"
