"""What a MAML meta-iteration costs through the engine, over the loop that one writes by hand.

    .venv/bin/python scripts/maml_speed.py                # about 6 minutes on one quiet thread
    .venv/bin/python scripts/maml_speed.py --repetitions 3 --only mlp
    .venv/bin/python scripts/maml_speed.py --malloc       # glibc keeps freed memory; compare two runs

conv: the Omniglot net of 4 blocks (3 x 3 convolution of 64 filters, GroupNorm of 8 groups, ReLU, 2 x 2 max-pool) on 28 x 28 x 1,
5-way 1-shot with 15 queries a class, 16 episodes, 5 inner steps at rate .1 without a clip, every parameter adapting, float32.
mlp: 1-40-40-1, 10 + 10 points, 5 inner steps at rate .01, second order, 25 episodes: the engine's two ways against the hand loop.
Before it times anything it compares gradients in float64. Peak memory is the resident size above that before the first iteration, of a
process of its own.
Targets: conv at most 1.05 of the hand loop's CPU time and 1.3 of its memory; vmap on the MLP at least 4 times as fast as the loop.
"""

from __future__ import annotations

import argparse
import ctypes
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from _timing import compare
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from m3tl_cli.balancing.sum import Sum
from m3tl_cli.core.contracts import Batch, Episode, Name, Params, Part, Task, TaskName
from m3tl_cli.inner.maml import MAML
from m3tl_cli.paradigm.engine import Engine
from m3tl_cli.task.base import TaskKind
from m3tl_cli.task.multiclass import Multiclass
from m3tl_cli.task.regression import Regression

Order = Literal[1, 2]
WAYS, SHOTS, QUERY, STEPS = 5, 1, 15, 5


class Net(nn.Module):
    """A network with one task, as a model of the engine."""

    def __init__(self, task: Task, layers: Sequence[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.backbone = nn.Sequential(*layers)
        self.head = head
        self._tasks = {task.name: task}
        self._phi = dict(self.named_parameters())

    @property
    def tasks(self) -> Mapping[TaskName, Task]:
        return self._tasks

    def params(self) -> dict[Name, Tensor]:
        return self._phi  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))

    def outputs(self, params: Params, batch: Batch, tasks: Sequence[TaskName]) -> dict[TaskName, Tensor]:
        return {tasks[0]: functional_call(self, dict(params), (batch.inputs["x"],))}

    def reads(self, task: TaskName) -> frozenset[Name]:  # noqa: ARG002
        return frozenset(self._phi)


def conv(dtype: torch.dtype) -> tuple[Net, TaskKind]:
    task = Task("way", "multiclass", WAYS, False, classes=tuple(map(str, range(WAYS))))
    blocks = [
        layer for i in range(4) for layer in (nn.Conv2d(64 if i else 1, 64, 3, padding=1), nn.GroupNorm(8, 64), nn.ReLU(), nn.MaxPool2d(2))
    ]
    return Net(task, [*blocks, nn.Flatten()], nn.Linear(64, WAYS)).to(dtype), Multiclass(task=task, label_smoothing=0.0)


def mlp(dtype: torch.dtype) -> tuple[Net, TaskKind]:
    task = Task("sine", "regression", 1, False, mean=(0.0,), std=(1.0,))
    layers = [nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU()]
    return Net(task, layers, nn.Linear(40, 1)).to(dtype), Regression(task=task, loss="mse", delta=1.0)


def part(task: TaskName, x: Tensor, y: Tensor) -> Part:
    rows, yes = torch.arange(len(x)), torch.ones(len(x), dtype=torch.bool)
    return Part(Batch({"x": x}, {}, {"x": yes}, {}, {task: y}, {task: yes}, rows, rows), (task,))


def images(net: Net, number: int, dtype: torch.dtype) -> list[Episode]:
    labels = [torch.arange(WAYS).repeat(n) for n in (SHOTS, QUERY)]
    drawn = [[part("way", torch.randn(len(y), 1, 28, 28, dtype=dtype), y) for y in labels] for _ in range(number)]
    return [Episode(i, (s,), (q,), tuple(net.tasks.values()), weight=1 / number) for i, (s, q) in enumerate(drawn)]


def sines(net: Net, number: int, dtype: torch.dtype) -> list[Episode]:
    found = []
    for i in range(number):
        amplitude, phase = torch.rand((), dtype=dtype) * 4.9 + 0.1, torch.rand((), dtype=dtype) * torch.pi
        xs = [torch.rand(10, 1, dtype=dtype) * 10 - 5 for _ in range(2)]
        support, query = (part("sine", x, amplitude * torch.sin(x + phase)) for x in xs)
        found.append(Episode(i, (support,), (query,), tuple(net.tasks.values()), weight=1 / number))
    return found


