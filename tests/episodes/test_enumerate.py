from __future__ import annotations

import pytest

from m3tl_cli.core.errors import ConfigError
from tests.episodes.pools import full, names, option, regressions, rows

TABLE = [(3, 4, 0.750), (4, 11, 0.636), (5, 26, 0.577), (6, 57, 0.544), (7, 120, 0.525), (8, 247, 0.514), (10, 1013, 0.504)]


@pytest.mark.parametrize(("total", "number", "inclusion"), TABLE)
def test_every_subset_of_two_or_more_comes_once(total: int, number: int, inclusion: float) -> None:
    tasks = regressions(total)
    episodes = option("enumerate", full(tasks, 2, 20), tasks, force=True).draw(3)
    assert len({names(e) for e in episodes}) == len(episodes) == number
    for task in tasks:
        assert sum(task in e.tasks for e in episodes) / number == pytest.approx(inclusion, abs=5e-4)
    assert sum(len(e.tasks) for e in episodes) == total * (2 ** (total - 1) - 1)


def test_all_subsets_share_one_read() -> None:
    tasks = regressions(4)
    pool = full(tasks, 3, 20)
    sampler = option("enumerate", pool, tasks)
    episodes = sampler.draw(0)
    assert pool.num_read == sampler.samples_per_step == 16
    assert len({id(e.query[0].batch) for e in episodes}) == 1
    assert len({tuple(rows(e.support)) for e in episodes}) == 1
    assert all(e.query[0].tasks == names(e) for e in episodes)


def test_too_many_episodes_are_refused_unless_forced() -> None:
    tasks = regressions(7)
    pool = full(tasks, 2, 20)
    with pytest.raises(ConfigError, match=r"at least the 120 episodes that 7 tasks have a step; found 64.*uniform_subset"):
        option("enumerate", pool, tasks)
    assert len(option("enumerate", pool, tasks, force=True).draw(0)) == 120
    assert len(option("enumerate", pool, tasks, max_episodes=120).draw(0)) == 120


def test_under_single_every_task_comes_once_on_samples_of_its_own() -> None:
    tasks = regressions(4)
    sampler = option("enumerate", full(tasks, 3, 20), tasks, single=True)
    assert sampler.samples_per_step == 64
    episodes = sampler.draw(0)
    assert [names(e) for e in episodes] == [("t0",), ("t1",), ("t2",), ("t3",)]
    assert {e.weight for e in episodes} == {0.25}
    assert len({tuple(rows(e.support)) for e in episodes}) == 4
    assert sampler.samples_per_step == 64
