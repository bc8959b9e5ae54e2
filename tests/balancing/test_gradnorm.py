from __future__ import annotations

import math

import pytest
import torch

from m3tl_cli.core.errors import ConfigError
from tests.balancing._asserts import assert_permutes, call
from tests.balancing._inputs import losses, names, ready, rows

ONE_TO_HUNDRED = torch.tensor([[1.0, 0.0], [0.0, 100.0]], dtype=torch.float64)


def settle(alpha: float, norms: torch.Tensor, course: list[list[float]], lr: float = 0.002, steps: int = 4000) -> torch.Tensor:
    """Weights after many steps with the same gradients, losses going from the first row of `course` to the second."""
    balancer = ready("gradnorm", len(norms), alpha=alpha, lr=lr)
    first, then = torch.tensor(course, dtype=torch.float64)
    balancer.combine(norms, first, names(len(norms)))
    for _ in range(steps):
        balanced = balancer.combine(norms, then, names(len(norms)))
    return balanced.weights_T


@pytest.mark.parametrize("alpha", [0.0, 1.5])
def test_norms_one_to_hundred_at_equal_training_rates_settle_at_equal_norms(alpha: float) -> None:
    # w_1 * 1 = w_2 * 100 and w_1 + w_2 = 2
    weights_T = settle(alpha, ONE_TO_HUNDRED, [[3.0, 7.0], [1.5, 3.5]])
    assert weights_T.tolist() == pytest.approx([1.9801980198, 0.0198019802], rel=5e-3)


def test_eight_tasks_settle_at_equal_norms() -> None:
    matrix = rows(8, "spread")
    weights_T = settle(0.0, matrix, [[1.0] * 8] * 2)
    weighted = weights_T * matrix.norm(dim=1)
    assert weighted.tolist() == pytest.approx([float(weighted.mean())] * 8, rel=2e-2)
    assert float(weights_T.sum()) == pytest.approx(8.0, abs=1e-9)


def test_a_task_that_trains_half_as_fast_gets_the_larger_norm() -> None:
    # Loss ratios (1/4, 1/2), so r = (2/3, 4/3). G_i = mean(G) r_i^alpha for both needs r_1^alpha + r_2^alpha = 2: alpha = 1, where
    # w_2 = 2 w_1 at equal norms: w = (2/3, 4/3).
    weights_T = settle(1.0, torch.eye(2, dtype=torch.float64), [[4.0, 4.0], [1.0, 2.0]])
    assert weights_T.tolist() == pytest.approx([2 / 3, 4 / 3], rel=1e-2)


def test_one_step_by_hand() -> None:
    # alpha 0, w = 1: G = (1, 3), mean 2, signs (-, +). ln w changes by -lr sign G / mean = (+.05, -.15) at lr .1; then the sum is 2 again.
    balancer = ready("gradnorm", 2, alpha=0.0, lr=0.1)
    matrix = torch.tensor([[1.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    first = call(balancer, matrix, losses(2), names(2))
    assert first.weights_T.tolist() == [1.0, 1.0]
    raw = [math.exp(0.05), math.exp(-0.15)]
    second = call(balancer, matrix, losses(2), names(2))
    assert second.weights_T.tolist() == pytest.approx([2 * value / sum(raw) for value in raw], abs=1e-15)
    assert torch.equal(second.gradient_P, second.weights_T @ matrix)


def test_the_step_descends_the_gradient_that_autograd_finds() -> None:
    log_w = torch.tensor([0.1, -0.4, 0.2], dtype=torch.float64).requires_grad_()
    norms, ratios, alpha = rows(3).norm(dim=1), torch.tensor([0.5, 0.2, 0.9], dtype=torch.float64), 1.5
    weighted = log_w.exp() * norms
    target = (weighted.mean() * (ratios / ratios.mean()) ** alpha).detach()
    (slope,) = torch.autograd.grad((weighted - target).abs().sum() / weighted.mean().detach(), log_w)
    balancer = ready("gradnorm", 3, alpha=alpha, lr=0.01)
    balancer.load_state_dict({"weights": dict(zip(names(3), log_w.exp().tolist(), strict=True)), "initial": dict.fromkeys(names(3), 1.0)})
    balancer.combine(rows(3), ratios, names(3))
    after = torch.tensor(list(balancer.state_dict()["weights"].values()), dtype=torch.float64)
    expected = (log_w - 0.01 * slope).exp().detach()
    torch.testing.assert_close(after / after.sum(), expected / expected.sum(), rtol=1e-12, atol=0)


def test_the_scale_of_all_gradients_does_not_matter() -> None:
    small, large = ready("gradnorm", 3), ready("gradnorm", 3)
    for seed in range(20):
        one = small.combine(rows(3, seed=seed) * 1e-6, losses(3), names(3)).weights_T
        other = large.combine(rows(3, seed=seed) * 1e6, losses(3), names(3)).weights_T
    torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


def test_an_absent_task_keeps_its_weight_and_the_present_sum_to_their_number() -> None:
    balancer = ready("gradnorm", 3)
    for _ in range(10):
        balancer.combine(rows(3, "spread"), losses(3), names(3))
    kept = balancer.state_dict()["weights"]["t1"]
    for _ in range(10):
        weights_T = balancer.combine(rows(2, "spread"), losses(2), ["t0", "t2"]).weights_T
    assert balancer.state_dict()["weights"]["t1"] == kept
    assert float(weights_T.sum()) == pytest.approx(2.0, abs=1e-12)
    assert sum(balancer.state_dict()["weights"].values()) == pytest.approx(3.0, abs=1e-12)


def test_the_first_loss_is_that_of_the_first_appearance() -> None:
    balancer = ready("gradnorm", 2)
    balancer.combine(rows(1), torch.tensor([5.0], dtype=torch.float64), ["t0"])
    balancer.combine(rows(2), torch.tensor([4.0, 3.0], dtype=torch.float64), names(2))
    assert balancer.state_dict()["initial"] == {"t0": 5.0, "t1": 3.0}


def test_losses_and_gradients_of_nothing_are_survived() -> None:
    balancer = ready("gradnorm", 2)
    nothing = torch.zeros(2, dtype=torch.float64)
    assert call(balancer, rows(2), nothing, names(2)).gradient_P.isfinite().all()
    assert call(balancer, torch.zeros(2, 5, dtype=torch.float64), losses(2), names(2)).weights_T.isfinite().all()
    assert call(balancer, rows(2), nothing, names(2)).weights_T.isfinite().all()


def test_a_negative_loss_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"at least 0 under balancing=gradnorm; found -1 for task 't0'"):
        ready("gradnorm", 2).combine(rows(2), torch.tensor([-1.0, 1.0]), names(2))


def test_order_does_not_matter() -> None:
    one, other = ready("gradnorm", 3), ready("gradnorm", 3)
    for balancer in (one, other):
        for seed in range(3):
            balancer.combine(rows(3, "spread", seed), losses(3), names(3))
    assert_permutes(one, other, rows(3), losses(3), names(3))
