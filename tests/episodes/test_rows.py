from __future__ import annotations

import itertools

import pytest
import torch

from m3tl_cli.core.contracts import generator
from m3tl_cli.core.errors import DataError
from m3tl_cli.episodes.rows import DomainRows
from tests.episodes.pools import Samples, full, regressions

TASKS = regressions(3)
NAMES = [t.name for t in TASKS]


def domain_rows(pool: Samples, shots: int = 2, query: int = 3, cross: bool = False) -> DomainRows:
    return DomainRows(pool=pool, tasks=NAMES, num_shots=shots, num_query=query, cross_domain=cross)


def test_counts_are_those_of_a_loop_and_domains_are_numbered_as_the_pool_has_them() -> None:
    random = torch.Generator().manual_seed(0)
    domain = torch.tensor([2, 7, 4])[torch.randint(3, (60,), generator=random)]
    pool = Samples(domain, {n: torch.rand(60, generator=random) < 0.6 for n in NAMES})
    found = domain_rows(pool)
    assert found.num_domains == 3
    for i, name in enumerate(NAMES):
        assert found.counts_TD[i].tolist() == [int((pool.labelled[name] & (domain == d)).sum()) for d in (2, 4, 7)]


def test_a_domain_suits_tasks_that_share_enough_samples_and_all_draw_the_same() -> None:
    labelled = {"t0": torch.ones(20, dtype=torch.bool), "t1": torch.arange(20) % 10 < 5, "t2": torch.arange(20) < 14}
    pool = Samples(torch.arange(2).repeat_interleave(10), labelled)
    found = domain_rows(pool)
    assert [found.domains(s).tolist() for s in ((0,), (1,), (2,), (0, 1), (0, 1, 2))] == [[0, 1], [0, 1], [0], [0, 1], [0]]
    for trial in range(20):
        support, query = found.draw((0, 1, 2), generator(trial), None)
        assert all(support[n] is support["t0"] and query[n] is query["t0"] for n in NAMES)
        assert sorted([*support["t0"].tolist(), *query["t0"].tolist()]) == [0, 1, 2, 3, 4]


def test_tasks_without_a_common_sample_draw_their_own() -> None:
    which = torch.arange(3).repeat(10)
    pool = Samples(torch.arange(2).repeat_interleave(15), {n: which == i for i, n in enumerate(NAMES)})
    found = domain_rows(pool)
    assert found.domains((0, 1, 2)).tolist() == [0, 1]
    support, query = found.draw((0, 2), generator(1), 1)
    for i, name in ((0, "t0"), (2, "t2")):
        assert (len(support[name]), len(query[name])) == (2, 3)
        assert {r % 3 for r in [*support[name].tolist(), *query[name].tolist()]} == {i}
        assert all(15 <= r < 30 and r not in query[name] for r in support[name].tolist())
    assert domain_rows(pool, 2, 4).domains((0,)).tolist() == []


def test_a_domain_that_suits_always_has_enough_for_every_pattern_of_labels() -> None:
    drawn = 0
    for trial in range(300):
        random = torch.Generator().manual_seed(trial)
        size = int(torch.randint(6, 30, (), generator=random))
        rate = torch.rand(3, generator=random) * 0.8 + 0.2
        labelled = {n: torch.rand(size, generator=random) < rate[i] for i, n in enumerate(NAMES)}
        if not all(bool(mask.any()) for mask in labelled.values()):
            continue
        found = domain_rows(Samples(torch.zeros(size, dtype=torch.int64), labelled))
        for k in (1, 2, 3):
            for subset in itertools.combinations(range(3), k):
                if len(found.domains(subset)):
                    smaller = [s for j in range(1, k) for s in itertools.combinations(subset, j)]
                    assert all(len(found.domains(s)) for s in smaller), "suits a set, so it suits its subsets"
                    support, query = found.draw(subset, random, None)
                    asked = {r for rows in query.values() for r in rows.tolist()}
                    for i in subset:
                        assert len(support[NAMES[i]]) == 2
                        assert len(query[NAMES[i]]) == 3
                        assert labelled[NAMES[i]][support[NAMES[i]]].all()
                        assert labelled[NAMES[i]][query[NAMES[i]]].all()
                        assert not asked & set(support[NAMES[i]].tolist())
                    drawn += len({tuple(s.tolist()) for s in support.values()}) > 1
    assert drawn > 20, "some of these must have drawn task by task"


@pytest.mark.parametrize("size", [24, 25, 40])
def test_samples_of_a_small_and_of_a_large_domain_are_drawn_alike(size: int) -> None:
    found = domain_rows(full(TASKS, 1, size), 2, 3)  # from 5^2 samples on, by another way
    counts_H = torch.zeros(2, size)
    for trial in range(1500):
        support, query = found.draw((0,), generator(trial), None)
        assert len(set(support["t0"].tolist()) | set(query["t0"].tolist())) == 5
        counts_H[0, support["t0"]] += 1
        counts_H[1, query["t0"]] += 1
    expected = torch.tensor([[2 / size], [3 / size]])
    deviation = (expected * (1 - expected) / 1500).sqrt()
    assert ((counts_H / 1500 - expected).abs() < 4.5 * deviation).all()


def test_cross_domain_draws_from_two_domains_all_pairs_alike() -> None:
    pool = full(TASKS, 3, 4)
    found = domain_rows(pool, 4, 4, cross=True)
    pairs: dict[tuple[int, int], int] = {}
    for trial in range(1200):
        support, query = found.draw((0, 1), generator(trial), None)
        place = (int(pool.domain[support["t0"]].unique()), int(pool.domain[query["t0"]].unique()))
        pairs[place] = pairs.get(place, 0) + 1
    assert set(pairs) == {(a, b) for a in range(3) for b in range(3) if a != b}
    assert all(abs(n / 1200 - 1 / 6) < 0.045 for n in pairs.values())  # 4 standard deviations of 1/6


def test_cross_domain_needs_another_domain_for_the_query() -> None:
    size = {0: 6, 1: 3, 2: 3}  # only domain 0 has the 5 query samples
    pool = Samples(torch.repeat_interleave(torch.arange(3), torch.tensor(list(size.values()))), full(TASKS, 1, 12).labelled)
    found = domain_rows(pool, 3, 5, cross=True)
    assert found.domains((0,)).tolist() == [1, 2]
    assert domain_rows(full(TASKS, 1, 50), cross=True).domains((0,)).tolist() == []
    assert domain_rows(pool, 3, 7, cross=True).domains((0,)).tolist() == []


def test_a_task_without_labels_is_refused_by_name() -> None:
    pool = full(TASKS, 2, 5)
    pool.labelled = {**pool.labelled, "t1": torch.zeros(10, dtype=torch.bool)}
    with pytest.raises(DataError, match="`t1` must have at least one labelled training sample; found none among 10"):
        domain_rows(pool)
