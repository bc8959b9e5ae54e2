from __future__ import annotations

from collections import Counter

import pytest

from tests.episodes.pools import chosen, full, option, regressions, shares


@pytest.mark.parametrize("total", [1, 2, 3, 4, 5, 6, 7, 10])
@pytest.mark.parametrize("number", [1, 2, 3, 4, 7])
def test_every_task_is_in_equally_many_episodes_of_every_step(total: int, number: int) -> None:
    tasks = regressions(total)
    sampler = option("coverage_balanced", full(tasks, 1, 20), tasks, num_episodes=number)
    for step in range(5):
        choices = sampler.choose(step, sampler._random("tasks", step))
        assert len(choices) == number
        counts = Counter(task for c in choices for task in c.subset)
        assert len(counts) == total
        assert len(set(counts.values())) == 1
        assert all(len(c.subset) >= min(2, total) for c in choices)
        assert max(len(c.subset) for c in choices) <= sampler.largest()


def test_blocks_of_a_permutation_differ_by_one_at_most_and_are_any() -> None:
    tasks = regressions(5)
    choices = chosen(option("coverage_balanced", full(tasks, 1, 20), tasks, num_episodes=2), steps=3000)
    pairs = [tuple(c.subset for c in choices[i : i + 2]) for i in range(0, 6000, 2)]
    assert all(sorted((*a, *b)) == [0, 1, 2, 3, 4] and {len(a), len(b)} == {2, 3} for a, b in pairs)
    twos = shares([c for c in choices if len(c.subset) == 2])
    assert len(twos) == 10
    assert list(twos.values()) == pytest.approx([0.1] * 10, abs=0.025)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_under_single_permutations_run_on_from_step_to_step(number: int) -> None:
    tasks = regressions(5)
    sampler = option("coverage_balanced", full(tasks, 1, 20), tasks, num_episodes=number, single=True)
    stream = [c.subset[0] for c in chosen(sampler, steps=60)]
    rounds = [tuple(stream[i : i + 5]) for i in range(0, len(stream) // 5 * 5, 5)]
    assert all(sorted(r) == [0, 1, 2, 3, 4] for r in rounds)
    assert len(set(rounds)) > len(rounds) // 2


@pytest.mark.parametrize("number", [5, 7, 10])
def test_under_single_with_enough_episodes_every_task_is_in_every_step(number: int) -> None:
    tasks = regressions(5)
    sampler = option("coverage_balanced", full(tasks, 1, 20), tasks, num_episodes=number, single=True)
    for step in range(20):
        subsets = [c.subset for c in sampler.choose(step, sampler._random("tasks", step))]
        assert len(subsets) == number
        assert {s[0] for s in subsets} == set(range(5))
