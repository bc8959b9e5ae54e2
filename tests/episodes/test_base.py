"""What every episode sampler owes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from m3tl_cli.core.contracts import Episode
from m3tl_cli.core.errors import DataError
from m3tl_cli.episodes.base import uniform_size_law
from tests.episodes.pools import Samples, full, names, option, regressions, rows

SUBSETS = ["uniform_subset", "size_first", "coverage_balanced", "enumerate", "temperature", "hard_task", "alternating"]
TASKS = regressions(4)


def seen(episodes: Sequence[Episode]) -> list[object]:
    def half(parts: object) -> list[object]:
        return [(p.batch.index.tolist(), p.batch.present["rgb"].tolist(), p.tasks) for p in parts]  # type: ignore[attr-defined]

    return [(e.uid, names(e), half(e.support), half(e.query), sorted(e.fresh), e.weight) for e in episodes]


@pytest.mark.parametrize("stem", SUBSETS)
@pytest.mark.parametrize("single", [False, True])
def test_a_step_depends_on_nothing_but_seed_and_step(stem: str, single: bool) -> None:
    pool = full(TASKS, 5, 20)
    sampler = option(stem, pool, TASKS, single=single, fresh=0.5)
    forward = {step: seen(sampler.draw(step)) for step in range(12)}
    again = option(stem, pool, TASKS, single=single, fresh=0.5)
    assert {step: seen(again.draw(step)) for step in (11, 3, 0)} == {step: forward[step] for step in (11, 3, 0)}
    other = option(stem, pool, TASKS, single=single, fresh=0.5, seed=2)
    assert [seen(other.draw(step)) for step in range(12)] != list(forward.values())
    uids = [e.uid for step in range(12) for e in sampler.draw(step)]
    assert len(set(uids)) == len(uids)


@pytest.mark.parametrize("stem", SUBSETS)
@pytest.mark.parametrize("cross", [False, True])
def test_support_and_query_are_disjoint_labelled_and_of_one_domain_each(stem: str, cross: bool) -> None:
    sampler = option(stem, full(TASKS, 5, 20), TASKS, cross_domain=cross, num_shots=6, num_query=7)
    counted = sampler.samples_per_step
    domains = set()
    for step in range(30):
        episodes = sampler.draw(step)
        assert sampler.samples_per_step == counted
        for episode in episodes:
            (support,), (query,) = episode.support, episode.query
            assert (len(support.batch), len(query.batch)) == (6, 7)
            assert support.tasks == query.tasks == names(episode) == tuple(sorted(names(episode)))
            assert not set(rows(episode.support)) & set(rows(episode.query))
            assert all(len(set(rows(parts))) == len(rows(parts)) for parts in (episode.support, episode.query))
            (first,), (second,) = support.batch.domain.unique().tolist(), query.batch.domain.unique().tolist()
            assert (first != second) == cross
            domains |= {first, second}
            assert all(support.batch.labelled[t].all() and query.batch.labelled[t].all() for t in names(episode))
    assert domains == set(range(5))


@pytest.mark.parametrize("stem", SUBSETS)
def test_an_episode_holds_one_task_under_single_and_else_two_or_more(stem: str) -> None:
    pool = full(TASKS, 3, 20)
    alone = [e for step in range(20) for e in option(stem, pool, TASKS, single=True).draw(step)]
    assert {len(e.tasks) for e in alone} == {1}
    assert {e.tasks[0].name for e in alone} == {"t0", "t1", "t2", "t3"}
    if stem != "alternating":
        together = [e for step in range(20) for e in option(stem, pool, TASKS).draw(step)]
        assert min(len(e.tasks) for e in together) >= 2
    assert {names(e) for e in option(stem, full(TASKS[:1], 3, 20), TASKS[:1]).draw(0)} == {("t0",)}


@pytest.mark.parametrize("stem", SUBSETS)
def test_reduce_says_what_an_episode_counts(stem: str) -> None:
    pool = full(TASKS, 3, 20)
    mean, total = (option(stem, pool, TASKS, reduce=reduce).draw(0) for reduce in ("mean", "sum"))
    assert sum(e.weight for e in mean) == pytest.approx(1)
    assert {e.weight for e in total} == {1.0}
    assert seen(mean) != seen(total)
    assert [rows(e.query) for e in mean] == [rows(e.query) for e in total]


def test_a_fresh_head_falls_to_any_task_at_the_given_rate_and_changes_nothing_else() -> None:
    pool = full(TASKS, 2, 20)
    fresh = option("uniform_subset", pool, TASKS, fresh=0.3, num_episodes=800)
    plain = option("uniform_subset", pool, TASKS, num_episodes=800)
    with_fresh, without = fresh.draw(0), plain.draw(0)
    assert [rows(e.support) for e in with_fresh] == [rows(e.support) for e in without]
    assert not any(e.fresh for e in without)
    picked = [next(iter(e.fresh)) for e in with_fresh if e.fresh]
    assert all(e.fresh <= set(names(e)) and len(e.fresh) <= 1 for e in with_fresh)
    assert len(picked) / 800 == pytest.approx(0.3, abs=0.065)  # 4 standard deviations
    assert all(picked.count(t.name) / len(picked) == pytest.approx(0.25, abs=0.11) for t in TASKS)


def test_modalities_are_dropped_at_the_given_rate_and_never_the_last() -> None:
    episodes = option("uniform_subset", full(TASKS, 1, 200), TASKS, modality_dropout=0.3, num_shots=90, num_query=90).draw(0)
    batches = [p.batch for e in episodes for p in (*e.support, *e.query)]
    present_MB = torch.cat([torch.stack([b.present["rgb"], b.present["lidar"]]) for b in batches], 1)
    assert present_MB.any(0).all()
    # One falls with .3, unless both do (.09), when one of them stays: .3 - .09 / 2.
    assert 1 - float(present_MB.float().mean()) == pytest.approx(0.255, abs=0.04)
    still = option("uniform_subset", full(TASKS, 1, 20), TASKS, modality_dropout=0.0).draw(0)
    assert all(p.batch.present["rgb"].all() and p.batch.present["lidar"].all() for e in still for p in e.query)


@pytest.mark.parametrize("stem", SUBSETS)
def test_tasks_with_disjoint_labels_get_a_part_each(stem: str) -> None:
    which = torch.arange(4).repeat(60)
    pool = Samples(torch.arange(3).repeat_interleave(80), {t.name: which == i for i, t in enumerate(TASKS)})
    sampler = option(stem, pool, TASKS)
    episodes = sampler.draw(0)
    for episode in episodes:
        assert [p.tasks for p in episode.support] == [p.tasks for p in episode.query] == [(n,) for n in names(episode)]
        for part in (*episode.support, *episode.query):
            assert len(part.batch) == 8
            assert part.batch.labelled[part.tasks[0]].all()
    read = 16 * 4 if stem == "enumerate" else 16 * sum(len(e.tasks) for e in episodes)
    assert sampler.samples_per_step == read


@pytest.mark.parametrize("stem", [s for s in SUBSETS if s != "alternating"])
def test_tasks_that_no_domain_labels_together_are_refused_unless_alone(stem: str) -> None:
    domain = torch.arange(4).repeat_interleave(20)
    pool = Samples(domain, {t.name: domain == i for i, t in enumerate(TASKS)})
    with pytest.raises(DataError, match=r"labelled for .* in common; found at most 0 in any of 4 domains.*paradigm=meta"):
        option(stem, pool, TASKS)
    assert option(stem, pool, TASKS, single=True).draw(0)


@pytest.mark.parametrize("stem", SUBSETS)
def test_what_the_data_lacks_is_said(stem: str) -> None:
    with pytest.raises(DataError, match=r"one domain must hold 8 support and 8 query samples labelled for .*found at most 15 in any of 3"):
        option(stem, full(TASKS, 3, 15), TASKS)
    with pytest.raises(DataError, match=r"found at most 15 in the only domain.*lower episodes.num_shots"):
        option(stem, full(TASKS, 1, 15), TASKS)
    with pytest.raises(DataError, match=r"another 8 query samples.*episodes.cross_domain=false"):
        option(stem, full(TASKS, 1, 50), TASKS, cross_domain=True)
    option(stem, full(TASKS, 2, 8), TASKS, cross_domain=True).draw(0)


def test_the_law_of_sizes_is_that_of_all_subsets() -> None:
    assert uniform_size_law(4, range(2, 5)) == [6 / 11, 4 / 11, 1 / 11]
    assert uniform_size_law(9, range(1, 2)) == [1.0]
    assert sum(uniform_size_law(1100, range(2, 1101))) == pytest.approx(1)


def test_a_sampler_without_scores_has_an_empty_state() -> None:
    sampler = option("uniform_subset", full(TASKS, 2, 20), TASKS)
    sampler.update({"t0": 1.0})
    assert sampler.state_dict() == {}
    sampler.load_state_dict({})
