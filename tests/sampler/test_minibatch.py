from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor

from m3tl_cli.core.contracts import Batch, Episode, Task, TaskName
from m3tl_cli.core.errors import DataError
from m3tl_cli.sampler.minibatch import MiniBatch

TASKS = (Task("a", "regression", 1, False), Task("b", "regression", 1, False))


class Samples:
    """A pool of rows 0, 1, ... with two modalities; `calls` remembers what was read."""

    def __init__(self, labelled: Mapping[TaskName, Tensor], present: Mapping[str, Tensor] | None = None) -> None:
        self.labelled = labelled
        self.size = len(next(iter(labelled.values())))
        self.domain = torch.zeros(self.size, dtype=torch.int64)
        everywhere = torch.ones(self.size, dtype=torch.bool)
        self.present = present or {"rgb": everywhere, "lidar": everywhere}
        self.calls: list[tuple[TaskName, ...]] = []

    def __len__(self) -> int:
        return self.size

    def read(self, index: Tensor, tasks: Sequence[TaskName] | None = None) -> Batch:
        self.calls.append(tuple(tasks or ()))
        present = {m: has[index] for m, has in self.present.items()}
        labelled = {t: self.labelled[t][index] for t in tasks or self.labelled}
        targets = {t: index[:, None].float() for t in labelled}
        return Batch({}, {}, present, {}, targets, labelled, index, self.domain[index])


def full(size: int) -> dict[TaskName, Tensor]:
    return {t.name: torch.ones(size, dtype=torch.bool) for t in TASKS}


def sampler(
    pool: Samples, *, tasks: Sequence[Task] = TASKS, size: int = 4, per_task: bool = False, dropout: float = 0.0, seed: int = 1
) -> MiniBatch:
    return MiniBatch(batch_size=size, per_task=per_task, modality_dropout=dropout, pool=pool, tasks=tasks, seed=seed)


def only(episodes: Sequence[Episode]) -> Episode:
    (episode,) = episodes
    return episode


def test_a_shared_batch_is_one_part_that_all_tasks_read() -> None:
    pool = Samples(full(10))
    drawn = sampler(pool)
    episode = only(drawn.draw(7))
    (part,) = episode.query
    assert (episode.uid, episode.support, episode.tasks, part.tasks) == (7, (), TASKS, ("a", "b"))
    assert len(part.batch) == drawn.samples_per_step == 4
    assert pool.calls == [("a", "b")]


def test_an_epoch_reads_no_sample_twice_and_leaves_out_the_rest_of_a_batch() -> None:
    drawn = sampler(Samples(full(10)))
    epochs = [torch.cat([only(drawn.draw(2 * e + b)).query[0].batch.index for b in range(2)]).tolist() for e in range(40)]
    assert all(len(set(rows)) == 8 for rows in epochs)
    assert len({tuple(rows) for rows in epochs}) == 40
    assert set().union(*epochs) == set(range(10))


@pytest.mark.parametrize("per_task", [False, True])
def test_a_step_depends_on_nothing_but_seed_and_step(per_task: bool) -> None:
    def indices(drawn: MiniBatch, steps: Sequence[int]) -> dict[int, list[list[int]]]:
        found = {}
        for step in steps:
            batches = [p.batch for p in only(drawn.draw(step)).query]
            found[step] = [b.index.tolist() + b.present["rgb"].tolist() for b in batches]
        return found

    pool = Samples(full(30))
    forward = indices(sampler(pool, per_task=per_task, dropout=0.4), range(20))
    assert indices(sampler(pool, per_task=per_task, dropout=0.4), [19, 3, 0, 11]) == {s: forward[s] for s in (19, 3, 0, 11)}
    assert indices(sampler(pool, per_task=per_task, dropout=0.4, seed=2), range(20)) != forward


