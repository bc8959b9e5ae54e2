from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from m3tl_cli.core.contracts import Params
from tests.inner._inputs import build, everything, fixed_point, net, net_loss, quadratic

HEADS = frozenset({"head.a", "head.b"})


@pytest.mark.parametrize(
    ("order", "steps", "answer"),
    [(2, 1, 0.2), (1, 1, 0.5), (2, 0, 0.8), (1, 0, 0.8), (2, 2, 1 / 65)],
    ids=["MAML", "FOMAML", "joint, second order", "joint, first order", "MAML of two steps"],
)
def test_two_quadratics_end_where_algebra_says(order: int, steps: int, answer: float) -> None:
    # Second order weighs task i by a_i (1 - .2 a_i)^(2 K), first order by a_i (1 - .2 a_i)^K; theta = sum of weight times centre.
    assert fixed_point(build("maml", inner_lr=0.2, order=order), steps) == pytest.approx(answer, abs=1e-9)


def meta_loss(phi: Params, inner_lr: float, steps: int, clip: float | None) -> float:
    """Query loss after inner steps taken by hand."""
    theta = {name: tensor.detach().clone().requires_grad_() for name, tensor in phi.items()}
    for _ in range(steps):
        grads = torch.autograd.grad(net_loss(1, ("a", "b"))(theta), list(theta.values()))
        norm = float(torch.cat([grad.flatten() for grad in grads]).norm())
        scale = 1.0 if clip is None or norm <= clip else clip / norm
        theta = {n: (t - inner_lr * scale * g).detach().requires_grad_() for (n, t), g in zip(theta.items(), grads, strict=True)}
    return float(net_loss(2)(theta).detach())


@pytest.mark.parametrize("clip", [None, 0.5])
def test_the_second_order_gradient_is_that_of_finite_differences(clip: float | None) -> None:
    inner, phi = build("maml", inner_lr=0.3, order=2, clip=clip), net()
    theta = inner.adapt(net_loss(1, ("a", "b")), phi, everything(phi), steps=3, differentiable=True)
    outer = inner.outer(phi, theta, net_loss(2)(theta), list(phi), keep=False)
    assert set(outer) == set(phi)  # head.b too, though the query loss does not read it: joint steps couple the heads
    assert float(outer["head.b"].norm()) > 1e-3
    for name, tensor in phi.items():
        for place in range(tensor.numel()):
            ends = []
            for shift in (1e-5, -1e-5):
                moved = {n: t.detach().clone() for n, t in phi.items()}
                moved[name].view(-1)[place] += shift
                ends.append(meta_loss(moved, 0.3, 3, clip))
            assert float(outer[name].view(-1)[place]) == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-8)


def test_first_order_is_the_gradient_at_theta_and_differs_from_second_order() -> None:
    phi, grads = net(), {}
    for order in (1, 2):
        inner = build("maml", inner_lr=0.3, order=order)
        theta = inner.adapt(net_loss(1), phi, everything(phi), steps=2, differentiable=True)
        grads[order] = inner.outer(phi, theta, net_loss(2)(theta), list(phi), keep=False)
        at = {name: tensor.detach().requires_grad_() for name, tensor in theta.items()}
        names = list(grads[order])
        expected = dict(zip(names, torch.autograd.grad(net_loss(2)(at), [at[name] for name in names], allow_unused=True), strict=True))
        same = all(torch.equal(grads[order][name], expected[name]) for name in names)
        assert same == (order == 1)
    assert not torch.allclose(grads[1]["trunk.weight"], grads[2]["trunk.weight"], rtol=1e-2)


def test_a_head_that_no_loss_reads_is_left_out() -> None:
    inner, phi = build("maml"), net()
    theta = inner.adapt(net_loss(1), phi, everything(phi), steps=1, differentiable=True)
    assert theta["head.b"] is phi["head.b"]
    assert set(inner.outer(phi, theta, net_loss(2)(theta), list(phi), keep=False)) == set(phi) - {"head.b"}


@pytest.mark.parametrize("order", [1, 2])
def test_without_steps_theta_is_phi_and_the_gradient_is_the_joint_one(order: int) -> None:
    inner, phi = build("maml", order=order), net()
    theta = inner.adapt(net_loss(1), phi, everything(phi), steps=0, differentiable=True)
    assert all(theta[name] is phi[name] for name in phi)
    outer = inner.outer(phi, theta, net_loss(2)(theta), ["trunk.weight", "head.a"], keep=False)
    assert_close(tuple(outer.values()), torch.autograd.grad(net_loss(2)(phi), [phi["trunk.weight"], phi["head.a"]]), rtol=0, atol=0)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("differentiable", [True, False])
