from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from m3tl_cli.core.errors import ConfigError, DataError
from tests.episodes.pools import chosen, full, option, regressions, shares

TASKS = regressions(5)


def drawn(**given: Any) -> list[Any]:
    return chosen(option("size_first", full(TASKS, 1, 20), TASKS, **({"num_episodes": 6000} | given)))


@pytest.mark.parametrize("power", [0.0, -1.0, 2.0])
def test_sizes_follow_their_law_and_tasks_are_included_by_the_mean_size(power: float) -> None:
    choices = drawn(power=power)
    total = sum(k**power for k in range(2, 6))
    law = {k: k**power / total for k in range(2, 6)}
    assert {k: n / 6000 for k, n in Counter(len(c.subset) for c in choices).items()} == pytest.approx(law, abs=0.027)
    mean_size = sum(k * p for k, p in law.items())
    for task in range(5):
        assert sum(task in c.subset for c in choices) / 6000 == pytest.approx(mean_size / 5, abs=0.026)


def test_sizes_stay_between_the_bounds_and_subsets_of_a_size_are_alike() -> None:
    choices = drawn(min_size=3, max_size=4)
    assert {len(c.subset) for c in choices} == {3, 4}
    triples = shares([c for c in choices if len(c.subset) == 3])
    assert len(triples) == 10
    assert list(triples.values()) == pytest.approx([0.1] * 10, abs=0.025)
    assert {len(c.subset) for c in drawn(min_size=9, max_size=9)} == {5}


def test_corrected_weights_undo_the_law() -> None:
    choices = drawn(power=1.5, correct=True, num_episodes=8000)
    weight: Counter[tuple[int, ...]] = Counter()
    for choice in choices:
        weight[choice.subset] += choice.ratio / 8000
    assert dict(weight) == pytest.approx(dict.fromkeys(weight, 1 / 26), abs=0.014)
    assert len(weight) == 26
    # By hand for pairs: (1/26) / (p(2) / 10), p(2) = 2^1.5 / (2^1.5 + 3^1.5 + 4^1.5 + 5^1.5).
    ratio = next(c.ratio for c in choices if len(c.subset) == 2)
    assert ratio == pytest.approx(10 / 26 * (2**1.5 + 3**1.5 + 4**1.5 + 5**1.5) / 2**1.5)


def test_a_correction_without_all_sizes_and_bounds_out_of_order_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"`correct` must be off where sizes between 2 and 5 are never drawn; found sizes 2 to 4"):
        drawn(max_size=4, correct=True)
    with pytest.raises(ConfigError, match=r"`min_size` must be at most `max_size`; found 4 above 3"):
        drawn(min_size=4, max_size=3)


def test_a_bound_on_the_size_bounds_what_the_data_must_have() -> None:
    pool = full(TASKS, 2, 20)
    domain_0 = pool.domain == 0
    pool.labelled = {t.name: domain_0 if i < 3 else pool.labelled[t.name] for i, t in enumerate(TASKS)}
    pool.labelled["t4"] = ~domain_0
    with pytest.raises(DataError, match="`t0`, `t4` in common"):
        option("size_first", pool, TASKS, max_size=2)
    assert option("size_first", pool, TASKS[:4], max_size=2).draw(0)


def test_under_single_sizes_have_no_say() -> None:
    sampler = option("size_first", full(TASKS, 1, 20), TASKS, single=True, min_size=3, max_size=4, correct=True, num_episodes=2000)
    choices = chosen(sampler)
    assert shares(choices) == pytest.approx({(i,): 0.2 for i in range(5)}, abs=0.04)
    assert {c.ratio for c in choices} == {1.0}
