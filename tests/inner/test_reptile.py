from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from tests.inner._inputs import build, fixed_point, net, net_loss, plain


@pytest.mark.parametrize(("steps", "answer"), [(1, 0.8), (2, 8 / 11)])
def test_two_quadratics_end_where_algebra_says(steps: int, answer: float) -> None:
    # Task i pulls with 1 - (1 - .2 a_i)^K: (.2, .8) for one step, (.36, .96) for two; theta = second / sum, as the centres are 0 and 1.
    assert fixed_point(plain("reptile", inner_lr=0.2), steps) == pytest.approx(answer, abs=1e-9)


def test_one_step_is_the_rate_times_the_joint_gradient() -> None:
    inner, phi = plain("reptile", inner_lr=0.1), net()
    reached = inner.adapt(net_loss(1), phi, frozenset(phi), steps=1, differentiable=True)
    names = ["backbone.s.weight", "backbone.s.bias", "head.a.out"]
    outer = inner.outer(phi, reached, None, names, keep=False)
    for name, gradient in zip(names, torch.autograd.grad(net_loss(1)(phi)["a"], [phi[name] for name in names]), strict=True):
        assert_close(outer[name], 0.1 * gradient)


def test_it_is_the_way_from_where_the_steps_ended_back_to_phi() -> None:
    inner, phi = plain("reptile"), net()
    reached = inner.adapt(net_loss(1), phi, frozenset(phi), steps=5, differentiable=True)
    outer = inner.outer(phi, reached, None, list(phi), keep=False)
    assert set(outer) == set(phi) - {"head.b.out"}  # which the support loss does not read
    for name, difference in outer.items():
        assert not difference.requires_grad
        assert_close(phi[name].detach() - difference, reached[-1].params[name].detach())


def test_names_out_of_scope_get_nothing() -> None:
    inner, phi = plain("reptile"), net()
    reached = inner.adapt(net_loss(1), phi, frozenset({"head.a.out"}), steps=2, differentiable=True)
    assert set(inner.outer(phi, reached, None, list(phi), keep=False)) == {"head.a.out"}
    assert reached[-1].params["backbone.s.weight"] is phi["backbone.s.weight"]


def test_without_steps_there_is_nothing_to_move() -> None:
    inner, phi = plain("reptile"), net()
    reached = inner.adapt(net_loss(1), phi, frozenset(phi), steps=0, differentiable=True)
    assert inner.outer(phi, reached, None, list(phi), keep=False) == {}


def test_it_says_that_it_reads_no_query_has_no_rows_and_learns_no_rate() -> None:
    inner = build("reptile")
    assert (inner.row_per_task, inner.needs_query, inner.second_order) == (False, False, False)
    inner.start(net(), {"a": frozenset(net())})
    assert inner.params() == {}
