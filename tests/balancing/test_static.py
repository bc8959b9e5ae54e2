from __future__ import annotations

import pytest
import torch

from m3tl_cli.balancing.static import Static
from m3tl_cli.core.errors import ConfigError
from tests.balancing._asserts import assert_permutes, call
from tests.balancing._inputs import losses, names, ready, rows


def test_a_task_that_is_not_named_counts_one() -> None:
    balancer = ready("static", 3, weights={"t1": 0.5})
    assert torch.equal(balancer.weights(losses(3), names(3)), torch.tensor([1.0, 0.5, 1.0], dtype=torch.float64))


def test_two_quadratics_end_at_the_weighted_mean() -> None:
    # w_i a_i (theta - c_i)^2 / 2 with w = (3, .5), a = (1, 4), c = (0, 1): theta = (3 * 0 + 2 * 1) / (3 + 2) = .4
    balancer = ready("static", 2, weights={"t0": 3.0, "t1": 0.5})
    theta = torch.zeros(1, dtype=torch.float64)
    slope, centre = torch.tensor([1.0, 4.0], dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    for _ in range(200):
        gradients = (slope * (theta - centre))[:, None]
        theta -= 0.1 * call(balancer, gradients, slope * (theta - centre) ** 2 / 2, names(2)).gradient_P
    assert float(theta) == pytest.approx(0.4, abs=1e-12)


def test_without_weights_it_is_the_sum() -> None:
    matrix = rows(3)
    expected = ready("sum", 3).combine(matrix, losses(3), names(3)).gradient_P
    assert torch.equal(ready("static", 3).combine(matrix, losses(3), names(3)).gradient_P, expected)


def test_order_does_not_matter() -> None:
    weights = {"t0": 2.0, "t2": 0.0}
    assert_permutes(ready("static", 3, weights=weights), ready("static", 3, weights=weights), rows(3), losses(3), names(3))


def test_a_weight_for_an_unknown_task_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"must name tasks of the stage \(depth, edges\); found 'detph'") as caught:
        Static(weights={"detph": 2.0}).reset(["depth", "edges"])
    assert caught.value.hint == "type '+balancing.weights.depth=2.0'"


def test_weights_that_leave_nothing_to_train_are_refused() -> None:
    with pytest.raises(ConfigError, match="above 0 for one task at least"):
        Static(weights={"a": 0.0, "b": 0.0}).reset(["a", "b"])
    Static(weights={"a": 0.0}).reset(["a", "b"])
