from __future__ import annotations

import torch

from m3tl_cli.balancing.mean import Mean
from m3tl_cli.balancing.sum import Sum
from tests.balancing._asserts import assert_permutes, call
from tests.balancing._inputs import losses, names, rows


def test_the_gradient_is_the_mean_of_the_rows() -> None:
    matrix = rows(8, "spread")
    gradient = call(Mean(), matrix, losses(8), names(8)).gradient_P
    assert torch.allclose(gradient, matrix.mean(0), rtol=1e-12)
    assert torch.allclose(8 * gradient, call(Sum(), matrix, losses(8), names(8)).gradient_P, rtol=1e-12)


def test_tasks_that_are_absent_do_not_count() -> None:
    balancer = Mean()
    balancer.reset(names(4))
    assert torch.equal(balancer.weights(losses(2), names(2)), torch.full((2,), 0.5, dtype=torch.float64))


def test_one_task_counts_1() -> None:
    assert torch.equal(Mean().weights(losses(1), names(1)), torch.ones(1, dtype=torch.float64))


def test_order_does_not_matter() -> None:
    assert_permutes(Mean(), Mean(), rows(3), losses(3), names(3))
