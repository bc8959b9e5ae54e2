from __future__ import annotations

import pytest
import torch

from tests.inner._inputs import build, net_loss, started, weighted


@pytest.mark.parametrize("order", [1, 2])
def test_heads_are_the_same_tensors_before_and_after_and_learn_by_the_outer_gradient(order: int) -> None:
    inner = build("boil", order=order)
    phi = started(inner)
    names = frozenset(n for n in phi if inner.adapts(n))
    assert names == {"backbone.s.weight", "backbone.s.bias"}
    reached = inner.adapt(net_loss(1, ("a", "b")), phi, names, steps=2, differentiable=True)
    theta = reached[-1].params
    assert theta["head.a.out"] is phi["head.a.out"]
    assert not torch.equal(theta["backbone.s.weight"], phi["backbone.s.weight"])
    outer = inner.outer(phi, reached, weighted(net_loss(2, ("a", "b")), reached), list(phi), keep=False)
    assert float(outer["head.a.out"].norm()) > 0


def test_the_body_adapts_as_written_out() -> None:
    # L = (w z - y)^2 with w = 1, y = 1, z = 2: the slope in z is 2 w (w z - y) = 2, and a step of .05 leads to 1.9.
    inner = build("boil", inner_lr=0.05, rates="fixed", loss_weights=None, num_inner_steps=1, clip=None)
    phi = {"backbone.s.z": torch.tensor(2.0, requires_grad=True), "head.a.w": torch.tensor(1.0, requires_grad=True)}
    loss = lambda p: {"a": (p["head.a.w"] * p["backbone.s.z"] - 1).square()}  # noqa: E731
    names = frozenset(n for n in phi if inner.adapts(n))
    theta = inner.adapt(loss, phi, names, steps=1, differentiable=True)[-1].params
    assert float(theta["backbone.s.z"].detach()) == pytest.approx(1.9)
