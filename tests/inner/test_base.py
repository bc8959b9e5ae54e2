"""What every descent promises, whichever option names it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from m3tl_cli.core.contracts import Params
from m3tl_cli.core.errors import ConfigError
from tests.inner._inputs import adapted, build, finite_differences, net, net_loss, net_reads, plain, quadratic, started, weighted

HEADS = frozenset({"head.a.out", "head.b.out"})
RATES = ["fixed", "module", "module_task", "element"]
BOTH = ("a", "b")


def rate_name(rates: str, name: str, task: str) -> str | None:
    module = ".".join(name.split(".")[:2])
    key = {"module": module, "module_task": f"{module}.{task}", "element": name}.get(rates)
    return None if key is None else f"inner.rate.{key}"


Step = dict[str, dict[str, Tensor]]


def by_hand(phi: Params, inner_lr: float, steps: int, clip: float | None, rates: str) -> tuple[list[dict[str, Tensor]], list[Step]]:
    """The descent written out again, without a graph: theta_0 ... theta_K, and the clipped gradients of every step by task and name."""
    points, taken = [{n: t.detach().clone() for n, t in phi.items() if not n.startswith("inner.")}], []
    for _ in range(steps):
        at = {n: t.clone().requires_grad_() for n, t in points[-1].items()}
        losses = net_loss(1, BOTH)(at)
        objectives = losses if rates == "module_task" else {"": torch.stack(list(losses.values())).mean()}
        new, step = dict(points[-1]), {}
        for task, loss in objectives.items():
            grads = torch.autograd.grad(loss, list(at.values()), allow_unused=True, retain_graph=True)
            found = {n: g for n, g in zip(at, grads, strict=True) if g is not None}
            norm = float(torch.cat([g.flatten() for g in found.values()]).norm())
            scale = 1.0 if clip is None or norm <= clip else clip / norm
            step[task] = {n: scale * g for n, g in found.items()}
            for n, g in step[task].items():
                key = rate_name(rates, n, task)
                new[n] = new[n] - inner_lr * (1.0 if key is None else phi[key].detach().exp()) * g
        points.append(new)
        taken.append(step)
    return points, taken


@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("order", [1, 2])
def test_the_descent_is_the_one_written_out_by_hand(rates: str, clip: float | None, order: int) -> None:
    inner = build("maml", num_inner_steps=3, inner_lr=0.3, order=order, clip=clip, rates=rates, loss_weights=None)
    phi = started(inner)
    theta, expected = adapted(inner, net_loss(1, BOTH), phi), by_hand(phi, 0.3, 3, clip, rates)[0][-1]
    for name, tensor in expected.items():
        assert_close(theta[name].detach(), tensor, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize(("clip", "weights"), [(None, None), (0.5, None), (0.5, [0.5, 0.0, 0.2, 0.3])])
def test_the_second_order_gradient_is_that_of_finite_differences_learned_rates_included(
    rates: str, clip: float | None, weights: list[float] | None
) -> None:
    inner = build("maml", num_inner_steps=3, inner_lr=0.3, order=2, clip=clip, rates=rates, loss_weights=weights)
    phi = started(inner)

    def value(at: Params) -> float:
        points, _ = by_hand(at, 0.3, 3, clip, rates)
        shares = weights or [0.0, 0.0, 0.0, 1.0]
        return sum(w * float(net_loss(2)(theta)["a"]) for w, theta in zip(shares, points, strict=True))

    reached = inner.adapt(net_loss(1, BOTH), phi, frozenset(net()), steps=3, differentiable=True)
    outer = inner.outer(phi, reached, weighted(net_loss(2), reached), list(phi), keep=False)
    slopes = finite_differences(value, phi)
    assert set(outer) == set(phi)  # head.b too, though the query loss does not read it: joint steps couple the heads
    assert float(outer["head.b.out"].norm()) > 1e-3
    for name in phi:
        assert_close(outer[name], slopes[name], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("rates", ["module", "module_task", "element"])
def test_the_first_order_gradient_of_a_rate_is_minus_its_product_with_the_clipped_gradients_so_far(rates: str) -> None:
    inner = build("maml", num_inner_steps=2, inner_lr=0.3, order=1, clip=0.5, rates=rates, loss_weights=[0.0, 0.25, 0.75])
    phi = started(inner)
    reached = inner.adapt(net_loss(1, BOTH), phi, frozenset(net()), steps=2, differentiable=True)
    outer = inner.outer(phi, reached, weighted(net_loss(2), reached), list(phi), keep=False)

    points, taken = by_hand(phi, 0.3, 2, 0.5, rates)
    expected = {n: torch.zeros_like(t, requires_grad=False) for n, t in phi.items()}
    for k, weight in ((1, 0.25), (2, 0.75)):
        at = {n: t.clone().requires_grad_() for n, t in points[k].items()}
        found = torch.autograd.grad(net_loss(2)(at)["a"], list(at.values()), allow_unused=True)
        for name, g in ((n, g) for n, g in zip(at, found, strict=True) if g is not None):
            expected[name] += weight * g
            for step in taken[:k]:
                for task, grads in ((t, found) for t, found in step.items() if name in found):
                    key = rate_name(rates, name, task)
                    product = g * grads[name]
                    slope = -0.3 * phi[key].detach().exp() * (product if rates == "element" else product.sum())
                    expected[key] += weight * slope
    for name, tensor in expected.items():
        assert_close(outer.get(name, torch.zeros_like(tensor)), tensor, rtol=1e-10, atol=1e-13)
    assert all(
        float(outer[name].norm()) > 0 for name in inner.reads(frozenset({"backbone.s.weight", "head.a.out"})) if "head.b" not in name
    )


def test_each_task_has_a_clip_and_a_rate_of_its_own_under_module_task() -> None:
    phi = {"backbone.s.theta": torch.zeros(2, dtype=torch.float64, requires_grad=True)}
    inner = build("maml", num_inner_steps=1, inner_lr=1.0, loss_weights=None, clip=1.0)
    inner.start(phi, {"small": frozenset(phi), "large": frozenset(phi)})
    loss: Callable[[Params], dict[str, Tensor]] = lambda params: {  # noqa: E731
        "small": 0.5 * params["backbone.s.theta"][0],
        "large": 1e6 * params["backbone.s.theta"][1],
    }
    with torch.no_grad():
        inner.params()["inner.rate.backbone.s.large"] += torch.tensor(0.5).log()
    theta = adapted(inner, loss, phi | inner.params())["backbone.s.theta"]
    assert_close(theta.detach(), torch.tensor([-0.5, -0.5], dtype=torch.float64))
    one = build("maml", num_inner_steps=1, inner_lr=1.0, loss_weights=None, clip=1.0, rates="fixed")
    drowned = adapted(one, loss, phi)["backbone.s.theta"].detach()
    assert abs(float(drowned[0])) < 1e-6, "under one clip the small task gets nothing"


def test_a_head_that_no_loss_reads_is_left_out() -> None:
    inner, phi = plain("maml"), net()
    reached = inner.adapt(net_loss(1), phi, frozenset(phi), steps=1, differentiable=True)
    assert reached[-1].params["head.b.out"] is phi["head.b.out"]
    assert set(inner.outer(phi, reached, weighted(net_loss(2), reached), list(phi), keep=False)) == set(phi) - {"head.b.out"}


@pytest.mark.parametrize("order", [1, 2])
def test_without_steps_theta_is_phi_and_the_gradient_is_the_joint_one(order: int) -> None:
    inner, phi = build("maml", order=order, num_inner_steps=0, loss_weights=None), net()
    (point,) = inner.adapt(net_loss(1), phi, frozenset(phi), steps=0, differentiable=True)
    assert (point.step, point.weight) == (0, 1.0)
    assert point.params is phi
    outer = inner.outer(phi, [point], net_loss(2)(phi)["a"], ["backbone.s.weight", "head.a.out"], keep=False)
    expected = torch.autograd.grad(net_loss(2)(phi)["a"], [phi["backbone.s.weight"], phi["head.a.out"]])
    assert_close(tuple(outer.values()), expected, rtol=0, atol=0)


def test_loss_weights_name_the_points_that_count() -> None:
    phi = net()
    half = build("maml", rates="fixed", loss_weights=[2.0, 0.0, 2.0])
    reached = half.adapt(net_loss(1), phi, frozenset(phi), steps=2, differentiable=True)
    assert [(p.step, p.weight) for p in reached] == [(0, 0.5), (2, 0.5)]
    assert reached[0].params is phi
    before = build("maml", rates="fixed", loss_weights=[1.0, 0.0, 0.0])
    calls: list[int] = []
    (point,) = before.adapt(lambda p: (calls.append(1), net_loss(1)(p))[1], phi, frozenset(phi), steps=2, differentiable=True)
    assert point.params is phi
    assert not calls, "what comes after the last point that counts is not computed"
    for steps in (1, 3):
        assert [p.step for p in half.adapt(net_loss(1), phi, frozenset(phi), steps=steps, differentiable=True)] == [steps]
    assert [p.step for p in half.adapt(net_loss(1), phi, frozenset(phi), steps=2, differentiable=False)] == [2]


@pytest.mark.parametrize("weights", [[1.0, 0.0], [0.0, 0.0, 0.0], [1.0, -1.0, 1.0]])
def test_loss_weights_that_fit_no_descent_are_refused(weights: list[float]) -> None:
    with pytest.raises(ConfigError, match="3 numbers"):
        build("maml", loss_weights=weights)


def test_a_scope_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="scope"):
        build("maml", scope=[])


def test_a_scope_names_parts_and_an_adapter_is_what_it_added() -> None:
    inner = build("maml", scope=["head", "adapter"])
    assert inner.adapts("head.a.out.weight")
    assert inner.adapts("backbone.shared.stages.0.conv.scale")
    assert inner.adapts("encoder.shared.rgb.stem.shift")
    assert not inner.adapts("backbone.shared.stages.0.conv.base_layer.weight")
    assert not build("maml", scope=["backbone"]).adapts("fusion.shared.gate.scale")


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("differentiable", [True, False])
def test_names_out_of_scope_are_the_same_objects(order: int, differentiable: bool) -> None:
    inner, phi = plain("maml", order=order), net()
    before = {name: tensor.detach().clone() for name, tensor in phi.items()}
    reached = inner.adapt(net_loss(1, BOTH), phi, HEADS, steps=2, differentiable=differentiable)
    theta = reached[-1].params
    assert {name for name in phi if theta[name] is phi[name]} == set(phi) - HEADS
    assert all(torch.equal(phi[name], before[name]) for name in phi)
    assert all(tensor.grad is None for tensor in phi.values())
    if differentiable and order == 1:  # the trunk gets its gradient at phi directly
        outer = inner.outer(phi, reached, net_loss(2)(theta)["a"], list(phi), keep=True)
        trunk = torch.autograd.grad(net_loss(2)(theta)["a"], phi["backbone.s.weight"])[0]
        assert torch.allclose(outer["backbone.s.weight"], trunk)


def test_steps_are_shown_detached_and_are_those_of_gradient_descent() -> None:
    phi = {"theta": torch.tensor(0.0, dtype=torch.float64, requires_grad=True)}
    shown: list[tuple[int, float]] = []

    def on_step(k: int, params: Params) -> None:
        assert not params["theta"].requires_grad
        shown.append((k, float(params["theta"])))

    inner = plain("maml", inner_lr=0.25)
    inner.adapt(quadratic(2.0, 1.0), phi, frozenset(phi), steps=3, differentiable=True, on_step=on_step)
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
    inner = plain("maml", inner_lr=0.1, order=order)
    Square.recorded.clear()
    reached = inner.adapt(lambda p: {"a": Square.apply(p["theta"])}, phi, frozenset(phi), steps=2, differentiable=differentiable)
    theta = reached[-1].params["theta"]
    assert Square.recorded == [recorded] * 2
    assert float(theta.detach()) == pytest.approx(0.64)
    assert theta.requires_grad == differentiable


@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("order", [1, 2])
def test_adaptation_at_the_target_leaves_no_graph_even_under_no_grad_and_from_frozen_parameters(order: int, rates: str) -> None:
    inner = build("maml", order=order, rates=rates, loss_weights=None)
    phi = started(inner)
    frozen = {name: tensor.detach() for name, tensor in phi.items()}
    with torch.no_grad():
        theta = inner.adapt(net_loss(1), frozen, frozenset(net()), steps=3, differentiable=False)[-1].params
    assert not any(tensor.requires_grad for tensor in theta.values())
    assert float(net_loss(1)(theta)["a"]) < float(net_loss(1)(frozen)["a"])
    trained = adapted(inner, net_loss(1), phi, 3, frozenset(net()))
    assert all(torch.equal(theta[name], trained[name]) for name in phi)


@pytest.mark.parametrize("order", [1, 2])
def test_a_kept_graph_serves_one_call_per_task(order: int) -> None:
    inner, phi = plain("maml", order=order), net()
    reached = inner.adapt(net_loss(1, BOTH), phi, frozenset(phi), steps=2, differentiable=True)
    tasks = [net_loss(2, (head,))(reached[-1].params)[head] for head in BOTH]
    rows = [inner.outer(phi, reached, loss, list(phi), keep=True) for loss in tasks]
    total = inner.outer(phi, reached, sum(tasks, torch.zeros(())), list(phi), keep=False)
    for name in phi:
        assert_close(sum(row.get(name, torch.zeros(())) for row in rows), total[name])


@pytest.mark.parametrize("order", [1, 2])
def test_what_phi_itself_depends_on_keeps_its_gradient_through_the_steps(order: int) -> None:
    """A head made from the trunk in closed form: the gradient of the adapted loss reaches the trunk through it, also in first order."""
    inner, phi = plain("maml", order=order, inner_lr=0.1), net()
    made = phi | {"head.a.out": 0.3 * phi["backbone.s.weight"].sum(1)}
    for steps in (0, 2):
        reached = inner.adapt(net_loss(1), made, HEADS, steps=steps, differentiable=True)
        theta = reached[-1].params
        outer = inner.outer(phi, reached, net_loss(2)(theta)["a"], ["backbone.s.weight"], keep=True)
        at = {n: t.detach().requires_grad_() for n, t in theta.items()}
        direct, through = torch.autograd.grad(net_loss(2)(at)["a"], [at["backbone.s.weight"], at["head.a.out"]])
        first_order = direct + 0.3 * through[:, None]
        assert torch.allclose(outer["backbone.s.weight"], first_order) == (order == 1 or steps == 0)


@pytest.mark.parametrize("order", [1, 2])
def test_the_clip_holds_the_norm_over_the_whole_scope(order: int) -> None:
    phi = net()
    inner = build("maml", inner_lr=1.0, order=order, clip=0.01, rates="fixed")
    theta = adapted(inner, net_loss(1), phi, 1)
    moved = torch.cat([(phi[name] - theta[name]).detach().flatten() for name in phi])
    assert float(moved.norm()) == pytest.approx(0.01, rel=1e-12)
    loose = adapted(build("maml", inner_lr=1.0, order=order, clip=1e6, rates="fixed"), net_loss(1), phi, 1)
    free = adapted(build("maml", inner_lr=1.0, order=order, clip=None, rates="fixed"), net_loss(1), phi, 1)
    assert all(torch.equal(loose[name], free[name]) for name in phi)


def test_a_clip_at_a_gradient_of_nothing_is_differentiable() -> None:
    phi = {"theta": torch.tensor(1.0, dtype=torch.float64, requires_grad=True)}
    inner = build("maml", order=2, clip=1.0, rates="fixed", loss_weights=None)
    reached = inner.adapt(quadratic(1.0, 1.0), phi, frozenset(phi), steps=1, differentiable=True)
    outer = inner.outer(phi, reached, weighted(quadratic(1.0, 0.0), reached), ["theta"], keep=False)
    assert bool(outer["theta"].isfinite())


@pytest.mark.parametrize(("order", "differentiable", "steps"), [(1, True, 4), (2, True, 4), (1, False, 1)])
def test_a_divergent_descent_is_taken_back_at_half_the_rate(order: int, differentiable: bool, steps: int) -> None:
    # a = 4: a step multiplies theta by 1 - 4 rate: -7 at 2 and -3 at 1 (49 and 9 times the loss), then -1 at .5
    phi = {"theta": torch.tensor(1.0, dtype=torch.float64, requires_grad=True)}
    inner = plain("maml", inner_lr=2.0, order=order, diverge=5.0)
    reached = inner.adapt(quadratic(4.0, 0.0), phi, frozenset(phi), steps=steps, differentiable=differentiable)
    assert float(reached[-1].params["theta"].detach()) == (-1.0) ** steps
    assert inner.halvings == 2
    assert inner.measured()["inner/halvings"] == 2.0


def test_learned_rates_are_halved_as_well_and_stay_as_they_were() -> None:
    phi = {"theta": torch.tensor(1.0, dtype=torch.float64, requires_grad=True)}
    inner = build("meta_sgd", inner_lr=2.0, diverge=5.0, clip=None, scope=["head"], loss_weights=None)
    inner.scope = ("theta",)
    inner.start(phi, {"task": frozenset(phi)})
    reached = inner.adapt(quadratic(4.0, 0.0), phi | inner.params(), frozenset(phi), steps=4, differentiable=True)
    assert float(reached[-1].params["theta"].detach()) == 1.0
    assert inner.measured()["inner/rate/theta"] == pytest.approx(2.0)


def test_a_loss_that_is_no_number_is_a_divergence() -> None:
    phi = {"theta": torch.tensor(1.0, dtype=torch.float64, requires_grad=True)}
    loss: Callable[[Params], dict[str, Tensor]] = lambda params: {"a": params["theta"].log().square() + params["theta"]}  # noqa: E731
    inner = plain("maml", inner_lr=1.5)  # to -.5 at 1.5, whose logarithm is none; to .25 at .75
    theta = inner.adapt(loss, phi, frozenset(phi), steps=1, differentiable=False)[-1].params
    assert float(theta["theta"]) == 0.25
    assert inner.halvings == 1


@pytest.mark.parametrize("differentiable", [True, False])
def test_what_diverges_at_every_rate_stays_at_phi(differentiable: bool) -> None:
    phi = {"theta": torch.tensor(1.0, dtype=torch.float64, requires_grad=True)}
    inner = plain("maml", inner_lr=1e6, max_halvings=3)
    shown: dict[int, float] = {}
    after: Callable[[int, Params], None] = lambda k, params: shown.update({k: float(params["theta"])})  # noqa: E731
    reached = inner.adapt(quadratic(4.0, 0.0), phi, frozenset(phi), steps=2, differentiable=differentiable, on_step=after)
    assert reached[-1].params["theta"] is phi["theta"]
    assert inner.halvings == 4
    assert shown == {1: 1.0, 2: 1.0}, "the curve shows what was kept, not what was thrown away"
    if differentiable:
        outer = inner.outer(phi, reached, weighted(quadratic(4.0, 0.0), reached), ["theta"], keep=False)
        assert float(outer["theta"]) == 4.0


def test_a_loss_that_is_broken_from_the_start_is_passed_on() -> None:
    phi = {"theta": torch.tensor(torch.nan, dtype=torch.float64, requires_grad=True)}
    inner = plain("maml")
    assert bool(adapted(inner, quadratic(1.0, 0.0), phi, 2)["theta"].isnan())
    assert inner.halvings == 0


@pytest.mark.parametrize("differentiable", [True, False])
def test_an_objective_that_reads_nothing_in_scope_changes_nothing(differentiable: bool) -> None:
    inner, phi = build("maml", loss_weights=None), net()
    for loss, names in ((net_loss(1), {"head.b.out"}), (net_loss(1), set()), (lambda params: {}, set(phi))):
        theta = inner.adapt(loss, phi, frozenset(names), steps=2, differentiable=differentiable)[-1].params
        assert all(theta[name] is phi[name] for name in phi)


@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("order", [1, 2])
def test_the_trace_is_the_same_descent_and_knows_a_divergence(order: int, rates: str) -> None:
    inner = build("maml", num_inner_steps=3, inner_lr=0.3, order=order, rates=rates, clip=0.5, loss_weights=[0.5, 0.0, 0.2, 0.3])
    phi = started(inner)
    names = frozenset(net())
    loop = inner.adapt(net_loss(1, BOTH), phi, names, steps=3, differentiable=True)
    trace, support_K = inner.trace(net_loss(1, BOTH), phi, names, steps=3)
    assert [(p.step, p.weight) for p in trace] == [(p.step, p.weight) for p in loop]
    for a, b in zip(trace, loop, strict=True):
        for name in names:
            assert_close(a.params[name], b.params[name], rtol=1e-12, atol=1e-14)
    expected = [torch.stack(list(net_loss(1, BOTH)(p).values())).mean() for p in by_hand(phi, 0.3, 2, 0.5, rates)[0]]
    assert_close(support_K, torch.stack(expected).detach(), rtol=1e-12, atol=0)
    assert not inner.diverged(support_K[None])
    assert inner.diverged(torch.tensor([[1.0, 2.0], [1.0, 10.5]]))
    assert inner.diverged(torch.tensor([[1.0, torch.nan]]))
    assert not inner.diverged(torch.tensor([[torch.nan, torch.nan]])), "broken from the start is no fault of the rate"


def test_rates_are_made_kept_and_grown_from_those_of_the_same_part() -> None:
    inner = build("maml")
    inner.start(net(), net_reads())
    assert list(inner.params()) == [
        "inner.rate.backbone.s.a", "inner.rate.backbone.s.b", "inner.rate.head.a.a", "inner.rate.head.b.b",
    ]  # fmt: skip
    assert all(value == pytest.approx(0.1) for name, value in inner.measured().items() if name.startswith("inner/rate"))
    with torch.no_grad():
        for i, rho in enumerate(inner.params().values()):
            rho.fill_(float(i + 1))
    old = dict(inner.params())
    grown = net() | {"head.c.out": torch.zeros(3, dtype=torch.float64, requires_grad=True)}
    inner.start(grown, net_reads() | {"c": frozenset({"backbone.s.weight", "head.c.out"})})
    assert all(inner.params()[name] is leaf for name, leaf in old.items())
    assert inner.params()["inner.rate.backbone.s.c"].item() == 1.5
    assert inner.params()["inner.rate.head.c.c"].item() == 3.5
    assert inner.reads(frozenset({"head.c.out"})) == {"inner.rate.head.c.c"}
    assert inner.reads(frozenset({"backbone.s.bias", "fusion.shared.w"})) == {f"inner.rate.backbone.s.{t}" for t in "abc"}
    with torch.no_grad():
        inner.params()["inner.rate.head.a.a"].fill_(5.0)
        inner.params()["inner.rate.backbone.s.c"].fill_(7.0)
    inner.start(net(), net_reads())
    assert set(inner.params()) == set(old), "another model's rates are kept, and not shown"
    inner.start(grown, net_reads() | {"c": frozenset({"backbone.s.weight", "head.c.out"})})
    assert inner.params()["inner.rate.head.c.c"].item() == 4.5, "not yet stepped, so it follows what the others learn"
    assert inner.params()["inner.rate.backbone.s.c"].item() == 7.0


def test_rates_are_made_in_the_kind_of_number_of_the_model() -> None:
    inner = build("maml", rates="element")
    inner.start({n: t.detach().float() for n, t in net().items()}, net_reads())
    with torch.no_grad():
        inner.params()["inner.rate.head.a.out"] += 1
    assert {t.dtype for t in inner.params().values()} == {torch.float32}
    inner.start(net(), net_reads())
    assert {t.dtype for t in inner.params().values()} == {torch.float64}
    assert_close(inner.params()["inner.rate.head.a.out"].detach(), torch.ones(3, dtype=torch.float64))
    assert all(t.is_leaf and t.requires_grad for t in inner.params().values())
