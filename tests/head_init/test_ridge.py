from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from m3tl_cli.head_init.ridge import by_known_rows, fit, leave_one_out, leverage, penalty
from tests.head_init._support import normal

SHAPES = [(200, 7), (5, 30), (8, 8), (2, 3)]
"""More rows than features, and fewer: both systems."""


@pytest.mark.parametrize(("num_rows", "dim"), SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_ridge_regression_of_scikit_learn(num_rows: int, dim: int, bias: bool) -> None:
    z, y = 3 * normal(num_rows, dim) + 5, normal(num_rows, 4) - 2
    weight, offset = fit(z, y, torch.tensor(0.7, dtype=torch.float64), bias=bias)
    expected = Ridge(alpha=0.7, fit_intercept=bias, solver="svd").fit(z.numpy(), y.numpy())
    torch.testing.assert_close(weight, torch.from_numpy(expected.coef_), rtol=0, atol=1e-10)
    torch.testing.assert_close(offset, torch.as_tensor(expected.intercept_).double().expand(4), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("num_rows", "dim"), SHAPES)
def test_the_leverages_are_the_diagonal_of_the_hat_matrix(num_rows: int, dim: int) -> None:
    z, ridge = normal(num_rows, dim), torch.tensor(0.7, dtype=torch.float64)
    weight, bias = fit(z, torch.eye(num_rows).double(), ridge)  # a unit of each row's target as an output
    torch.testing.assert_close(leverage(z, ridge), (z @ weight.T + bias).diagonal())


@pytest.mark.parametrize(("num_rows", "dim"), SHAPES)
def test_leave_one_out_is_fitting_again_without_the_row(num_rows: int, dim: int) -> None:
    z, y, ridge = normal(num_rows, dim), normal(num_rows, 2), torch.tensor(0.3, dtype=torch.float64)
    found = leave_one_out(z, y, ridge)
    for row in range(min(num_rows, 5)):
        others = torch.arange(num_rows) != row
        weight, bias = fit(z[others], y[others], ridge)
        torch.testing.assert_close(found[row], y[row] - z[row] @ weight.T - bias)


def test_a_single_row_leaves_nothing_out() -> None:
    z = normal(1, 4)
    assert leave_one_out(z, normal(1, 2), penalty(z, 0.5)).abs().max() < 1e-8


def test_the_penalty_is_relative_to_the_mean_squared_distance_from_the_mean_row() -> None:
    z = torch.tensor([[1.0, 10.0], [3.0, 10.0], [2.0, 7.0], [2.0, 13.0]], dtype=torch.float64)
    assert penalty(z, 0.5).item() == pytest.approx(0.5 * (1 + 1 + 9 + 9) / 4)
    assert penalty(z, 0.5, bias=False).item() == pytest.approx(0.5 * (101 + 109 + 53 + 173) / 4)


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_predictions_do_not_depend_on_the_unit_of_the_features(factor: float) -> None:
    z, y = normal(12, 5), normal(12, 1)
    one, other = fit(z, y, penalty(z, 0.2)), fit(factor * z, y, penalty(factor * z, 0.2))
    torch.testing.assert_close(other[0] * factor, one[0])
    torch.testing.assert_close(other[1], one[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_rows", [1, 2, 40])
def test_rows_that_are_all_alike_give_the_mean_and_finite_gradients(num_rows: int, dtype: torch.dtype) -> None:
    z = (3 * torch.ones(num_rows, 4, dtype=dtype)).requires_grad_()
    y = torch.arange(num_rows, dtype=dtype)[:, None]
    weight, bias = fit(z, y, penalty(z, 0.3))
    assert weight.abs().max() < 1e-6
    torch.testing.assert_close(bias, y.mean(0))
    (gradient,) = torch.autograd.grad(bias.sum() + weight.sum(), z)
    assert gradient.isfinite().all()


def test_features_that_are_all_zero_are_solved_too() -> None:
    weight, bias = fit(torch.zeros(3, 2), torch.ones(3, 1), penalty(torch.zeros(3, 2), 0.3))
    assert (weight.tolist(), bias.tolist()) == ([[0, 0]], [1])


@pytest.mark.parametrize(("num_rows", "dim"), [(6, 3), (3, 6)])
def test_derivatives_agree_with_finite_differences_twice(num_rows: int, dim: int) -> None:
    def solve(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return fit(z, y, penalty(z, 0.3))

    given = (normal(num_rows, dim).requires_grad_(), normal(num_rows, 2).requires_grad_())
    assert torch.autograd.gradcheck(solve, given)
    assert torch.autograd.gradgradcheck(solve, given)


def test_outputs_that_are_known_at_the_same_rows_share_a_system() -> None:
    known = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 0], [1, 1, 1, 0]], dtype=torch.bool)
    found = sorted((rows.tolist(), outputs.tolist()) for rows, outputs in by_known_rows(known))
    assert found == [([0, 2], [0, 1]), ([1, 2], [2])]
    assert not list(by_known_rows(known[:0]))


def test_float32_is_as_good_as_float64_to_five_digits() -> None:
    z, y = normal(400, 48) + 3, normal(400, 3)
    low, high = fit(z.float(), y.float(), penalty(z.float(), 0.3)), fit(z, y, penalty(z, 0.3))
    torch.testing.assert_close(low[0].double(), high[0], rtol=1e-5, atol=1e-5)
