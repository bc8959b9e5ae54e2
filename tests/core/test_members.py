"""A member is a task of its own to whatever trains, on the labels of the task that it is a member of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from m3tl_cli.core.contracts import Episode, Part, Task, TaskName
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.core.members import members, part_for_members, pool_for_members, sampler_for_members, with_members
from m3tl_cli.sampler.minibatch import MiniBatch
from tests.toys import TablePool, regression, states_equal

TASKS = (regression("a"), regression("b"))
THREE = with_members(TASKS, 3)
POOL = TablePool(("a", "b"), size=40)


def minibatch(tasks: Sequence[Task], seed: int) -> MiniBatch:
    pool = pool_for_members(POOL, THREE)
    return MiniBatch(batch_size=8, per_task=False, modality_dropout=0.0, pool=pool, tasks=tasks, seed=seed)


def rows_of(part: Part) -> list[int]:
    """Positions in the pool, found by what stands there."""
    equal = (part.batch.inputs["table"][:, None] == POOL.inputs).all(2)
    return equal.long().argmax(1).tolist()


def test_members_follow_their_tasks_and_differ_in_nothing_but_names() -> None:
    assert [t.name for t in THREE] == ["a", "b", "a__2", "b__2", "a__3", "b__3"]
    assert [t.original for t in THREE] == ["a", "b", "a", "b", "a", "b"]
    assert members(THREE) == {"a": ("a", "a__2", "a__3"), "b": ("b", "b__2", "b__3")}
    assert (THREE[2].kind, THREE[2].std, THREE[2].at) == (TASKS[0].kind, TASKS[0].std, TASKS[0].at)
    assert with_members(TASKS, 1) == TASKS


def test_a_name_that_a_member_would_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="a__2"):
        with_members([regression("a"), regression("a__2")], 2)


def test_a_pool_labels_members_like_their_tasks_and_copies_nothing() -> None:
    pool = pool_for_members(POOL, THREE)
    index = torch.arange(5)
    read = pool.read(index, ("a__3", "b"))
    assert read.targets["a__3"].data_ptr() == read.targets["a"].data_ptr()
    assert torch.equal(read.targets["a__3"], POOL.targets["a"][:5])
    assert set(read.targets) == {"a", "a__3", "b"}
    assert set(pool.read(index).targets) == {t.name for t in THREE}
    assert pool.labelled["b__2"] is POOL.labelled["b"]
    assert len(pool) == 40
    assert pool_for_members(POOL, TASKS) is POOL, "without members nothing stands between"


def test_a_part_is_read_by_the_members_of_its_tasks_alone() -> None:
    part = Part(POOL.read(torch.arange(4), ("a",)), ("a",))
    widened = part_for_members(part, THREE)
    assert widened.tasks == ("a", "a__2", "a__3")
    assert widened.batch.targets["a__2"] is part.batch.targets["a"]
    assert widened.batch.labelled["a__2"] is part.batch.labelled["a"]
    assert part_for_members(part, TASKS) is part


def test_every_member_has_an_order_of_its_own_and_the_first_that_of_a_task_alone() -> None:
    sampler, alone = sampler_for_members(minibatch, THREE, 5), minibatch(TASKS, 5)
    assert sampler.samples_per_step == 3 * alone.samples_per_step
    for step in (0, 4, 5, 17):
        [episode], [plain] = sampler.draw(step), alone.draw(step)
        assert [p.tasks for p in episode.query] == [("a", "b"), ("a__2", "b__2"), ("a__3", "b__3")]
        assert torch.equal(episode.query[0].batch.inputs["table"], plain.query[0].batch.inputs["table"])
        orders = [rows_of(p) for p in episode.query]
        assert len({tuple(order) for order in orders}) == 3
        for part, rows in zip(episode.query, orders, strict=True):
            assert torch.equal(part.batch.targets[part.tasks[0]], POOL.targets["a"][rows])
        assert tuple(t.name for t in episode.tasks) == tuple(t.name for t in THREE)
        [again] = sampler.draw(step)
        assert [rows_of(p) for p in again.query] == orders


def test_without_members_the_sampler_is_the_one_that_was_made() -> None:
    found = sampler_for_members(minibatch, TASKS, 5)
    assert isinstance(found, MiniBatch)
    assert found.seed == 5


class Learning(MiniBatch):
    """Remembers the losses that it was told."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(batch_size=8, per_task=False, modality_dropout=0.0, **arguments)
        self.told: dict[TaskName, float] = {}

    def update(self, losses: Mapping[TaskName, float]) -> None:
        self.told |= losses

    def state_dict(self) -> dict[str, Any]:
        return {"told": dict(self.told)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.told = dict(state["told"])


def test_samplers_learn_from_their_own_members_and_their_state_comes_back() -> None:
    def make(tasks: Sequence[Task], seed: int) -> Learning:
        return Learning(pool=pool_for_members(POOL, THREE), tasks=tasks, seed=seed)

    sampler = sampler_for_members(make, THREE, 0)
    sampler.update({t.name: float(i) for i, t in enumerate(THREE)})
    state = sampler.state_dict()
    assert [s["told"] for s in state["members"]] == [{"a": 0.0, "b": 1.0}, {"a__2": 2.0, "b__2": 3.0}, {"a__3": 4.0, "b__3": 5.0}]
    other = sampler_for_members(make, THREE, 0)
    other.load_state_dict(state)
    assert states_equal(other.state_dict(), state)


def test_supports_are_merged_too() -> None:
    class Supported(MiniBatch):
        def draw(self, step: int) -> Sequence[Episode]:
            [plain] = super().draw(step)
            return [Episode(plain.uid, plain.query, plain.query, plain.tasks)]

    def make(tasks: Sequence[Task], seed: int) -> Supported:
        return Supported(batch_size=8, per_task=False, modality_dropout=0.0, pool=pool_for_members(POOL, THREE), tasks=tasks, seed=seed)

    [episode] = sampler_for_members(make, THREE, 1).draw(3)
    assert [p.tasks for p in episode.support] == [p.tasks for p in episode.query]
