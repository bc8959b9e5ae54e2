from __future__ import annotations

import pytest
from torch.testing import assert_close

from tests.inner._inputs import build, fixed_point, net_loss, plain, started, weighted


@pytest.mark.parametrize(("steps", "answer"), [(0, 0.8), (1, 0.5), (2, 0.16 / 0.8)])
def test_two_quadratics_end_where_algebra_says(steps: int, answer: float) -> None:
    # Task i weighs a_i (1 - .2 a_i)^K: (1, 4), (.8, .8), (.64, .16).
    assert fixed_point(plain("fomaml", inner_lr=0.2), steps) == pytest.approx(answer, abs=1e-9)


def test_it_is_maml_of_order_one() -> None:
    found = []
    for inner in (build("fomaml"), build("maml", order=1)):
        phi = started(inner)
        reached = inner.adapt(net_loss(1, ("a", "b")), phi, frozenset(n for n in phi if inner.adapts(n)), steps=2, differentiable=True)
        found.append(inner.outer(phi, reached, weighted(net_loss(2, ("a", "b")), reached), list(phi), keep=False))
    assert not build("fomaml").second_order
    assert found[0].keys() == found[1].keys()
    for name in found[0]:
        assert_close(found[0][name], found[1][name], rtol=0, atol=0)
