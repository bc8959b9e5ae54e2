from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import pytest

from tests.episodes.pools import chosen, full, names, option, regressions, rows, shares
from tests.toys import states_equal

TASKS = regressions(4)
POOL = full(TASKS, 3, 20)


def sampler(**given: Any) -> Any:
    return option("hard_task", POOL, TASKS, **given)


def test_the_task_that_does_worse_than_usual_comes_more_often() -> None:
    hard = sampler(single=True, num_episodes=4000)
    for _ in range(5):
        hard.update({"t0": 1.0, "t1": 50.0, "t2": 0.1, "t3": 2.0})
    hard.update({"t0": 0.9, "t1": 49.0, "t2": 0.2, "t3": 2.1})  # t2: .2 against a mean of .11
    assert hard.anchors().tolist() == pytest.approx([0.125, 0.125, 0.625, 0.125])
    assert shares(chosen(hard)) == pytest.approx({(0,): 0.125, (1,): 0.125, (2,): 0.625, (3,): 0.125}, abs=0.03)


def test_equal_tasks_stay_uniform_whatever_their_scale() -> None:
    hard = sampler()
    assert hard.anchors().tolist() == [0.25] * 4
    for _ in range(10):
        hard.update({"t0": 1.0, "t1": 64.0, "t2": 0.25, "t3": 2.0})
    assert hard.anchors().tolist() == [0.25] * 4
    found = shares(chosen(sampler(num_episodes=6000)))
    assert list(found.values()) == pytest.approx([1 / 11] * 11, abs=0.016)


def test_the_running_mean_by_hand() -> None:
    hard = sampler(decay=0.75)
    hard.update({"t0": 1.0})
    hard.update({"t0": 2.0, "t1": 3.0})
    assert hard.state_dict() == {"last": {"t0": 2.0, "t1": 3.0}, "mean": {"t0": 1.25, "t1": 3.0}}
    assert hard.anchors().tolist() == pytest.approx([0.625, 0.125, 0.125, 0.125])  # 1.6, 1, and 1 for the unseen


def test_a_loss_that_is_not_finite_or_not_positive_makes_no_task_hard() -> None:
    hard = sampler()
    hard.update({"t0": math.nan, "t1": math.inf, "t2": -1.0, "t3": 0.0})
    assert hard.anchors().tolist() == [0.25] * 4
    hard.update({"t2": -5.0})
    assert hard.anchors().tolist() == [0.25] * 4


def test_corrected_weights_undo_the_law() -> None:
    hard = sampler(correct=True, num_episodes=6000)
    hard.update({"t0": 1.0, "t3": 1.0})
    hard.update({"t0": 1.0, "t3": 3.0})
    weight: Counter[tuple[int, ...]] = Counter()
    choices = chosen(hard)
    for choice in choices:
        weight[choice.subset] += choice.ratio / 6000
    assert len(weight) == 11
    assert dict(weight) == pytest.approx(dict.fromkeys(weight, 1 / 11), abs=0.025)
    # By hand, (0, 1): half the tasks over their share of the anchors, .125 each.
    assert next(c.ratio for c in choices if c.subset == (0, 1)) == pytest.approx(0.5 / 0.25)
    assert next(c.ratio for c in choices if len(c.subset) == 4) == pytest.approx(1)


def test_the_ratio_reaches_the_episodes_weight() -> None:
    hard = sampler(correct=True, num_episodes=2)
    hard.update({"t1": 1.0})
    hard.update({"t1": 2.0})
    for step in range(10):
        for choice, episode in zip(hard.choose(step, hard._random("tasks", step)), hard.draw(step), strict=True):
            assert names(episode) == tuple(f"t{i}" for i in choice.subset)
            assert episode.weight == choice.ratio / 2


def test_a_state_goes_on_to_the_bit_through_json() -> None:
    first, second = sampler(), sampler()
    for step in range(7):
        first.update({"t0": 1 / (step + 3), "t2": math.sin(step) + 1.1})
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert states_equal(first.state_dict(), second.state_dict())
    assert [(names(e), rows(e.query)) for e in first.draw(9)] == [(names(e), rows(e.query)) for e in second.draw(9)]


def test_a_state_is_not_shared_with_who_gave_or_took_it() -> None:
    hard = sampler()
    given = {"last": {"t0": 1.0}, "mean": {"t0": 2.0}}
    hard.load_state_dict(given)
    taken = hard.state_dict()
    hard.update({"t0": 5.0})
    assert given == taken == {"last": {"t0": 1.0}, "mean": {"t0": 2.0}}
