from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from m3tl_cli.core.contracts import Episode, Task
from m3tl_cli.core.draws import draw_episode, first_labelled, read_parts
from m3tl_cli.core.errors import DataError
from tests.episodes.pools import Samples, full, names, regressions, rows

TASKS = regressions(3)
DIGIT = Task("digit", "multiclass", num_outputs=4, dense=False, classes=("0", "1", "2", "3"))


def draw(support: Samples, query: Samples, tasks: Sequence[Task] = TASKS, **given: Any) -> Episode:
    asked = {"domain": 1, "num_shots": 3, "num_query": 4, "per_class": False, "seed_parts": (7, "target", 1), "uid": 5} | given
    return draw_episode(support, query, tasks=tasks, **asked)


def digits(per_class: int = 6) -> Samples:
    label = torch.arange(4).repeat(2 * per_class)
    return Samples(torch.arange(2).repeat_interleave(4 * per_class), {"digit": label >= 0}, {"digit": label})


def test_tasks_that_label_the_same_samples_read_one_batch() -> None:
    support, query = full(TASKS, 3, 10), full(TASKS, 3, 10)
    episode = draw(support, query)
    (shots,), (asked,) = episode.support, episode.query
    assert (shots.tasks, asked.tasks, names(episode)) == (("t0", "t1", "t2"),) * 3
    assert (len(shots.batch), len(asked.batch), episode.uid, episode.weight, episode.fresh) == (3, 4, 5, 1.0, frozenset())
    assert (shots.batch.domain == 1).all()
    assert (asked.batch.domain == 1).all()
    assert set(rows(draw(support, query, domain=None, num_query=30).query)) == set(range(30))


def test_the_support_of_more_shots_contains_that_of_fewer_and_the_query_stays() -> None:
    pool, labelled = full(TASKS, 3, 20), torch.rand(60, generator=torch.Generator().manual_seed(0)) < 0.6
    pool.labelled = {**pool.labelled, "t1": labelled}
    for query in (pool, full(TASKS, 3, 20)):
        drawn = {n: draw(pool, query, num_shots=n) for n in (1, 2, 5, 7)}
        for task in ("t0", "t1"):
            assert [len(rows(drawn[n].support, task)) for n in drawn] == [1, 2, 5, 7]
            for fewer, more in ((1, 2), (2, 5), (5, 7)):
                assert set(rows(drawn[fewer].support, task)) < set(rows(drawn[more].support, task))
            assert len({tuple(rows(e.query, task)) for e in drawn.values()}) == 1


def test_support_and_query_from_one_pool_never_meet() -> None:
    random = torch.Generator().manual_seed(1)
    pool = Samples(torch.zeros(40, dtype=torch.int64), {t.name: torch.rand(40, generator=random) < 0.7 for t in TASKS})
    for trial in range(50):
        episode = draw(pool, pool, domain=0, num_shots=6, num_query=6, seed_parts=(trial,))
        assert not set(rows(episode.support)) & set(rows(episode.query))
        for task in names(episode):
            for parts in (episode.support, episode.query):
                found = rows(parts, task)
                assert len(set(found)) == len(found) == 6
                assert pool.labelled[task][found].all()


def test_a_draw_follows_from_its_seed_parts_alone() -> None:
    pool = full(TASKS, 2, 30)
    first = draw(pool, pool)
    assert rows(draw(pool, pool, uid=9).support) == rows(first.support)
    assert rows(draw(pool, pool, seed_parts=(8, "target", 1)).support) != rows(first.support)


def test_what_a_task_gets_does_not_depend_on_the_tasks_beside_it() -> None:
    random = torch.Generator().manual_seed(2)
    support = Samples(torch.zeros(40, dtype=torch.int64), {t.name: torch.rand(40, generator=random) < 0.7 for t in TASKS})
    together = draw(support, full(TASKS, 1, 20), domain=0)
    for task in TASKS:
        alone = draw(support, full(TASKS, 1, 20), [task], domain=0)
        assert set(rows(alone.support)) == set(rows(together.support, task.name))
        assert set(rows(alone.query)) == set(rows(together.query, task.name))


