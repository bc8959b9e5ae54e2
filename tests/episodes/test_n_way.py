from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from m3tl_cli.core.contracts import Task
from m3tl_cli.core.errors import ConfigError, DataError
from tests.episodes.pools import Samples, full, option, regressions, rows

WAY = Task("way", "multiclass", num_outputs=3, dense=False, classes=("0", "1", "2"))


def alphabets(per_class: int = 9) -> Samples:
    """Domain d has the classes 5d ... 5d + 4, shuffled over the rows."""
    classes = torch.arange(20).repeat(per_class)[torch.randperm(20 * per_class, generator=torch.Generator().manual_seed(0))]
    return Samples(classes // 5, {"way": torch.zeros(len(classes), dtype=torch.bool)}, classes=classes + 100)


def sampler(pool: Samples | None = None, task: Task = WAY, **given: Any) -> Any:
    settings = {"num_ways": 3, "num_shots": 2, "num_query": 4} | given
    return option("n_way", pool or alphabets(), [task], **settings)


def test_an_episode_has_the_numbers_asked_for_and_no_sample_twice() -> None:
    pool = alphabets()
    drawn = sampler(pool)
    for step in range(20):
        for episode in drawn.draw(step):
            (support,), (query,) = episode.support, episode.query
            assert support.tasks == query.tasks == ("way",)
            assert support.batch.targets["way"].tolist() == [0, 0, 1, 1, 2, 2]
            assert query.batch.targets["way"].bincount().tolist() == [4, 4, 4]
            assert query.batch.labelled["way"].all()
            assert len(set(rows(episode.support)) | set(rows(episode.query))) == 18
            classes = [pool.classes[p.batch.index] for p in (support, query)]
            ways = classes[0][::2]
            assert len(set(ways.tolist())) == 3
            assert all(torch.equal(c, ways[p.batch.targets["way"]]) for c, p in zip(classes, (support, query), strict=True))
            assert episode.fresh == {"way"}
            assert (episode.tasks, episode.weight) == ((WAY,), 0.25)
    assert drawn.samples_per_step == 4 * 3 * 6 == pool.num_read / 20


def test_classes_and_their_names_in_the_episode_are_any_alike() -> None:
    pool = alphabets()
    episodes = sampler(pool, num_episodes=1500).draw(0)
    named = Counter((int(pool.classes[r]), way) for e in episodes for way, r in enumerate(e.support[0].batch.index[::2].tolist()))
    assert len(named) == 60
    assert max(abs(n / 1500 - 1 / 20) for n in named.values()) < 0.025
    of_one = Counter(r for e in episodes for r in rows(e.query) if int(pool.classes[r]) == 107)
    assert len(of_one) == 9
    # A row of a class is asked for in 3/20 of the episodes times 4/9: 100 of 1,500.
    assert all(60 < n < 140 for n in of_one.values())


def test_within_a_domain_all_classes_are_of_one() -> None:
    pool = alphabets()
    domains = Counter()
    for episode in sampler(pool, within_domain=True, num_episodes=400).draw(0):
        both = torch.cat([episode.support[0].batch.domain, episode.query[0].batch.domain])
        (domain,) = both.unique().tolist()
        domains[domain] += 1
    assert set(domains) == {0, 1, 2, 3}
    assert all(65 < n < 135 for n in domains.values())
    mixed = sampler(pool, num_episodes=50).draw(0)
    assert any(len(e.support[0].batch.domain.unique()) > 1 for e in mixed)


def test_a_class_that_several_domains_have_stays_within_the_drawn_one() -> None:
    classes, domain = torch.arange(4).repeat(30), torch.arange(3).repeat_interleave(40)  # 10 of each class and speaker
    pool = Samples(domain, {"way": domain >= 0}, classes=classes)
    for episode in sampler(pool, within_domain=True, num_episodes=30).draw(0):
        assert len(torch.cat([episode.support[0].batch.domain, episode.query[0].batch.domain]).unique()) == 1
    with pytest.raises(DataError, match=r"a domain must have 3 classes with 7 support and 4 query.*found 0 in any of 3 domains"):
        sampler(pool, within_domain=True, num_shots=7)
    assert sampler(pool, num_shots=7).draw(0)


def test_classes_with_too_few_samples_are_left_out() -> None:
    size = torch.tensor([6, 5, 8, 6, 2, 7])
    classes = torch.repeat_interleave(torch.arange(6), size)
    pool = Samples(torch.zeros(34, dtype=torch.int64), {"way": classes >= 0}, classes=classes)
    used = {int(pool.classes[r]) for step in range(30) for e in sampler(pool).draw(step) for r in rows(e.support)}
    assert used == {0, 2, 3, 5}


def test_a_step_depends_on_nothing_but_seed_and_step() -> None:
    forward = sampler()
    drawn = [[(e.uid, rows(e.support), rows(e.query)) for e in forward.draw(step)] for step in range(6)]
    again = sampler()
    assert [[(e.uid, rows(e.support), rows(e.query)) for e in again.draw(step)] for step in (5, 2)] == [drawn[5], drawn[2]]
    assert sampler(single=True).draw(3)[1].uid == 13
    assert rows(sampler(seed=2).draw(0)[0].support) != rows(forward.draw(0)[0].support)


def test_heads_are_fresh_only_if_asked_for() -> None:
    assert all(e.fresh == frozenset() for e in sampler(fresh=0).draw(0))


def test_what_cannot_be_drawn_is_said() -> None:
    with pytest.raises(ConfigError, match=r"`num_ways` must be the number of outputs of `way`, 3; found 4.*episodes.num_ways=3"):
        sampler(num_ways=4)
    with pytest.raises(ConfigError, match=r"one task of kind multiclass.*found `t0` \(regression\)"):
        sampler(task=regressions(1)[0])
    with pytest.raises(DataError, match=r"`data` must be one that says the class of every sample"):
        sampler(full([WAY], 2, 9))
    with pytest.raises(DataError, match=r"the data must have 3 classes with 8 support and 4 query samples each; found 0 in 20 classes"):
        sampler(num_shots=8)