def test_names_out_of_scope_are_the_same_objects(order: int, differentiable: bool) -> None:
    inner, phi = build("maml", order=order), net()
    before = {name: tensor.detach().clone() for name, tensor in phi.items()}
    theta = inner.adapt(net_loss(1, ("a", "b")), phi, lambda k: HEADS, steps=2, differentiable=differentiable)
    assert {name for name in phi if theta[name] is phi[name]} == set(phi) - HEADS
    assert all(torch.equal(phi[name], before[name]) for name in phi)
    assert all(tensor.grad is None for tensor in phi.values())
    if differentiable:  # the trunk gets its gradient at phi directly
        outer = inner.outer(phi, theta, net_loss(2)(theta), list(phi), keep=True)
        trunk = torch.autograd.grad(net_loss(2)(theta), phi["trunk.weight"])[0]
        assert torch.allclose(outer["trunk.weight"], trunk)


def test_a_scope_may_grow_with_the_step() -> None:
    inner, phi, seen = build("maml"), net(), []

    def scope(k: int) -> frozenset[str]:
        seen.append(k)
        return HEADS if k == 1 else frozenset(phi)

    changed: list[set[str]] = []
    after: Callable[[int, Params], None] = lambda k, params: changed.append({n for n in phi if not torch.equal(params[n], phi[n])})  # noqa: E731
    inner.adapt(net_loss(1, ("a", "b")), phi, scope, steps=2, differentiable=False, on_step=after)
    assert seen == [1, 2]
    assert changed == [set(HEADS), set(phi)]


def test_steps_are_shown_detached_and_are_those_of_gradient_descent() -> None:
    phi = {"theta": torch.tensor(0.0, dtype=torch.float64, requires_grad=True)}
    shown: list[tuple[int, float]] = []

    def on_step(k: int, params: Params) -> None:
        assert not params["theta"].requires_grad
        shown.append((k, float(params["theta"])))

    inner = build("maml", inner_lr=0.25)
    inner.adapt(quadratic(2.0, 1.0), phi, everything(phi), steps=3, differentiable=True, on_step=on_step)
    assert shown == [(1, 0.5), (2, 0.75), (3, 0.875)]


class Square(torch.autograd.Function):
    """The square, which notes whether its backward pass is itself recorded for differentiation."""

    recorded: ClassVar[list[bool]] = []

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        Square.recorded.append(torch.is_grad_enabled())
        return 2 * ctx.saved_tensors[0] * gradient


@pytest.mark.parametrize(("order", "differentiable", "recorded"), [(1, True, False), (2, True, True), (2, False, False)])
def test_only_second_order_in_training_keeps_the_graph_of_the_steps(order: int, differentiable: bool, recorded: bool) -> None:
    phi = {"theta": torch.tensor(1.0, dtype=torch.float64, requires_grad=True)}
    inner = build("maml", inner_lr=0.1, order=order)
    Square.recorded.clear()
    theta = inner.adapt(lambda params: Square.apply(params["theta"]), phi, everything(phi), steps=2, differentiable=differentiable)
    assert Square.recorded == [recorded] * 2
    assert float(theta["theta"].detach()) == pytest.approx(0.64)
    assert theta["theta"].is_leaf != recorded
    assert theta["theta"].requires_grad == differentiable


@pytest.mark.parametrize("order", [1, 2])
def test_adaptation_at_the_target_leaves_no_graph_even_under_no_grad_and_from_frozen_parameters(order: int) -> None:
    phi = {name: tensor.detach() for name, tensor in net().items()}
    inner = build("maml", order=order)
    with torch.no_grad():
        theta = inner.adapt(net_loss(1), phi, everything(phi), steps=3, differentiable=False)
    assert not any(tensor.requires_grad for tensor in theta.values())
    assert float(net_loss(1)(theta)) < float(net_loss(1)(phi))
    trained = build("maml", order=order).adapt(net_loss(1), net(), everything(phi), steps=3, differentiable=True)
    assert all(torch.equal(theta[name], trained[name]) for name in phi)


@pytest.mark.parametrize("order", [1, 2])
def test_a_kept_graph_serves_one_call_per_task(order: int) -> None:
    inner, phi = build("maml", order=order), net()
    theta = inner.adapt(net_loss(1, ("a", "b")), phi, everything(phi), steps=2, differentiable=True)
    tasks = [net_loss(2, (head,))(theta) for head in ("a", "b")]
    rows = [inner.outer(phi, theta, loss, list(phi), keep=True) for loss in tasks]
    total = inner.outer(phi, theta, sum(tasks, torch.zeros(())), list(phi), keep=False)
    for name in phi:
        assert_close(sum(row.get(name, torch.zeros(())) for row in rows), total[name])