def test_every_subset_of_a_domain_is_equally_likely() -> None:
    pool = full(TASKS, 2, 5)
    counts = torch.zeros(10)
    for trial in range(2000):
        counts[rows(draw(pool, pool, num_shots=2, num_query=1, seed_parts=(trial,)).support)] += 1
    assert counts[:5].sum() == 0
    assert counts[5:].div(2000).sub(0.4).abs().max() < 0.04  # 3.6 standard deviations of a share of 2/5


def test_overlapping_rows_are_read_once_and_count_only_where_they_were_drawn() -> None:
    pool = full(TASKS, 1, 10)
    drawn = {"t0": torch.tensor([4, 1]), "t1": torch.tensor([1, 7]), "t2": torch.tensor([9, 8])}
    first, second = read_parts(pool, drawn)
    assert (first.tasks, second.tasks) == (("t0", "t1"), ("t2",))
    assert first.batch.index.tolist() == [1, 4, 7]
    assert first.batch.labelled["t0"].tolist() == [True, True, False]
    assert first.batch.labelled["t1"].tolist() == [True, False, True]
    assert pool.num_read == 5
    chain = {"t0": torch.tensor([1, 2]), "t1": torch.tensor([5, 6]), "t2": torch.tensor([2, 5])}
    assert [p.tasks for p in read_parts(pool, chain)] == [("t0", "t1", "t2")]


def test_shots_of_every_class_are_counted_by_class_and_the_query_is_not() -> None:
    pool = digits()
    episode = draw(pool, pool, [DIGIT], num_shots=2, per_class=True)
    (part,) = episode.support
    assert part.batch.targets["digit"].bincount().tolist() == [2, 2, 2, 2]
    assert (part.batch.domain == 1).all()
    assert not set(rows(episode.support)) & set(rows(episode.query))
    assert set(rows(episode.support)) < set(rows(draw(pool, pool, [DIGIT], num_shots=4, per_class=True).support))
    assert len(rows(episode.query)) == 4
    mixed = draw(pool, pool, [DIGIT], num_shots=2)
    assert len(rows(mixed.support)) == 2


def test_classes_are_looked_up_in_no_more_samples_than_needed() -> None:
    label = torch.arange(4).repeat(1000)
    pool = Samples(torch.ones(4000, dtype=torch.int64), {"digit": label >= 0}, {"digit": label})
    draw(pool, pool, [DIGIT], num_shots=5, per_class=True)
    assert pool.num_read < 400


def test_a_task_with_fewer_query_samples_keeps_what_it_has() -> None:
    query = full(TASKS, 2, 6)
    query.labelled = {**query.labelled, "t2": torch.arange(12) == 8}
    episode = draw(full(TASKS, 2, 6), query)
    assert rows(episode.query, "t2") == [8]
    assert len(rows(episode.query, "t0")) == 4


def test_what_the_data_lacks_is_said() -> None:
    pool = full(TASKS, 2, 6)
    with pytest.raises(DataError, match=r"labelled samples of `t0` in domain 1 beside the query; found 3 for 2.*ask for 2 shots"):
        draw(pool, pool)
    with pytest.raises(DataError, match=r"`t0` in domain 1; found 9 for 6"):
        draw(pool, full(TASKS, 2, 6), num_shots=9)
    with pytest.raises(DataError, match=r"in the pool; found 13 for 12"):
        draw(pool, full(TASKS, 2, 6), num_shots=13, domain=None)
    with pytest.raises(DataError, match=r"`t1` must have a labelled query sample in domain 1; found none"):
        draw(pool, Samples(pool.domain, {**pool.labelled, "t1": torch.zeros(12, dtype=torch.bool)}))
    with pytest.raises(DataError, match=r"`digit` must be a task that this block of the data labels; found t0, t1, t2"):
        draw(pool, pool, [DIGIT])
    with pytest.raises(DataError, match=r"every class of `digit`; found 7 for 6 of class `0`"):
        draw(digits(), digits(), [DIGIT], num_shots=7, per_class=True)


def test_first_labelled_keeps_the_order() -> None:
    labelled = {"t0": torch.tensor([True, False, True, True])}
    assert first_labelled(torch.tensor([3, 1, 0, 2]), labelled, ["t0"], 2)["t0"].tolist() == [3, 0]
