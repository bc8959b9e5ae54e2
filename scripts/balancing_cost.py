"""What balancing costs: time of a whole update under each balancer, over a plain sum by `loss.backward()`, beside TorchJD's own driver.

    .venv/bin/python scripts/balancing_cost.py            # 2, 3 and 8 tasks; about 5 minutes on one quiet thread
    .venv/bin/python scripts/balancing_cost.py --tasks 8 --repetitions 5

Net: 4 convolutions with GroupNorm, 888,672 shared parameters, a linear head per task; 32 samples of 3 x 32 x 32 in all; SGD.
"shared": all tasks read one batch of 32. "per task": each task has a batch of its own of 32 / T.
Targets: per task at most 1.3 of the sum at 8 tasks; shared at most 1.05 of TorchJD's sequential mode.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from _timing import compare
from torch import Tensor, nn
from torch.func import functional_call

from m3tl_cli.balancing.base import Balancer
from m3tl_cli.balancing.gradnorm import GradNorm
from m3tl_cli.balancing.mgda import MGDA
from m3tl_cli.balancing.nash_mtl import NashMTL
from m3tl_cli.balancing.pcgrad import PCGrad
from m3tl_cli.balancing.static import Static
from m3tl_cli.balancing.sum import Sum
from m3tl_cli.balancing.uncertainty import Uncertainty
from m3tl_cli.core.contracts import Batch, Episode, Name, Params, Part, Task, TaskName
from m3tl_cli.paradigm.engine import Engine
from m3tl_cli.selftest import Quadratic

BALANCERS: dict[str, Callable[[], Balancer]] = {
    "sum": Sum,
    "static": lambda: Static(weights={"t0": 2.0}),
    "uncertainty": lambda: Uncertainty(lr=0.025),
    "gradnorm": lambda: GradNorm(alpha=1.5, lr=0.025),
    "pcgrad": lambda: PCGrad(seed=0),
    "mgda": MGDA,
    "nash_mtl": lambda: NashMTL(update_weights_every=1, optim_niter=20, max_norm=1.0),
}


class Net(nn.Module):
    """The measured network, as a model of the engine."""

    def __init__(self, num_tasks: int) -> None:
        super().__init__()
        widths = (3, 64, 96, 192, 384)
        layers: list[nn.Module] = []
        for i, (inputs, outputs) in enumerate(pairwise(widths)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2 if i else 1, padding=1), nn.GroupNorm(8, outputs), nn.ReLU()]
        self.trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.ModuleDict({f"t{i}": nn.Linear(widths[-1], 1) for i in range(num_tasks)})
        self._tasks = {f"t{i}": Task(f"t{i}", "quadratic", 1, False) for i in range(num_tasks)}
        self._phi = dict(self.named_parameters())
        self._trunk = frozenset(n for n in self._phi if n.startswith("trunk."))

    @property
    def tasks(self) -> Mapping[TaskName, Task]:
        return self._tasks

    def forward(self, x: Tensor, tasks: Sequence[TaskName]) -> dict[TaskName, Tensor]:
        features = self.trunk(x)
        return {t: self.head[t](features) for t in tasks}

    def params(self) -> dict[Name, Tensor]:
        return self._phi

    def outputs(self, params: Params, batch: Batch, tasks: Sequence[TaskName]) -> dict[TaskName, Tensor]:
        if params is self._phi:
            return self(batch.inputs["image"], tasks)
        return functional_call(self, dict(params), (batch.inputs["image"], tasks))

    def reads(self, task: TaskName) -> frozenset[Name]:
        return self._trunk | {n for n in self._phi if n.startswith(f"head.{task}.")}


def episode(net: Net, per_task: bool) -> Episode:
    """32 samples in all."""
    tasks = tuple(net.tasks)
    size = 32 // len(tasks) if per_task else 32

    def batch(names: Sequence[TaskName]) -> Batch:
        yes = torch.ones(size, dtype=torch.bool)
        rows = torch.arange(size)
        targets = {t: torch.randn(size, 1) for t in names}
        return Batch({"image": torch.randn(size, 3, 32, 32)}, {}, {}, {}, targets, dict.fromkeys(names, yes), rows, rows)

    parts = tuple(Part(batch([t]), (t,)) for t in tasks) if per_task else (Part(batch(tasks), tasks),)
    return Episode(0, (), parts, tuple(net.tasks.values()))


def ours(balancer: Balancer, num_tasks: int, per_task: bool) -> Callable[[], None]:
    """An update through the engine."""
    torch.manual_seed(0)
    net = Net(num_tasks)
    kinds = {t: Quadratic(task=task) for t, task in net.tasks.items()}
    balancer.reset(tuple(net.tasks))
    engine = Engine(model=net, kinds=kinds, balancer=balancer, trainable=frozenset(net.params()))
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4)
    drawn = episode(net, per_task)

    def update() -> None:
        gradient = engine.gradient(engine.signal([drawn]))
        for name, param in net.params().items():
            param.grad = gradient.get(name)
        optimizer.step()

    return update


def plain(num_tasks: int, per_task: bool) -> Callable[[], None]:
    """The loop that anybody writes: add the losses, go backward, step."""
    torch.manual_seed(0)
    net = Net(num_tasks)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4)
    drawn = episode(net, per_task)

    def update() -> None:
        optimizer.zero_grad()
        for part in drawn.query:
            outputs = net(part.batch.inputs["image"], part.tasks)
            sum(0.5 * (outputs[t] - part.batch.targets[t]).pow(2).sum(1).mean() for t in part.tasks).backward()
        optimizer.step()

    return update


def torchjd_driver(num_tasks: int, per_task: bool, chunk: int | None) -> Callable[[], None]:
    """TorchJD's `mtl_backward` with PCGrad."""
    from torchjd.aggregation import PCGrad as TorchJDPCGrad
    from torchjd.autojac import jac_to_grad, mtl_backward

    torch.manual_seed(0)
    net = Net(num_tasks)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4)
    drawn = episode(net, per_task)
    aggregator = TorchJDPCGrad()
    shared = list(net.trunk.parameters())

    def update() -> None:
        optimizer.zero_grad()
        features = [net.trunk(part.batch.inputs["image"]) for part in drawn.query]
        losses = [
            0.5 * (net.head[t](x) - part.batch.targets[t]).pow(2).sum(1).mean()
            for part, x in zip(drawn.query, features, strict=True)
            for t in part.tasks
        ]
        mtl_backward(losses, features=features, parallel_chunk_size=chunk)
        jac_to_grad(shared, aggregator)
        optimizer.step()

    return update


def main() -> None:
    """Print a table per number of tasks and kind of batch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 3, 8])
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--updates", type=int, default=3, help="updates in one repetition")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    net = Net(1)
    print(f"shared parameters: {sum(p.numel() for p in net.trunk.parameters()):,}")
    for per_task in (True, False):
        for num_tasks in asked.tasks:
            ways = {"plain sum": plain(num_tasks, per_task)}
            ways |= {name: ours(make(), num_tasks, per_task) for name, make in BALANCERS.items()}
            ways["TorchJD PCGrad, sequential"] = torchjd_driver(num_tasks, per_task, 1)
            ways["TorchJD PCGrad, vmap"] = torchjd_driver(num_tasks, per_task, None)

            def repeated(update: Callable[[], None]) -> Callable[[], None]:
                return lambda: [update() for _ in range(asked.updates)] and None

            print(f"\n{num_tasks} tasks, {'a batch per task' if per_task else 'one shared batch'}")
            compare({name: repeated(way) for name, way in ways.items()}, repetitions=asked.repetitions)


if __name__ == "__main__":
    main()
