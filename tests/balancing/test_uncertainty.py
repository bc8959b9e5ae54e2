from __future__ import annotations

import math

import pytest
import torch

from m3tl_cli.balancing.base import Balancer
from m3tl_cli.core.errors import ConfigError
from tests.balancing._asserts import assert_permutes
from tests.balancing._inputs import losses, names, ready, rows


def log_variance(balancer: Balancer) -> list[float]:
    return list(balancer.state_dict()["log_variance"].values())


def test_one_step_by_hand() -> None:
    # s = 0, L = (.5, 1.2): s <- 0 - lr (1 - L) = (-.05, .02) at lr .1; the next weights are exp(-s).
    balancer = ready("uncertainty", 2, lr=0.1)
    losses_T = torch.tensor([0.5, 1.2], dtype=torch.float64)
    assert balancer.weights(losses_T, names(2)).tolist() == [1.0, 1.0]
    assert log_variance(balancer) == pytest.approx([-0.05, 0.02], abs=1e-15)
    assert balancer.weights(losses_T, names(2)).tolist() == pytest.approx([math.exp(0.05), math.exp(-0.02)], abs=1e-15)


def test_s_comes_to_rest_at_the_logarithm_of_the_loss() -> None:
    balancer = ready("uncertainty", 3)
    losses_T = torch.tensor([2.0, 1e-3, 500.0], dtype=torch.float64)
    for _ in range(2000):
        weights_T = balancer.weights(losses_T, names(3))
    assert log_variance(balancer) == pytest.approx([0.6931471805599453, math.log(1e-3), math.log(500)], abs=1e-9)
    assert (weights_T * losses_T).tolist() == pytest.approx([1.0] * 3, abs=1e-9)


def test_the_resting_point_is_where_autograd_finds_no_slope() -> None:
    s = torch.tensor([math.log(2.0), math.log(0.3)], dtype=torch.float64, requires_grad=True)
    (torch.exp(-s) * torch.tensor([2.0, 0.3], dtype=torch.float64) + s).sum().backward()
    assert s.grad is not None
    assert s.grad.tolist() == pytest.approx([0.0, 0.0], abs=1e-12)


def test_a_task_that_is_present_half_of_the_time_keeps_ln_2() -> None:
    balancer = ready("uncertainty", 2)
    for step in range(2000):
        tasks = names(2) if step % 2 else ["t0"]
        balancer.weights(torch.full((len(tasks),), 2.0, dtype=torch.float64), tasks)
    assert log_variance(balancer) == pytest.approx([math.log(2)] * 2, abs=1e-9)


def test_an_absent_task_never_drifts() -> None:
    balancer = ready("uncertainty", 2)
    for _ in range(300):
        balancer.weights(torch.ones(1, dtype=torch.float64), ["t0"])
    assert log_variance(balancer)[1] == 0.0


def test_a_huge_first_loss_does_not_silence_its_task() -> None:
    balancer = ready("uncertainty", 1, lr=0.025)
    balancer.weights(torch.tensor([1e6], dtype=torch.float64), names(1))
    assert log_variance(balancer) == pytest.approx([0.025])


def test_a_loss_of_nothing_moves_nothing() -> None:
    balancer = ready("uncertainty", 2, lr=0.1)
    balancer.weights(torch.tensor([0.0, 0.5], dtype=torch.float64), names(2))
    assert log_variance(balancer) == pytest.approx([0.0, -0.05])


@pytest.mark.parametrize("broken", [torch.inf, torch.nan])
def test_a_step_with_a_loss_that_is_no_number_moves_nothing(broken: float) -> None:
    balancer = ready("uncertainty", 2)
    balancer.weights(torch.tensor([0.5, broken], dtype=torch.float64), names(2))
    assert log_variance(balancer) == [0.0, 0.0]


def test_a_negative_loss_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"at least 0 under balancing=uncertainty; found -0.5 for task 't1'"):
        ready("uncertainty", 2).weights(torch.tensor([1.0, -0.5]), names(2))


def test_order_does_not_matter() -> None:
    one, other = ready("uncertainty", 3), ready("uncertainty", 3)
    for balancer in (one, other):
        for _ in range(5):
            balancer.weights(losses(3), names(3))
    assert_permutes(one, other, rows(3), losses(3), names(3))


def test_rows_and_losses_are_weighed_alike() -> None:
    by_rows, by_losses = ready("uncertainty", 3), ready("uncertainty", 3)
    for _ in range(3):
        balanced = by_rows.combine(rows(3), losses(3), names(3))
        weights_T = by_losses.weights(losses(3), names(3))
    assert torch.equal(balanced.weights_T, weights_T)
    assert torch.equal(balanced.gradient_P, weights_T @ rows(3))
