from __future__ import annotations

import torch

from tests.episodes.pools import Samples, full, names, option, regressions, rows

TASKS = regressions(3)


def test_steps_go_to_one_task_after_the_other_in_order() -> None:
    sampler = option("alternating", full(TASKS, 4, 20), TASKS)
    steps = [sampler.draw(step) for step in range(7)]
    assert [{names(e) for e in episodes} for episodes in steps] == [{(f"t{i}",)} for i in (0, 1, 2, 0, 1, 2, 0)]
    assert [len(episodes) for episodes in steps] == [4] * 7
    assert len({tuple(rows(e.query)) for e in steps[0]}) == 4
    assert sampler.samples_per_step == 64


def test_tasks_need_no_common_domain() -> None:
    domain = torch.arange(3).repeat_interleave(20)
    sampler = option("alternating", Samples(domain, {t.name: domain == i for i, t in enumerate(TASKS)}), TASKS)
    assert [int(sampler.draw(step)[0].query[0].batch.domain[0]) for step in range(3)] == [0, 1, 2]