def test_a_batch_for_each_task_holds_only_samples_that_it_labels() -> None:
    labelled = {"a": torch.arange(40) < 10, "b": torch.arange(40) >= 5}
    pool = Samples(labelled)
    drawn = sampler(pool, per_task=True, size=7)
    assert drawn.samples_per_step == 6
    seen: dict[str, list[int]] = {"a": [], "b": []}
    for step in range(33):
        for part in only(drawn.draw(step)).query:
            (task,) = part.tasks
            assert list(part.batch.labelled) == [task]
            assert part.batch.labelled[task].all()
            assert len(part.batch) == 3
            seen[task] += part.batch.index.tolist()
    assert set(seen["a"]) == set(range(10))
    assert set(seen["b"]) == set(range(5, 40))
    assert len(set(seen["b"][:33])) == 33  # an epoch of b has 11 batches; of a 3


def test_a_batch_for_each_of_many_tasks_has_at_least_one_sample() -> None:
    drawn = sampler(Samples(full(5)), per_task=True, size=1)
    assert drawn.samples_per_step == 2
    assert [len(p.batch) for p in only(drawn.draw(0)).query] == [1, 1]


def test_a_task_draws_the_same_batches_whichever_tasks_are_beside_it() -> None:
    pool = Samples(full(20))
    beside = sampler(pool, per_task=True, size=8)
    alone = sampler(pool, per_task=True, size=4, tasks=TASKS[1:])
    for step in range(12):
        assert torch.equal(only(beside.draw(step)).query[1].batch.index, only(alone.draw(step)).query[0].batch.index)


def test_a_shared_batch_leaves_out_samples_without_any_label() -> None:
    labelled = {"a": torch.arange(12) < 4, "b": torch.arange(12) >= 10}
    drawn = sampler(Samples(labelled), size=6)
    assert sorted(only(drawn.draw(3)).query[0].batch.index.tolist()) == [0, 1, 2, 3, 10, 11]


def test_modalities_are_dropped_at_the_given_rate_and_never_the_last() -> None:
    random = torch.Generator().manual_seed(0)
    present = {m: torch.rand(500, generator=random) < 0.8 for m in ("rgb", "lidar", "table")}
    present["rgb"] |= ~(present["lidar"] | present["table"])
    pool = Samples(full(500), present)
    drawn = sampler(pool, size=500, dropout=0.3)
    lost, had = 0, 0
    for step in range(40):
        batch = only(drawn.draw(step)).query[0].batch
        before = torch.stack([present[m][batch.index] for m in present])
        after = torch.stack([batch.present[m] for m in present])
        assert not (after & ~before).any()
        assert after.any(0).all()
        two = before.sum(0) == 2
        lost += int((before & ~after)[:, two].sum())
        had += int(before[:, two].sum())
    # Of two modalities one falls with .3, unless both do (.09), when one of them stays: .3 - .09 / 2.
    assert lost / had == pytest.approx(0.255, abs=0.01)


def test_modalities_stay_without_dropout_and_where_there_is_only_one() -> None:
    only_rgb = {"rgb": torch.ones(9, dtype=torch.bool)}
    assert only(sampler(Samples(full(9), only_rgb), dropout=0.9).draw(0)).query[0].batch.present["rgb"].all()
    batch = only(sampler(Samples(full(9))).draw(0)).query[0].batch
    assert batch.present["rgb"].all()
    assert batch.present["lidar"].all()


def test_a_pool_smaller_than_a_batch_is_refused() -> None:
    with pytest.raises(DataError, match=r"found 4 for 3.*sampler.batch_size=3"):
        sampler(Samples(full(3)))
    with pytest.raises(DataError, match=r"labelled samples of `b`.*found 4 for 2.*sampler.batch_size=4"):
        sampler(Samples({"a": torch.ones(9, dtype=torch.bool), "b": torch.arange(9) < 2}), per_task=True, size=8)


@pytest.mark.parametrize("per_task", [False, True])
def test_a_task_without_labels_is_refused_by_name(per_task: bool) -> None:
    labelled = {"a": torch.ones(9, dtype=torch.bool), "b": torch.zeros(9, dtype=torch.bool)}
    with pytest.raises(DataError, match="`b` must have at least one labelled"):
        sampler(Samples(labelled), per_task=per_task)
    with pytest.raises(DataError, match="`b` must have"):
        sampler(Samples({"a": labelled["a"]}), per_task=per_task)
