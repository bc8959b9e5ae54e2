"""Small stand-ins that several tests drive the real engine and trainer with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from m3tl_cli.core.contracts import Batch, Episode, ModalityInfo, Task, TaskName, generator
from m3tl_cli.sampler.base import Sampler

TABLE = ModalityInfo("table", "table", channels=6)


def a_batch(targets: Mapping[TaskName, Tensor], inputs: Tensor, labelled: Mapping[TaskName, Tensor] | None = None) -> Batch:
    """A batch of one table."""
    rows = torch.arange(len(inputs))
    everywhere = torch.ones(len(inputs), dtype=torch.bool)
    known = dict.fromkeys(targets, everywhere) | dict(labelled or {})
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


def regression(name: TaskName) -> Task:
    """A task with one output."""
    return Task(name, "regression", num_outputs=1, dense=False, mean=(0.0,), std=(1.0,))


class FixedEpisodes(Sampler):
    """The same episodes at every step."""

    def __init__(self, episodes: Sequence[Episode]) -> None:
        self.episodes = tuple(episodes)

    def draw(self, step: int) -> Sequence[Episode]:
        return self.episodes

    @property
    def samples_per_step(self) -> int:
        return sum(len(p.batch) for e in self.episodes for p in (*e.support, *e.query))


def states_equal(a: Any, b: Any) -> bool:
    """Whether two nested states are equal to the bit."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(states_equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(states_equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)
