from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchjd.aggregation import MGDA as Reference

from tests.balancing._asserts import assert_no_conflict, assert_permutes, call
from tests.balancing._inputs import KINDS, losses, names, ready, rows


def combine(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient and weights."""
    balanced = call(ready("mgda", len(matrix)), matrix, losses(len(matrix)), names(len(matrix)))
    return balanced.gradient_P, balanced.shown_T


def test_two_tasks_by_hand() -> None:
    # g1 = (1,0), g2 = (0,2): a = g2.(g2 - g1) / ||g1 - g2||^2 = 4/5, d = (.8, .4), d.g = .8 for both
    matrix = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    gradient, weights = combine(matrix)
    assert_close(weights, torch.tensor([0.8, 0.2], dtype=torch.float64))
    assert_close(gradient, torch.tensor([0.8, 0.4], dtype=torch.float64))
    assert_close(matrix @ gradient, torch.tensor([0.8, 0.8], dtype=torch.float64))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_two_tasks_have_the_closed_form(scale: float) -> None:
    for seed in range(30):
        one, other = rows(2, "opposed" if seed % 2 else "agreeing", seed)
        first = float((other @ (other - one) / (one - other).square().sum()).clamp(0, 1))
        expected = torch.tensor([first, 1 - first], dtype=torch.float64)
        assert_close(combine(torch.stack([one, other]) * scale)[1], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_tasks", [2, 3, 8])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_no_vector_of_the_hull_is_shorter(kind: str, num_tasks: int, scale: float) -> None:
    for seed in range(5):
        matrix = rows(num_tasks, kind, seed) * scale
        gradient, weights = combine(matrix)
        length = gradient @ gradient
        assert float(weights.sum()) == pytest.approx(1.0, abs=1e-12)
        assert bool((weights >= 0).all())
        assert bool((matrix @ gradient >= length * (1 - 1e-7)).all())  # the condition for the shortest, for every task
        assert_no_conflict(gradient, matrix)


@pytest.mark.parametrize("num_tasks", [2, 3, 8])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_it_is_as_near_torchjd_as_that_is_to_the_shortest(num_tasks: int, scale: float) -> None:
    # Any x of the hull obeys ||x||^2 >= ||d||^2 + ||x - d||^2; Frank-Wolfe is exact for two tasks and near for more.
    for seed in range(3):
        matrix = rows(num_tasks, seed=seed) * scale
        reference = Reference(epsilon=1e-6, max_iters=300)(matrix)
        gradient, _ = combine(matrix)
        excess = float((reference @ reference - gradient @ gradient) / (gradient @ gradient))
        assert -1e-12 < excess < (1e-12 if num_tasks == 2 else 1e-2)
        assert float((reference - gradient).square().sum() / (gradient @ gradient)) <= excess + 1e-12


def test_where_no_direction_helps_all_there_is_no_direction() -> None:
    matrix = torch.tensor([[1.0, 0.0], [-2.0, 0.0]], dtype=torch.float64)
    gradient, weights = combine(matrix)
    assert_close(gradient, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)
    assert_close(weights, torch.tensor([2 / 3, 1 / 3], dtype=torch.float64))
    assert torch.equal(combine(torch.tensor([[0.0, 0.0], [1.0, 3.0]], dtype=torch.float64))[1], torch.tensor([1.0, 0.0]).double())


def test_equal_gradients_stay_what_they_are() -> None:
    matrix = rows(1).expand(4, -1).contiguous()
    assert_close(combine(matrix)[0], matrix[0])


def test_order_does_not_matter() -> None:
    assert_permutes(ready("mgda", 8), ready("mgda", 8), rows(8, "spread"), losses(8), names(8))


def test_a_common_scale_scales_the_gradient() -> None:
    matrix = rows(8, "opposed")
    assert_close(combine(matrix * 1e3)[0], combine(matrix)[0] * 1e3, rtol=1e-8, atol=1e-8)
