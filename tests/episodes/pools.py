"""A pool that remembers what was read, for tests of draws and episode samplers."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from m3tl_cli.core.contracts import Batch, Episode, Part, Task, TaskName, generator
from m3tl_cli.episodes.base import Choice, SubsetSampler

CONF = Path(__file__).resolve().parents[2] / "conf" / "episodes"


class Samples:
    """Rows 0, 1, ... of two modalities; a task's target is its row, or its class where `targets` gives one."""

    def __init__(
        self,
        domain: Tensor,
        labelled: Mapping[TaskName, Tensor],
        targets: Mapping[TaskName, Tensor] | None = None,
        classes: Tensor | None = None,
    ) -> None:
        self.domain = domain
        self.labelled = labelled
        self.targets = targets or {}
        if classes is not None:
            self.classes = classes
        self.num_read = 0

    def __len__(self) -> int:
        return len(self.domain)

    def read(self, index: Tensor, tasks: Sequence[TaskName] | None = None) -> Batch:
        self.num_read += len(index)
        present = {m: torch.ones(len(index), dtype=torch.bool) for m in ("rgb", "lidar")}
        wanted = list(self.labelled) if tasks is None else list(tasks)
        targets = {t: self.targets[t][index] if t in self.targets else index[:, None].float() for t in wanted}
        return Batch({}, {}, present, {}, targets, {t: self.labelled[t][index] for t in wanted}, index, self.domain[index])


def regressions(count: int) -> tuple[Task, ...]:
    """Tasks t0, t1, ..."""
    return tuple(Task(f"t{i}", "regression", num_outputs=1, dense=False) for i in range(count))


def full(tasks: Sequence[Task], num_domains: int, per_domain: int) -> Samples:
    """Every sample labels every task."""
    size = num_domains * per_domain
    return Samples(torch.arange(num_domains).repeat_interleave(per_domain), {t.name: torch.ones(size, dtype=torch.bool) for t in tasks})


def rows(parts: Sequence[Part], task: TaskName | None = None) -> list[int]:
    """Rows that the parts hold; with a task, those that count for it."""
    if task is None:
        return [i for p in parts for i in p.batch.index.tolist()]
    return [i for p in parts if task in p.tasks for i in p.batch.index[p.batch.labelled[task]].tolist()]


def names(episode: Episode) -> tuple[TaskName, ...]:
    """Names of its tasks."""
    return tuple(t.name for t in episode.tasks)


def option(stem: str, pool: Samples, tasks: Sequence[Task], *, seed: int = 1, single: bool = False, **given: Any) -> Any:
    """A sampler as its yaml says, but for what is given."""
    node: Any = OmegaConf.to_container(OmegaConf.load(CONF / f"{stem}.yaml"))
    module, _, name = node.pop("_target_").rpartition(".")
    assert given.keys() <= node.keys()
    return getattr(importlib.import_module(module), name)(pool=pool, tasks=tasks, seed=seed, single=single, **(node | given))


def chosen(sampler: SubsetSampler, steps: int = 1) -> list[Choice]:
    """Choices of the first steps, without reading samples."""
    return [c for step in range(steps) for c in sampler.choose(step, generator("test", step))]


def shares(choices: Sequence[Choice]) -> dict[tuple[int, ...], float]:
    """Share of each subset among the choices."""
    return {subset: n / len(choices) for subset, n in sorted(Counter(c.subset for c in choices).items())}
