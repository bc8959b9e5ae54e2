from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import pytest
import torch

from tests.episodes.pools import Samples, chosen, full, option, regressions, shares

TASKS = regressions(4)
SIZES = (400, 200, 100, 100)


def sized() -> Samples:
    """Two domains of 200 samples; t0 labels all of them, t1 half ..."""
    place = torch.arange(200).repeat(2)
    labelled = {t.name: place < n // 2 for t, n in zip(TASKS, SIZES, strict=True)}
    return Samples(torch.arange(2).repeat_interleave(200), labelled)


def drawn(pool: Samples, **given: Any) -> list[Any]:
    return chosen(option("temperature", pool, TASKS, **({"num_episodes": 6000} | given)))


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, (0.5, 0.25, 0.125, 0.125)), (1e9, (0.25,) * 4), (1e-9, (1.0, 0, 0, 0))])
def test_alone_a_task_comes_by_its_tempered_size(temperature: float, expected: tuple[float, ...]) -> None:
    found = shares(drawn(sized(), single=True, temperature=temperature))
    assert [found.get((i,), 0.0) for i in range(4)] == pytest.approx(list(expected), abs=0.026)


def test_the_middle_temperature_by_hand() -> None:
    root = [math.sqrt(n) for n in SIZES]
    found = shares(drawn(sized(), single=True, temperature=2.0))
    assert [found[(i,)] for i in range(4)] == pytest.approx([r / sum(root) for r in root], abs=0.026)


def test_a_large_temperature_draws_subsets_alike_and_a_small_one_those_with_large_tasks() -> None:
    even = shares(drawn(sized(), temperature=1e9))
    assert len(even) == 11
    assert list(even.values()) == pytest.approx([1 / 11] * 11, abs=0.016)
    # By hand, subset (0, 3): p(size 2) p(S) / C(3, 1) = 6/11 (.5 + .125) / 3.
    assert shares(drawn(sized(), temperature=1.0))[(0, 3)] == pytest.approx(6 / 11 * 0.625 / 3, abs=0.017)


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("over", ["task", "task_domain"])
def test_draws_follow_their_law_and_corrected_weights_undo_it(single: bool, over: str) -> None:
    pool = sized()
    pool.labelled = {**pool.labelled, "t1": pool.labelled["t1"] & ((pool.domain == 0) | (torch.arange(400) % 2 == 0))}
    counts = [[200, 200], [100, 50], [50, 50], [50, 50]]
    domains = [None] if over == "task" else [0, 1]
    subsets = [s for k in ([1] if single else [2, 3, 4]) for s in itertools.combinations(range(4), k)]
    number = 4000
    choices = drawn(pool, single=single, over=over, temperature=1.0, correct=True, num_episodes=number)
    found = Counter((c.subset, c.domain) for c in choices)
    ratio = {(c.subset, c.domain): c.ratio for c in choices}
    total = 0.0
    for subset, domain in itertools.product(subsets, domains):
        law = 0.0
        size = 1.0 if single else math.comb(4, len(subset)) / 11
        for anchor in subset:  # size, then task and domain in proportion to their samples, then the company
            row = sum(counts[anchor]) if domain is None else counts[anchor][domain]
            law += size * row / sum(map(sum, counts)) / math.comb(3, len(subset) - 1)
        assert found[subset, domain] / number == pytest.approx(law, abs=4.5 * math.sqrt(law / number))
        assert ratio[subset, domain] * law == pytest.approx(1 / len(subsets) / len(domains))
        total += law
    assert total == pytest.approx(1)


def test_a_task_and_a_domain_are_drawn_together_by_their_own_size() -> None:
    domain = torch.repeat_interleave(torch.arange(3), torch.tensor([100, 40, 10]))  # domain 2 suits nobody
    some = torch.cat([torch.arange(100) < 20, torch.ones(50, dtype=torch.bool)])
    pool = Samples(domain, {"t0": torch.ones(150, dtype=torch.bool), "t1": some, "t2": domain == 1, "t3": domain == 0})
    sampler = option("temperature", pool, TASKS, single=True, over="task_domain", temperature=1.0, num_episodes=6000)
    found = Counter((c.subset[0], c.domain) for c in chosen(sampler))
    law = {(0, 0): 100, (0, 1): 40, (1, 0): 20, (1, 1): 40, (2, 1): 40, (3, 0): 100}
    assert {k: n / 6000 for k, n in found.items()} == pytest.approx({k: n / 340 for k, n in law.items()}, abs=0.026)
    reading = option("temperature", pool, TASKS, single=True, over="task_domain", temperature=1.0, num_episodes=60)
    for episode in reading.draw(0):
        assert len(episode.support[0].batch.domain.unique()) == 1
        assert 2 not in episode.support[0].batch.domain


def test_the_chosen_domain_is_the_supports() -> None:
    for cross in (False, True):
        sampler = option("temperature", full(TASKS, 3, 30), TASKS, over="task_domain", cross_domain=cross, num_episodes=20)
        choices = sampler.choose(4, sampler._random("tasks", 4))
        for choice, episode in zip(choices, sampler.draw(4), strict=True):
            assert episode.support[0].batch.domain.unique().tolist() == [choice.domain]
            assert (episode.query[0].batch.domain == choice.domain).all() == (not cross)
