from __future__ import annotations

import pytest
import torch

from m3tl_cli.scheduler.cosine import Cosine


def test_without_warm_up_it_is_torch_s_cosine_annealing() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=0.1)
    for step in range(20):
        assert Cosine(warmup=0.0, end=0.1).factor(step, 20) == pytest.approx(reference.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        reference.step()


def test_it_rises_to_one_then_falls_by_hand() -> None:
    # Two of six updates rise; at 4 half of the fall is done.
    found = [Cosine(warmup=1 / 3, end=0.0).factor(step, 6) for step in range(7)]
    assert found[:3] == [0.5, 1, 1]
    assert found[4] == pytest.approx(0.5)
    assert found[6] == pytest.approx(0)


@pytest.mark.parametrize("updates", [1, 2, 3, 10, 999])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.3, 0.99])
def test_factors_stay_between_zero_and_one_and_the_last_update_still_moves(updates: int, warmup: float) -> None:
    factors = [Cosine(warmup=warmup, end=0.0).factor(step, updates) for step in range(updates)]
    assert all(0 < f <= 1 for f in factors)
    top = factors.index(max(factors))
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)
