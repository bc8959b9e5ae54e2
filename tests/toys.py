"""Small stand-ins that several tests drive the real engine and trainer with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from m3tl_cli.core.contracts import Batch, Episode, ModalityInfo, Name, Params, Part, Task, TaskName, generator
from m3tl_cli.sampler.base import Sampler
from m3tl_cli.task.base import Meter, MetricInfo, TaskKind

TABLE = ModalityInfo("table", "table", channels=6)


def a_batch(targets: Mapping[TaskName, Tensor], inputs: Tensor, labelled: Mapping[TaskName, Tensor] | None = None) -> Batch:
    """A batch of one table."""
    rows = torch.arange(len(inputs))
    everywhere = torch.ones(len(inputs), dtype=torch.bool)
    known = {t: everywhere for t in targets} | dict(labelled or {})
    return Batch({"table": inputs}, {}, {"table": everywhere}, {}, targets, known, rows, torch.zeros_like(rows))


class TablePool:
    """Rows of one table with a regression target per task: y = tanh(x A) b, a different b per task."""

    def __init__(self, tasks: Sequence[TaskName], size: int = 96, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        random = generator("pool", seed)
        self.inputs = torch.randn(size, TABLE.channels, generator=random, dtype=torch.float64).to(dtype)
        mixing = torch.randn(TABLE.channels, 5, generator=generator("mixing"), dtype=torch.float64).to(dtype)
        self.targets = {}
        for task in tasks:
            readout = torch.randn(5, 1, generator=generator("readout", task), dtype=torch.float64).to(dtype)
            self.targets[task] = torch.tanh(self.inputs @ mixing) @ readout
        self.domain = torch.zeros(size, dtype=torch.long)
        self.labelled = {t: torch.ones(size, dtype=torch.bool) for t in tasks}

    def __len__(self) -> int:
        return len(self.inputs)

    def read(self, index: Tensor, tasks: Sequence[TaskName] | None = None) -> Batch:
        wanted = tasks or tuple(self.targets)
        labelled = {t: self.labelled[t][index] for t in wanted}
        return a_batch({t: self.targets[t][index] for t in wanted}, self.inputs[index], labelled)


class SquaredError(TaskKind):
    """Half the squared error, times `curvature`."""

    metrics = {"mse": MetricInfo("lower", 0.0, "", "mean squared error")}
    primary = "mse"

    def __init__(self, *, task: Task, curvature: float = 1.0) -> None:
        super().__init__(task=task)
        self.curvature = curvature

    def loss(self, output: Tensor, target: Tensor, labelled: Tensor) -> Tensor:
        error = (output - torch.where(labelled[:, None], target, output.detach())).pow(2).sum(1)
        return self.curvature * 0.5 * (error * labelled).sum() / labelled.sum().clamp(min=1)

    def meter(self) -> Meter:
        return _Mean()

    def trivial(self, target: Tensor, labelled: Tensor) -> Tensor:
        return target[labelled].mean(0, keepdim=True)

    def decode(self, output: Tensor) -> Tensor:
        return output

    def draw(self, value: Tensor) -> str:
        return json.dumps(value.tolist())


class _Mean(Meter):
    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def update(self, output: Tensor, target: Tensor, labelled: Tensor) -> None:
        error = (output - target).pow(2).sum(1)[labelled]
        self.total += float(error.sum())
        self.count += len(error)

    def compute(self) -> dict[str, float]:
        return {"mse": self.total / self.count if self.count else float("nan")}


def regression(name: TaskName) -> Task:
    """A task with one output."""
    return Task(name, "regression", num_outputs=1, dense=False, mean=(0.0,), std=(1.0,))


class Point:
    """A model whose only parameter is theta, which every task reads: a point that quadratics pull at."""

    def __init__(self, tasks: Sequence[TaskName], start: float = 0.5) -> None:
        self._tasks = {t: regression(t) for t in tasks}
        self._phi: dict[Name, Tensor] = {"backbone.theta": nn.Parameter(torch.tensor([start], dtype=torch.float64))}

    @property
    def tasks(self) -> Mapping[TaskName, Task]:
        return self._tasks

    def params(self) -> dict[Name, Tensor]:
        return self._phi

    def outputs(self, params: Params, batch: Batch, tasks: Sequence[TaskName]) -> dict[TaskName, Tensor]:
        return {t: params["backbone.theta"].expand(len(batch), 1) for t in tasks}

    def reads(self, task: TaskName) -> frozenset[Name]:
        return frozenset(self._phi)


class FixedEpisodes(Sampler):
    """The same episodes at every step."""

    def __init__(self, episodes: Sequence[Episode]) -> None:
        self.episodes = tuple(episodes)

    def draw(self, step: int) -> Sequence[Episode]:
        return self.episodes

    @property
    def samples_per_step(self) -> int:
        return sum(len(p.batch) for e in self.episodes for p in (*e.support, *e.query))


def quadratic_episodes(centres: Mapping[TaskName, float], support: bool = True) -> list[Episode]:
    """One episode a task: pull theta to the task's centre, on support and on query."""
    episodes = []
    for uid, (task, centre) in enumerate(centres.items()):
        target = torch.full((1, 1), centre, dtype=torch.float64)
        part = Part(a_batch({task: target}, torch.zeros(1, TABLE.channels, dtype=torch.float64)), (task,))
        episodes.append(Episode(uid, (part,) if support else (), (part,), (regression(task),)))
    return episodes


def states_equal(a: Any, b: Any) -> bool:
    """Whether two nested states are equal to the bit."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(states_equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(states_equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)
