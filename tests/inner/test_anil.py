from __future__ import annotations

import pytest
import torch

from tests.inner._inputs import build, net_loss, started, weighted


@pytest.mark.parametrize("order", [1, 2])
def test_the_backbone_is_the_same_tensor_before_and_after_and_learns_by_the_outer_gradient(order: int) -> None:
    inner = build("anil", order=order)
    assert inner.scope == ("head",)
    phi = started(inner)
    names = frozenset(n for n in phi if inner.adapts(n))
    assert names == {"head.a.out", "head.b.out"}
    reached = inner.adapt(net_loss(1, ("a", "b")), phi, names, steps=2, differentiable=True)
    theta = reached[-1].params
    assert theta["backbone.s.weight"] is phi["backbone.s.weight"]
    assert not torch.equal(theta["head.a.out"], phi["head.a.out"])
    outer = inner.outer(phi, reached, weighted(net_loss(2, ("a", "b")), reached), list(phi), keep=False)
    assert float(outer["backbone.s.weight"].norm()) > 0
    assert set(inner.params()) == {"inner.rate.head.a.a", "inner.rate.head.b.b"}


def test_a_linear_head_on_fixed_features_adapts_as_written_out() -> None:
    # L = (w z - y)^2 with z = 2, y = 1, w = 0: the slope is 2 z (w z - y) = -4, and a step of .05 leads to .2.
    inner = build("anil", inner_lr=0.05, rates="fixed", loss_weights=None, num_inner_steps=1, clip=None)
    phi = {"backbone.s.z": torch.tensor(2.0, requires_grad=True), "head.a.w": torch.tensor(0.0, requires_grad=True)}
    loss = lambda p: {"a": (p["head.a.w"] * p["backbone.s.z"] - 1).square()}  # noqa: E731
    theta = inner.adapt(loss, phi, frozenset({"head.a.w"}), steps=1, differentiable=True)[-1].params
    assert float(theta["head.a.w"].detach()) == pytest.approx(0.2)
