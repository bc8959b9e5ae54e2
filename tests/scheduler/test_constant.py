from __future__ import annotations

import pytest

from m3tl_cli.scheduler.constant import Constant


def test_without_warm_up_the_factor_is_one() -> None:
    assert [Constant(warmup=0.0).factor(step, 5) for step in (0, 1, 4, 9)] == [1, 1, 1, 1]


def test_the_warm_up_rises_in_equal_steps_and_stays() -> None:
    assert [Constant(warmup=0.4).factor(step, 10) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


@pytest.mark.parametrize("updates", [1, 2, 3, 7])
def test_a_run_of_a_few_updates_never_exceeds_the_peak(updates: int) -> None:
    factors = [Constant(warmup=0.45).factor(step, updates) for step in range(updates)]
    assert all(0 < f <= 1 for f in factors)
    assert factors == sorted(factors)
