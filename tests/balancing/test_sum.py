from __future__ import annotations

import torch

from m3tl_cli.balancing.sum import Sum
from tests.balancing._asserts import assert_permutes, call
from tests.balancing._inputs import losses, names, rows


def test_weights_are_ones_of_the_type_of_the_losses() -> None:
    weights_T = Sum().weights(torch.tensor([3.0, 0.5], dtype=torch.float32), names(2))
    assert torch.equal(weights_T, torch.ones(2))
    assert weights_T.dtype == torch.float32


def test_losses_need_not_be_known() -> None:
    assert torch.equal(Sum().weights(torch.empty(0), names(3)), torch.ones(3))


def test_the_gradient_is_the_sum_of_the_rows() -> None:
    matrix = rows(8, "spread")
    assert torch.allclose(call(Sum(), matrix, losses(8), names(8)).gradient_P, matrix.sum(0), rtol=1e-12)


def test_order_does_not_matter() -> None:
    assert_permutes(Sum(), Sum(), rows(3), losses(3), names(3))