def by_hand(net: Net, episodes: Sequence[Episode], order: Order, rate: float) -> Callable[[], dict[Name, Tensor]]:
    """The loop of a paper's appendix: a graph per task, freed before the next."""
    (task,) = net.tasks
    loss = F.cross_entropy if task == "way" else F.mse_loss
    phi = net.params()

    def iterate() -> dict[Name, Tensor]:
        total = {n: torch.zeros_like(p) for n, p in phi.items()}
        for episode in episodes:
            support, query = episode.support[0].batch, episode.query[0].batch
            theta = phi
            for _ in range(STEPS):
                value = loss(functional_call(net, theta, (support.inputs["x"],)), support.targets[task])
                grads = torch.autograd.grad(value, list(theta.values()), create_graph=order == 2)
                theta = {n: p - rate * g for (n, p), g in zip(theta.items(), grads, strict=True)}
                if order == 1:
                    theta = {n: p.detach().requires_grad_() for n, p in theta.items()}
            value = loss(functional_call(net, theta, (query.inputs["x"],)), query.targets[task])
            at = phi if order == 2 else theta
            for n, g in zip(phi, torch.autograd.grad(value * episode.weight, list(at.values())), strict=True):
                total[n] += g
        return total

    return iterate


def by_engine(
    net: Net, kind: TaskKind, episodes: Sequence[Episode], order: Order, rate: float, how: Literal["loop", "vmap"] = "loop"
) -> Callable[[], dict[Name, Tensor]]:
    inner = MAML(
        num_inner_steps=STEPS, inner_lr=rate, scope=["backbone", "head"], order=order, rates="fixed", rate_factor=1.0, loss_weights=None,
        clip=None, diverge=1e6, max_halvings=0, engine=how,
    )  # fmt: skip
    balancer = Sum()
    balancer.reset(tuple(net.tasks))
    engine = Engine(
        model=net, kinds=dict.fromkeys(net.tasks, kind), balancer=balancer, trainable=frozenset(net.params()), inner=inner,
        emit=lambda event: print(event),
    )  # fmt: skip
    return lambda: engine.gradient(engine.signal(episodes))


def difference(a: Mapping[Name, Tensor], b: Mapping[Name, Tensor]) -> float:
    return max(float((a[n] - b[n]).abs().max()) for n in b)


def peak() -> float:
    """Largest resident size so far in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage starts a child at the size of its parent here
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def memory(which: str, order: Order) -> float:
    """Growth of the resident size in a fresh process, in MiB."""
    command = [sys.executable, __file__, "--memory", which, "--order", str(order)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_memory(which: str, order: Order) -> None:
    net, kind = conv(torch.float32)
    episodes = images(net, 4, torch.float32)
    with torch.no_grad():
        net(episodes[0].support[0].batch.inputs["x"])
    before = peak()
    iterate = by_hand(net, episodes, order, 0.1) if which == "hand" else by_engine(net, kind, episodes, order, 0.1)
    iterate()
    print(peak() - before)


def keep_freed_memory() -> None:
    """M_MMAP_THRESHOLD and M_TRIM_THRESHOLD: without, every large tensor is mapped and its pages are zeroed anew."""
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(-3, 1 << 30)
    libc.mallopt(-1, 2**31 - 1)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--repetitions", type=int, default=9)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--only", choices=["conv", "mlp"])
    arguments.add_argument("--malloc", action="store_true")
    arguments.add_argument("--memory", choices=["hand", "engine"], help=argparse.SUPPRESS)
    arguments.add_argument("--order", type=int, choices=[1, 2], default=2, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    if given.malloc:
        keep_freed_memory()
    if given.memory:
        measure_memory(given.memory, given.order)
        return
    orders: tuple[Order, Order] = (2, 1)
    for order in orders if given.only != "mlp" else ():
        net, kind = conv(torch.float64)
        episodes = images(net, 3, torch.float64)
        found = difference(by_engine(net, kind, episodes, order, 0.1)(), by_hand(net, episodes, order, 0.1)())
        net, kind = conv(torch.float32)
        episodes = images(net, 16, torch.float32)
        print(f"\nconv, order {order}: largest difference in float64 {found:.1e}")
        compare({"by hand": by_hand(net, episodes, order, 0.1), "engine": by_engine(net, kind, episodes, order, 0.1)}, given.repetitions)
        ours, theirs = memory("engine", order), memory("hand", order)
        print(f"peak memory: engine {ours:.0f} MiB, by hand {theirs:.0f} MiB, ratio {ours / theirs:.2f}")
    if given.only != "conv":
        net, kind = mlp(torch.float64)
        episodes = sines(net, 25, torch.float64)
        hand = by_hand(net, episodes, 2, 0.01)()
        found = max(difference(by_engine(net, kind, episodes, 2, 0.01, how)(), hand) for how in ("loop", "vmap"))  # type: ignore[arg-type]
        net, kind = mlp(torch.float32)
        episodes = sines(net, 25, torch.float32)
        print(f"\nmlp, order 2: largest difference in float64 {found:.1e}")
        compare(
            {
                "loop": by_engine(net, kind, episodes, 2, 0.01),
                "vmap": by_engine(net, kind, episodes, 2, 0.01, "vmap"),
                "by hand": by_hand(net, episodes, 2, 0.01),
            },
            given.repetitions,
        )


if __name__ == "__main__":
    main()
