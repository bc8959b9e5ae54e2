from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchjd.aggregation import PCGrad as Reference

from m3tl_cli.core.contracts import stable_seed
from tests.balancing._asserts import assert_no_conflict, assert_permutes, call
from tests.balancing._inputs import KINDS, losses, names, ready, rows


def surgery(matrix: Tensor, orders: list[list[int]]) -> Tensor:
    """Algorithm 1 on the gradients themselves; `orders[i]` is the order in which task i meets the others."""
    projected = []
    for i, order in enumerate(orders):
        gradient = matrix[i].clone()
        for j in order:
            inner = gradient @ matrix[j]
            if j != i and inner < 0:
                gradient = gradient - inner / (matrix[j] @ matrix[j]) * matrix[j]
        projected.append(gradient)
    return torch.stack(projected)


def drawn(num_tasks: int, step: int) -> list[list[int]]:
    """The orders that the balancer draws in this step with seed 0."""
    torch.manual_seed(stable_seed("pcgrad", 0, step))
    return [torch.randperm(num_tasks).tolist() for _ in range(num_tasks)]


def test_two_conflicting_tasks_by_hand() -> None:
    # (1,0) off (-1,1): (.5,.5); (-1,1) off (1,0): (0,1)
    matrix = torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
    assert surgery(matrix, [[1], [0]]).tolist() == [[0.5, 0.5], [0.0, 1.0]]
    balanced = call(ready("pcgrad", 2), matrix, losses(2), names(2))
    assert_close(balanced.gradient_P, torch.tensor([0.5, 1.5], dtype=torch.float64))
    assert_close(balanced.shown_T, torch.tensor([2.0, 1.5], dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_tasks", [2, 3, 8])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_it_is_algorithm_1_and_torchjd_in_the_same_orders(kind: str, num_tasks: int, scale: float) -> None:
    balancer = ready("pcgrad", num_tasks)
    for step in range(3):
        matrix = rows(num_tasks, kind, seed=step) * scale
        balanced = call(balancer, matrix, losses(num_tasks), names(num_tasks))
        assert_close(balanced.gradient_P, surgery(matrix, drawn(num_tasks, step)).sum(0), rtol=1e-7, atol=1e-9 * scale)
        torch.manual_seed(stable_seed("pcgrad", 0, step))
        assert_close(balanced.gradient_P, Reference()(matrix), rtol=1e-12, atol=1e-12 * scale)


def test_orders_change_from_step_to_step_and_are_among_all_possible_outcomes() -> None:
    matrix = rows(3, "opposed", seed=11)
    orders = [list(order) for order in itertools.permutations(range(3))]
    possible = [surgery(matrix, list(choice)).sum(0) for choice in itertools.product(orders, repeat=3)]
    balancer = ready("pcgrad", 3)
    seen = [balancer.combine(matrix, losses(3), names(3)).gradient_P for _ in range(20)]
    assert all(any(torch.allclose(one, other) for other in possible) for one in seen)
    assert any(not torch.allclose(one, seen[0]) for one in seen)


def test_two_tasks_never_end_in_conflict() -> None:
    for seed in range(50):
        matrix = rows(2, "opposed", seed)
        assert_no_conflict(ready("pcgrad", 2).combine(matrix, losses(2), names(2)).gradient_P, matrix)


def test_agreeing_tasks_are_added() -> None:
    matrix = rows(3).abs()
    assert_close(ready("pcgrad", 3).combine(matrix, losses(3), names(3)).gradient_P, matrix.sum(0))


def test_two_tasks_may_be_swapped() -> None:
    assert_permutes(ready("pcgrad", 2), ready("pcgrad", 2), rows(2, "opposed"), losses(2), names(2))


def test_the_seed_decides_the_orders() -> None:
    def run(seed: int) -> list[Tensor]:
        balancer = ready("pcgrad", 8, seed=seed)
        return [balancer.combine(rows(8, "opposed"), losses(8), names(8)).gradient_P for _ in range(4)]

    assert all(map(torch.equal, run(1), run(1)))
    assert not all(map(torch.equal, run(1), run(2)))


def test_a_gradient_of_nothing_is_survived() -> None:
    matrix = rows(3)
    matrix[1] = 0
    assert call(ready("pcgrad", 3), matrix, losses(3), names(3)).gradient_P.isfinite().all()