@pytest.mark.parametrize("order", [1, 2])
def test_the_clip_holds_the_norm_over_the_whole_scope(order: int) -> None:
    phi = net()
    inner = build("maml", inner_lr=1.0, order=order, clip=0.01)
    theta = inner.adapt(net_loss(1), phi, everything(phi), steps=1, differentiable=True)
    moved = torch.cat([(phi[name] - theta[name]).detach().flatten() for name in phi])
    assert float(moved.norm()) == pytest.approx(0.01, rel=1e-12)
    loose = build("maml", inner_lr=1.0, order=order, clip=1e6).adapt(net_loss(1), phi, everything(phi), steps=1, differentiable=True)
    free = build("maml", inner_lr=1.0, order=order).adapt(net_loss(1), phi, everything(phi), steps=1, differentiable=True)
    assert all(torch.equal(loose[name], free[name]) for name in phi)


def test_a_clip_at_a_gradient_of_nothing_is_differentiable() -> None:
    phi = {"theta": torch.tensor(1.0, dtype=torch.float64, requires_grad=True)}
    inner = build("maml", order=2, clip=1.0)
    theta = inner.adapt(quadratic(1.0, 1.0), phi, everything(phi), steps=1, differentiable=True)
    assert bool(inner.outer(phi, theta, quadratic(1.0, 0.0)(theta), ["theta"], keep=False)["theta"].isfinite())


@pytest.mark.parametrize(("order", "differentiable", "steps"), [(1, True, 4), (2, True, 4), (1, False, 1)])
def test_a_divergent_descent_is_taken_back_at_half_the_rate(order: int, differentiable: bool, steps: int) -> None:
    # a = 4: a step multiplies theta by 1 - 4 rate: -7 at 2 and -3 at 1 (49 and 9 times the loss), then -1 at .5
    phi = {"theta": torch.tensor(1.0, dtype=torch.float64, requires_grad=True)}
    inner = build("maml", inner_lr=2.0, order=order, diverge=5.0)
    theta = inner.adapt(quadratic(4.0, 0.0), phi, everything(phi), steps=steps, differentiable=differentiable)
    assert float(theta["theta"].detach()) == (-1.0) ** steps
    assert inner.halvings == 2
    assert inner.inner_lr == 2.0


def test_a_loss_that_is_no_number_is_a_divergence() -> None:
    phi = {"theta": torch.tensor(1.0, dtype=torch.float64, requires_grad=True)}
    loss: Callable[[Params], Tensor] = lambda params: params["theta"].log().square() + params["theta"]  # noqa: E731
    inner = build("maml", inner_lr=1.5)  # to -.5 at 1.5, whose logarithm is none; to .25 at .75
    theta = inner.adapt(loss, phi, everything(phi), steps=1, differentiable=False)
    assert float(theta["theta"]) == 0.25
    assert inner.halvings == 1


def test_what_diverges_at_every_rate_stays_at_phi() -> None:
    phi = {"theta": torch.tensor(1.0, dtype=torch.float64, requires_grad=True)}
    inner = build("maml", inner_lr=1e6, max_halvings=3)
    theta = inner.adapt(quadratic(4.0, 0.0), phi, everything(phi), steps=2, differentiable=True)
    assert theta["theta"] is phi["theta"]
    assert inner.halvings == 4
    outer = inner.outer(phi, theta, quadratic(4.0, 0.0)(theta), ["theta"], keep=False)
    assert float(outer["theta"]) == 4.0


def test_a_loss_that_is_broken_from_the_start_is_passed_on() -> None:
    phi = {"theta": torch.tensor(torch.nan, dtype=torch.float64, requires_grad=True)}
    inner = build("maml")
    theta = inner.adapt(quadratic(1.0, 0.0), phi, everything(phi), steps=2, differentiable=True)
    assert bool(theta["theta"].isnan())
    assert inner.halvings == 0


def test_an_objective_that_reads_nothing_in_scope_changes_nothing() -> None:
    inner, phi = build("maml"), net()
    theta = inner.adapt(net_loss(1), phi, lambda k: frozenset({"head.b"}), steps=2, differentiable=True)
    assert all(theta[name] is phi[name] for name in phi)
    nowhere = inner.adapt(net_loss(1), phi, lambda k: frozenset(), steps=2, differentiable=True)
    assert all(nowhere[name] is phi[name] for name in phi)


def test_second_order_says_so() -> None:
    assert build("maml", order=2).second_order
    assert not build("maml", order=1).second_order
