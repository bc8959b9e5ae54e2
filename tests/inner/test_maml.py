from __future__ import annotations

import pytest
import torch

from tests.inner._inputs import build, fixed_point, net, net_loss, plain, weighted


@pytest.mark.parametrize(
    ("order", "steps", "answer"),
    [(2, 1, 0.2), (1, 1, 0.5), (2, 0, 0.8), (1, 0, 0.8), (2, 2, 1 / 65)],
    ids=["MAML", "FOMAML", "joint, second order", "joint, first order", "MAML of two steps"],
)
def test_two_quadratics_end_where_algebra_says(order: int, steps: int, answer: float) -> None:
    # Second order weighs task i by a_i (1 - .2 a_i)^(2 K), first order by a_i (1 - .2 a_i)^K; theta = sum of weight times centre.
    assert fixed_point(plain("maml", inner_lr=0.2, order=order), steps) == pytest.approx(answer, abs=1e-9)


def test_half_before_and_half_after_ends_between_joint_training_and_maml() -> None:
    # Weights a (1 + (1 - .2 a)^2): (1.64, 4.16); theta = 4.16 / 5.8.
    both = plain("maml", inner_lr=0.2, order=2, num_inner_steps=1)
    both.loss_weights = [0.5, 0.5]
    assert fixed_point(both, 1) == pytest.approx(4.16 / 5.8, abs=1e-9)


def test_all_weight_before_adaptation_is_joint_training() -> None:
    assert fixed_point(build("maml", rates="fixed", loss_weights=[1.0, 0.0, 0.0]), 2) == pytest.approx(0.8, abs=1e-9)


def test_first_order_is_the_gradient_at_theta_and_differs_from_second_order() -> None:
    phi, grads = net(), {}
    for order in (1, 2):
        inner = plain("maml", inner_lr=0.3, order=order)
        reached = inner.adapt(net_loss(1), phi, frozenset(phi), steps=2, differentiable=True)
        grads[order] = inner.outer(phi, reached, weighted(net_loss(2), reached), list(phi), keep=False)
        at = {name: tensor.detach().requires_grad_() for name, tensor in reached[-1].params.items()}
        names = list(grads[order])
        found = torch.autograd.grad(net_loss(2)(at)["a"], [at[name] for name in names], allow_unused=True)
        same = all(torch.equal(grads[order][name], g) for name, g in zip(names, found, strict=True) if g is not None)
        assert same == (order == 1)
    assert not torch.allclose(grads[1]["backbone.s.weight"], grads[2]["backbone.s.weight"], rtol=1e-2)


def test_second_order_says_so() -> None:
    assert build("maml", order=2).second_order
    assert not build("maml", order=1).second_order


def test_the_defaults_are_those_that_the_scenes_suggested() -> None:
    inner = build("maml")
    assert (inner.num_inner_steps, inner.scope, inner.second_order) == (2, ("backbone", "head"), False)
    assert inner.loss_weights == [0.5, 0.0, 0.5]
    assert (inner.walks_per_task, inner.clip, inner.rate_factor) == (True, 2.0, 10.0)
