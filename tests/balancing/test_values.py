"""What holds for every balancer, and one table of what each makes of the same small matrix."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from tests.balancing._asserts import assert_equal, assert_resumes, call
from tests.balancing._inputs import KINDS, STEMS, build, losses, names, ready, rows

SMALL = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]], dtype=torch.float64)
HAND = torch.tensor([2.0, 3.0], dtype=torch.float64)

# Gradient and shown weights, by hand. g1.g2 = -22, ||g1||^2 = 18, ||g2||^2 = 38. PCGrad: weights 1 + 22/18 and 1 + 22/38. MGDA: the
# combination without first component, (.6, .4). Nash: of two tasks a_i is inverse to ||g_i||; the sum of the unit vectors has norm
# sqrt(2 - 2 * 22 / sqrt(684)) = .5636, so a = (1 / 4.2426, 1 / 6.1644) / .5636. GradNorm and uncertainty start at 1.
GOLDEN = {
    "gradnorm": ([2.0, 2.0, 2.0], [1.0, 1.0]),
    "mean": ([1.0, 1.0, 1.0], [0.5, 0.5]),
    "mgda": ([0.0, 1.0, 1.0], [0.6, 0.4]),
    "nash_mtl": ([0.0542, 0.7061, 0.7061], [0.4182, 0.2878]),
    "pcgrad": ([180 / 19 - 80 / 9, 20 / 9 + 30 / 19, 20 / 9 + 30 / 19], [20 / 9, 30 / 19]),
    "static": ([2.0, 2.0, 2.0], [1.0, 1.0]),
    "sum": ([2.0, 2.0, 2.0], [1.0, 1.0]),
    "uncertainty": ([2.0, 2.0, 2.0], [1.0, 1.0]),
}


@pytest.mark.parametrize("stem", STEMS)
def test_one_small_matrix_gives_the_values_of_the_table(stem: str) -> None:
    gradient, shown = (torch.tensor(values, dtype=torch.float64) for values in GOLDEN[stem])
    balanced = call(ready(stem, 2), SMALL, HAND, names(2))
    assert_close(balanced.gradient_P, gradient, rtol=0, atol=1e-4)
    assert_close(balanced.shown_T, shown, rtol=0, atol=1e-4)


def test_the_table_has_every_option() -> None:
    assert sorted(GOLDEN) == STEMS
    assert len(STEMS) >= 7


@pytest.mark.parametrize("stem", STEMS)
def test_one_task_gets_its_plain_gradient_in_the_first_step(stem: str) -> None:
    matrix = rows(1)
    balanced = call(ready(stem, 1), matrix, losses(1), names(1))
    assert torch.equal(balanced.gradient_P, matrix[0])
    assert torch.equal(balanced.weights_T, torch.ones(1, dtype=torch.float64))


@pytest.mark.parametrize("stem", [stem for stem in STEMS if stem != "uncertainty"])  # that one scales a task alone, too
def test_a_task_that_comes_alone_late_still_gets_its_plain_gradient(stem: str) -> None:
    balancer = ready(stem, 3)
    for seed in range(5):
        balancer.combine(rows(3, "spread", seed), losses(3), names(3))
    matrix = rows(1)
    assert torch.equal(call(balancer, matrix, losses(1), ["t1"]).gradient_P, matrix[0])


@pytest.mark.parametrize("stem", [s for s in STEMS if s != "mean"])  # which by its definition weighs private gradients, too
def test_separate_networks_share_nothing_and_count_one_each(stem: str) -> None:
    balancer = ready(stem, 3)
    first = call(balancer, torch.empty(3, 0, dtype=torch.float64), losses(3), names(3))
    assert torch.equal(first.weights_T, torch.ones(3, dtype=torch.float64))
    assert first.gradient_P.shape == (0,)


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_tasks", [2, 3, 8])
def test_gradients_that_are_finite_stay_finite(stem: str, kind: str, num_tasks: int) -> None:
    balancer = ready(stem, num_tasks)
    for scale in (1e-6, 1.0, 1e6):
        assert call(balancer, rows(num_tasks, kind) * scale, losses(num_tasks), names(num_tasks)).gradient_P.isfinite().all()


@pytest.mark.parametrize("stem", STEMS)
def test_float32_gradients_give_float32(stem: str) -> None:
    matrix = rows(3, "opposed")
    single = call(ready(stem, 3), matrix.float(), losses(3).float(), names(3))
    double = call(ready(stem, 3), matrix, losses(3), names(3))
    assert_close(single.gradient_P.double(), double.gradient_P, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("stem", STEMS)
def test_a_task_may_be_absent_and_the_rest_are_as_if_it_were_not_there(stem: str) -> None:
    matrix = rows(3, "opposed")
    of_three, of_two = ready(stem, 3), build(stem)
    of_two.reset(["t0", "t2"])
    for _ in range(3):
        assert_equal(call(of_three, matrix[[0, 2]], HAND, ["t0", "t2"]), call(of_two, matrix[[0, 2]], HAND, ["t0", "t2"]))


@pytest.mark.parametrize("stem", STEMS)
def test_a_step_that_is_not_finite_is_not_finite_afterwards_and_teaches_nothing(stem: str) -> None:
    troubled, calm = ready(stem, 3), ready(stem, 3)
    bad, sick = rows(3), losses(3)
    bad[1, 4] = torch.nan
    sick[1] = torch.nan
    assert not call(troubled, bad, sick, names(3)).gradient_P.isfinite().all()
    if stem == "pcgrad":  # its orders are counted, whatever they were used for
        calm.combine(rows(3), losses(3), names(3))
    assert_equal(call(troubled, rows(3), losses(3), names(3)), call(calm, rows(3), losses(3), names(3)))


@pytest.mark.parametrize("stem", STEMS)
def test_a_run_that_stops_and_resumes_gives_the_same_bits(stem: str) -> None:
    present = [names(3), ["t0", "t2"], ["t1"], names(3), ["t1", "t2"], names(3), ["t0", "t2"], names(3)]
    steps = [(rows(len(tasks), "opposed", seed), losses(len(tasks)) / (1 + seed), tasks) for seed, tasks in enumerate(present)]
    assert_resumes(*(ready(stem, 3) for _ in range(3)), steps)


@pytest.mark.parametrize("stem", STEMS)
def test_reset_forgets_everything(stem: str) -> None:
    used, fresh = ready(stem, 3), ready(stem, 3)
    for seed in range(4):
        used.combine(rows(3, "opposed", seed), losses(3), names(3))
    used.reset(names(3))
    assert used.state_dict() == fresh.state_dict()
    assert_equal(call(used, rows(3), losses(3), names(3)), call(fresh, rows(3), losses(3), names(3)))


@pytest.mark.parametrize("stem", STEMS)
def test_the_global_generator_is_left_alone(stem: str) -> None:
    balancer = ready(stem, 3)
    before = torch.get_rng_state()
    balancer.combine(rows(3, "opposed"), losses(3), names(3))
    assert torch.equal(torch.get_rng_state(), before)
