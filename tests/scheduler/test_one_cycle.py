from __future__ import annotations

from typing import Literal

import pytest
import torch

from m3tl_cli.scheduler.one_cycle import OneCycle

SCHEDULE = OneCycle(warmup=0.3, start=0.04, end=4e-6)


def torch_factors(updates: int, anneal: Literal["cos", "linear"]) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.0, total_steps=updates, pct_start=0.3, anneal_strategy=anneal, cycle_momentum=False
    )
    factors = []
    for _ in range(updates):
        factors.append(float(reference.get_last_lr()[0]))
        optimizer.step()
        if len(factors) < updates:
            reference.step()
    return factors


@pytest.mark.parametrize("updates", [20, 33, 1000])
def test_it_rises_as_torch_s_linear_and_falls_as_torch_s_cosine_one_cycle(updates: int) -> None:
    found = [SCHEDULE.factor(step, updates) for step in range(updates)]
    peak = int(0.3 * updates - 1)
    assert found[: peak + 1] == pytest.approx(torch_factors(updates, "linear")[: peak + 1], rel=1e-9)
    assert found[peak + 1 :] == pytest.approx(torch_factors(updates, "cos")[peak + 1 :], rel=1e-9)


def test_it_begins_at_start_peaks_at_one_and_ends_at_end() -> None:
    assert SCHEDULE.factor(0, 1000) == pytest.approx(0.04)
    assert SCHEDULE.factor(299, 1000) == 1
    assert SCHEDULE.factor(999, 1000) == pytest.approx(4e-6)
    assert SCHEDULE.factor(2000, 1000) == pytest.approx(4e-6)


@pytest.mark.parametrize("updates", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("warmup", [0.0, 0.3, 0.99])
def test_a_run_of_a_few_updates_stays_between_zero_and_one(updates: int, warmup: float) -> None:
    factors = [OneCycle(warmup=warmup, start=0.04, end=0.0).factor(step, updates) for step in range(updates)]
    assert all(0 <= f <= 1 for f in factors)
    assert max(factors) > 0


def test_a_single_update_has_the_peak_rate() -> None:
    assert SCHEDULE.factor(0, 1) == 1
