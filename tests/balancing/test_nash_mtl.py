from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchjd.aggregation import NashMTL as Reference

from tests.balancing._asserts import assert_no_conflict, assert_permutes, assert_resumes, call
from tests.balancing._inputs import KINDS, losses, names, ready, rows


def combine(matrix: Tensor, **changes: float) -> tuple[Tensor, Tensor]:
    """Gradient and weights."""
    balanced = call(ready("nash_mtl", len(matrix), **changes), matrix, losses(len(matrix)), names(len(matrix)))
    return balanced.gradient_P, balanced.shown_T


def test_orthogonal_gradients_by_hand() -> None:
    # G = diag(4, 9): a = 1 / norms = (1/2, 1/3), d = (1, 1) of norm sqrt(2), cut to 1
    matrix = torch.tensor([[2.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    gradient, weights = combine(matrix, max_norm=0.0)
    assert_close(weights, torch.tensor([1 / 2, 1 / 3], dtype=torch.float64))
    assert_close(gradient, torch.ones(2, dtype=torch.float64))
    assert_close(combine(matrix)[0], torch.full((2,), math.sqrt(0.5), dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_tasks", [2, 3, 8, 20])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_bargain_is_struck(kind: str, num_tasks: int, scale: float) -> None:
    for seed in range(10):
        matrix = rows(num_tasks, kind, seed) * scale
        gradient, weights = combine(matrix, max_norm=0.0)
        gains = weights * (matrix @ gradient)  # a (G a) = 1 for every task
        assert_close(gains, torch.ones_like(gains), rtol=0, atol=1e-6)
        assert float(gradient.norm()) == pytest.approx(math.sqrt(num_tasks), rel=1e-6)
        assert_no_conflict(gradient, matrix)


@pytest.mark.parametrize("num_tasks", [2, 3, 8])
@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])  # below 1 TorchJD misses by a factor for 8 tasks
@pytest.mark.parametrize("max_norm", [0.0, 1.0])
def test_it_is_torchjd_where_that_solves_the_game(num_tasks: int, scale: float, max_norm: float) -> None:
    matrix = rows(num_tasks, seed=1) * scale
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cvxpy says at every call that the problem is not DPP
        reference = Reference(num_tasks, max_norm=max_norm, optim_niter=100)(matrix)
    assert_close(combine(matrix, max_norm=max_norm)[0], reference, rtol=1e-4, atol=1e-4)


def test_no_single_task_can_shout() -> None:
    matrix = rows(3)
    louder = matrix * torch.tensor([[1.0], [1e4], [1e-4]], dtype=torch.float64)
    assert_close(combine(louder)[0], combine(matrix)[0], rtol=1e-9, atol=1e-9)


def test_the_gradient_is_cut_to_max_norm_and_never_stretched() -> None:
    assert float(combine(rows(8), max_norm=0.5)[0].norm()) == pytest.approx(0.5)
    assert float(combine(rows(8), max_norm=100.0)[0].norm()) == pytest.approx(math.sqrt(8))


def test_a_solution_serves_for_so_many_steps_of_the_same_tasks() -> None:
    balancer = ready("nash_mtl", 3, update_weights_every=2, max_norm=0.0)

    def alpha(seed: int, tasks: list[str]) -> Tensor:
        matrix = rows(len(tasks), seed=seed)
        return balancer.combine(matrix, losses(len(tasks)), tasks).shown_T * matrix.norm(dim=1)

    first = alpha(0, names(3))
    alpha(5, ["t0", "t1"])  # a game of its own: neither solves nor ages the first
    assert_close(alpha(1, names(3)), first)
    assert not torch.allclose(alpha(2, names(3)), first)


def test_a_run_resumes_in_the_middle_of_a_solution_that_serves() -> None:
    steps = [(rows(3, seed=seed), losses(3), names(3)) for seed in range(8)]  # stopped after 4 of 8; solutions at 0, 3 and 6
    assert_resumes(*(ready("nash_mtl", 3, update_weights_every=3) for _ in range(3)), steps)


def test_gradients_that_cancel_get_the_last_solution() -> None:
    balancer = ready("nash_mtl", 2, max_norm=0.0)
    cancel = torch.tensor([[1.0, 1.0], [-2.0, -2.0]], dtype=torch.float64)
    assert_close(call(balancer, cancel, losses(2), names(2)).gradient_P, torch.zeros(2, dtype=torch.float64))
    right = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    alpha = call(balancer, right, losses(2), names(2)).shown_T * right.norm(dim=1)
    assert_close(call(balancer, cancel, losses(2), names(2)).shown_T * cancel.norm(dim=1), alpha)


def test_nearly_cancelling_gradients_are_solved() -> None:
    matrix = torch.tensor([[1.0, 1e-3], [-1.0, 1e-3]], dtype=torch.float64)
    gradient, _ = combine(matrix, max_norm=0.0)
    assert_close(gradient, torch.tensor([0.0, math.sqrt(2)], dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_a_task_without_gradient_does_not_play() -> None:
    matrix = rows(3)
    matrix[1] = 0
    gradient, weights = combine(matrix)
    expected, _ = combine(matrix[[0, 2]])
    assert float(weights[1]) == 0.0
    assert_close(gradient, expected)
    assert torch.equal(combine(torch.zeros(2, 4, dtype=torch.float64))[0], torch.zeros(4, dtype=torch.float64))


def test_too_few_newton_steps_count_as_no_solution() -> None:
    matrix = rows(3, "opposed")
    _, weights = combine(matrix, optim_niter=1, max_norm=0.0)
    assert_close(weights * matrix.norm(dim=1), torch.ones(3, dtype=torch.float64))


def test_order_does_not_matter() -> None:
    assert_permutes(ready("nash_mtl", 8), ready("nash_mtl", 8), rows(8, "opposed"), losses(8), names(8))
