from __future__ import annotations

import itertools

import pytest
import torch

from m3tl_cli.episodes.uniform_subset import UniformSubset
from tests.episodes.pools import chosen, full, names, option, regressions, rows, shares


@pytest.mark.parametrize(
    ("total", "number", "inclusion"),
    [(3, 4, 0.750), (4, 11, 0.636), (5, 26, 0.577), (6, 57, 0.544), (7, 120, 0.525), (8, 247, 0.514), (10, 1013, 0.504)],
)
def test_subsets_are_alike_and_tasks_are_included_as_in_the_enumeration(total: int, number: int, inclusion: float) -> None:
    tasks = regressions(total)
    drawn = chosen(option("uniform_subset", full(tasks, 1, 20), tasks, num_episodes=8000))
    assert all(c.ratio == 1.0 for c in drawn)
    for task in range(total):
        assert sum(task in c.subset for c in drawn) / 8000 == pytest.approx(inclusion, abs=0.023)  # 4 standard deviations at most
    found = shares(drawn)
    assert set(found) <= {s for k in range(2, total + 1) for s in itertools.combinations(range(total), k)}
    chi2 = 8000 * number * sum((p - 1 / number) ** 2 for p in found.values()) + 8000 * (number - len(found)) / number
    assert abs(chi2 - (number - 1)) < 4.5 * (2 * (number - 1)) ** 0.5


def test_the_mean_over_episodes_has_the_expectation_of_the_enumeration() -> None:
    tasks, pool = regressions(5), full(regressions(5), 2, 20)
    value = {
        s: float(torch.rand((), generator=torch.Generator().manual_seed(hash(s) % 1000)))
        for k in range(2, 6)
        for s in itertools.combinations(range(5), k)
    }
    enumeration = sum(value.values()) / 26
    sampler = option("uniform_subset", pool, tasks, num_episodes=4)
    steps = [sum(value[tuple(int(n[1:]) for n in names(e))] * e.weight for e in sampler.draw(step)) for step in range(300)]
    error = torch.tensor(steps).std() / 300**0.5
    assert abs(sum(steps) / 300 - enumeration) < 4 * error < 0.07


def test_two_tasks_have_one_subset_and_many_domains() -> None:
    tasks = regressions(2)
    episodes = [e for step in range(20) for e in option("uniform_subset", full(tasks, 4, 20), tasks).draw(step)]
    assert {names(e) for e in episodes} == {("t0", "t1")}
    assert {int(p.batch.domain[0]) for e in episodes for p in e.support} == set(range(4))
    assert len({tuple(rows(e.support)) for e in episodes}) == 80


def test_under_single_every_task_is_as_likely() -> None:
    tasks = regressions(3)
    sampler: UniformSubset = option("uniform_subset", full(tasks, 1, 20), tasks, single=True, num_episodes=3000)
    assert shares(chosen(sampler)) == pytest.approx({(0,): 1 / 3, (1,): 1 / 3, (2,): 1 / 3}, abs=0.035)
