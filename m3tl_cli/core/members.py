"""Members: networks of one task, trained apart, whose predictions are averaged.

To everything that trains, a member is a task of its own: it has a network, a place in the data order and a best checkpoint. It learns
from the labels of the task that it is a member of, and only that task is scored. The first member has the task's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from m3tl_cli.core.contracts import Batch, Episode, Part, Pool, Sampler, Task, TaskName, stable_seed
from m3tl_cli.core.errors import ConfigError


def with_members(tasks: Iterable[Task], number: int) -> tuple[Task, ...]:
    """The tasks, then the second member of each, then the third: `depth`, `normals`, `depth__2`, `normals__2` ...

    Args:
        tasks: None of them a second member.
        number: Members of each, at least 1.

    Raises:
        ConfigError: If a task has the name of another's member.
    """
    first = tuple(tasks)
    found = (*first, *(replace(t, name=f"{t.name}__{k}", member_of=t.name) for k in range(2, number + 1) for t in first))
    names = [t.name for t in found]
    for task in first:
        if names.count(task.name) > 1:
            raise ConfigError(f"the name of a task must not be that of another's member; found `{task.name}`", place="tasks")
    return found


def members(tasks: Iterable[Task]) -> dict[TaskName, tuple[TaskName, ...]]:
    """Names of the members of each task, the task itself first, in the order of the tasks."""
    found: dict[TaskName, tuple[TaskName, ...]] = {}
    for task in tasks:
        found[task.original] = (*found.get(task.original, ()), task.name)
    return found


def part_for_members(part: Part, tasks: Iterable[Task]) -> Part:
    """The part, with its labels for the members of its tasks, too; itself where these have none.

    Args:
        part: Of tasks that are no second members.
        tasks: All that there are, members among them.
    """
    others = {t.name: t.member_of for t in tasks if t.member_of and t.member_of in part.tasks}
    if not others:
        return part
    return Part(_aliased(part.batch, others), (*part.tasks, *others))


def pool_for_members(pool: Pool, tasks: Iterable[Task]) -> Pool:
    """The pool, with the labels of every task under the names of its members, too; itself where there are none."""
    others = {t.name: t.member_of for t in tasks if t.member_of in pool.labelled}
    return _MemberPool(pool, others) if others else pool


def sampler_for_members(make: Callable[[Sequence[Task], int], Sampler], tasks: Sequence[Task], seed: int) -> Sampler:
    """A sampler that draws for every member by itself, in an order of its own; for the first one in that of tasks without others.

    Args:
        make: Makes a sampler for some tasks from a seed.
        tasks: Members among them; each task has as many.
        seed: Of the draws.
    """
    by_name = {t.name: t for t in tasks}
    rounds = list(zip(*members(tasks).values(), strict=True))
    samplers = {names: make([by_name[n] for n in names], stable_seed(seed, "member", k) if k else seed) for k, names in enumerate(rounds)}
    return samplers[rounds[0]] if len(rounds) == 1 else _MemberSampler(samplers)


class _MemberPool:
    def __init__(self, pool: Pool, others: Mapping[TaskName, TaskName]) -> None:
        self._pool, self._others = pool, dict(others)
        self.domain = pool.domain
        self.labelled: Mapping[TaskName, Tensor] = {**pool.labelled, **{t: pool.labelled[of] for t, of in others.items()}}

    def __len__(self) -> int:
        return len(self._pool)

    def read(self, index: Tensor, tasks: Sequence[TaskName] | None = None) -> Batch:
        wanted = tuple(self.labelled) if tasks is None else tuple(tasks)
        read = self._pool.read(index, tuple(dict.fromkeys(self._others.get(t, t) for t in wanted)))
        return _aliased(read, {t: of for t, of in self._others.items() if t in wanted})


class _MemberSampler:
    """The k-th episodes of all samplers, each of the tasks that are its key, are one episode, whose parts stay apart."""

    def __init__(self, samplers: Mapping[tuple[TaskName, ...], Sampler]) -> None:
        self._samplers = dict(samplers)

    def draw(self, step: int) -> Sequence[Episode]:
        episodes = []
        for first, *others in zip(*(s.draw(step) for s in self._samplers.values()), strict=True):
            merged = first
            for other in others:
                merged = replace(
                    merged,
                    support=(*merged.support, *other.support),
                    query=(*merged.query, *other.query),
                    tasks=(*merged.tasks, *other.tasks),
                )
            episodes.append(merged)
        return episodes

    @property
    def samples_per_step(self) -> int:
        return sum(s.samples_per_step for s in self._samplers.values())

    def update(self, losses: Mapping[TaskName, float]) -> None:
        for names, sampler in self._samplers.items():
            sampler.update({t: loss for t, loss in losses.items() if t in names})

    def state_dict(self) -> dict[str, Any]:
        return {"members": [s.state_dict() for s in self._samplers.values()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for sampler, own in zip(self._samplers.values(), state["members"], strict=True):
            sampler.load_state_dict(own)


def _aliased(batch: Batch, others: Mapping[TaskName, TaskName]) -> Batch:
    """The batch with labels under more names; nothing is copied."""
    return replace(
        batch,
        targets={**batch.targets, **{t: batch.targets[of] for t, of in others.items()}},
        labelled={**batch.labelled, **{t: batch.labelled[of] for t, of in others.items()}},
    )
