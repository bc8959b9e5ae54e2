from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from m3tl_cli.backbone.identity import Identity as NoBackbone
from m3tl_cli.balancing.sum import Sum
from m3tl_cli.core.contracts import Params, components
from m3tl_cli.encoder.table.identity import Identity
from m3tl_cli.fusion.single import Single
from m3tl_cli.heads.vector.linear import Linear
from m3tl_cli.model import MultiTaskModel
from m3tl_cli.optimizer.sgd import SGD
from m3tl_cli.paradigm.base import Stage
from m3tl_cli.paradigm.engine import Engine
from m3tl_cli.sampler.minibatch import MiniBatch
from m3tl_cli.scheduler.constant import Constant
from m3tl_cli.sharing.base import Sharing
from m3tl_cli.sharing.separate import Separate
from m3tl_cli.sharing.soft import Soft
from m3tl_cli.target.adaptation import handed_over
from m3tl_cli.task.regression import Regression
from m3tl_cli.transfer.base import HandOver
from m3tl_cli.transfer.handover.fine_tune import FineTune
from tests.sharing.stack import Stack
from tests.toys import TABLE, TablePool, regression
from tests.trainer.test_shape import a_loop

NAMES = {
    "encoder.a.rgb.w": [1.0], "encoder.b.rgb.w": [3.0], "backbone.a.stages.0.w": [2.0, 0.0], "backbone.b.stages.0.w": [2.0, 4.0],
    "head.a.out.weight": [5.0], "head.b.out.weight": [9.0], "head.c.out.weight": [7.0, 7.0], "inner.a.rate": [1.0], "inner.b.rate": [9.0],
}  # fmt: skip


def params() -> dict[str, Tensor]:
    return {n: torch.tensor(v, dtype=torch.float64, requires_grad=True) for n, v in NAMES.items()}


def value(penalty: Tensor | None) -> float:
    assert penalty is not None
    return penalty.item()


def test_the_penalty_is_half_the_strength_times_squared_distances_to_the_mean() -> None:
    # Encoder: mean 2, distances 1 and 1. Backbone: 2 and 2. Heads a and b: 2 and 2; c has a shape of its own.
    assert value(Soft(strength=0.5, heads=False, num_stages=1).penalty(params())) == pytest.approx(0.25 * (2 + 8))
    assert value(Soft(strength=0.5, heads=True, num_stages=1).penalty(params())) == pytest.approx(0.25 * (2 + 8 + 8))


def test_it_equals_the_sum_over_pairs_divided_by_the_number_of_tasks() -> None:
    weights = {f"head.{t}.out.weight": torch.randn(3, 4, dtype=torch.float64) for t in "abcd"}
    pairs = sum(float((x - y).square().sum()) for i, x in enumerate(weights.values()) for y in list(weights.values())[:i])
    assert value(Soft(strength=3.0, heads=True, num_stages=0).penalty(weights)) == pytest.approx(3.0 / 2 * pairs / 4)


def test_its_gradient_pulls_to_the_mean_and_leaves_the_mean_where_it_is() -> None:
    at = params()
    penalty = Soft(strength=0.5, heads=True, num_stages=1).penalty(at)
    assert penalty is not None
    found = dict(zip(at, torch.autograd.grad(penalty, list(at.values()), allow_unused=True), strict=True))
    assert found["encoder.a.rgb.w"].tolist() == [-0.5]
    assert found["encoder.b.rgb.w"].tolist() == [0.5]
    assert found["head.c.out.weight"] is found["inner.a.rate"] is None


@pytest.mark.parametrize("at", [{}, {"head.a.out.weight": torch.ones(2)}, {"sharing.alpha": torch.ones(2)}])
def test_nothing_is_pulled_where_no_tensor_has_a_partner(at: Params) -> None:
    assert Soft(strength=1.0, heads=True, num_stages=1).penalty(at) is None
    assert Soft(strength=0.0, heads=True, num_stages=1).penalty(params()) is None


def test_other_sharings_have_no_penalty() -> None:
    assert Separate(num_stages=1).penalty(params()) is None


def test_tasks_read_networks_of_their_own() -> None:
    stack = Stack(Soft(strength=1.0, heads=False, num_stages=2), ["a", "b", "c"], 2)
    reached = {t: stack.reached(t) for t in "abc"}
    assert {t: stack.declared(t) for t in "abc"} == reached
    assert not reached["a"] & reached["b"]


class Spring(HandOver):
    """A hand-over that pulls every number to where it was."""

    def trainable(self, params: Params, fresh: frozenset[str], step: int, steps: int) -> frozenset[str]:
        return frozenset(params)

    def penalty(self, params: Params, start: Params) -> Tensor:
        return torch.stack([(params[n] - start[n]).square().sum() for n in start]).sum()


def linear(sharing: Sharing, pool: TablePool) -> MultiTaskModel:
    model = MultiTaskModel(
        encoders={"table": lambda: Identity(modality=TABLE)},
        fusion=lambda inputs: Single(inputs=inputs),
        backbone=lambda inputs: NoBackbone(inputs=inputs),
        head=lambda task, inputs: Linear(hidden=[], task=task, inputs=inputs),
        sharing=lambda num_stages: sharing,
        seed=0,
    )
    model.start([regression(t) for t in pool.targets])
    return model.double()


def trained(sharing: Sharing, folder: Path, *, updates: int = 60, lr: float = 0.05, decay: float = 0.0) -> dict[str, Tensor]:
    """Full-batch descent on mean squared errors of three linear tasks, through the real loop."""
    pool = TablePool(["a", "b", "c"], size=20, dtype=torch.float64)
    model = linear(sharing, pool)
    kinds = {t: Regression(task=regression(t), loss="mse", delta=1.0) for t in pool.targets}
    names, balancer = frozenset(model.params()), Sum()
    freedom = handed_over(FineTune(decay=1.0, unfreeze_every=None, l2_sp=0.0), model, names, frozenset(), updates)
    a_loop(updates).fit(
        Stage("train", tuple(pool.targets), updates), kinds=kinds, balancer=balancer,
        engine=Engine(model=model, kinds=kinds, balancer=balancer, trainable=names),
        sampler=MiniBatch(batch_size=20, per_task=False, modality_dropout=0.0, pool=pool, tasks=list(model.tasks.values()), seed=0),
        optimizer=SGD(lr=lr, momentum=0.0, nesterov=False, weight_decay=decay), scheduler=Constant(warmup=0.0), validation=None,
        folder=folder, seed=0, emit=lambda _: None, freedom=freedom,
    )  # fmt: skip
    return {n: p.detach().clone() for n, p in model.params().items()}


def test_at_strength_0_training_equals_that_of_separate_networks_to_the_bit(tmp_path: Path) -> None:
    soft = trained(Soft(strength=0.0, heads=True, num_stages=0), tmp_path / "soft")
    separate = trained(Separate(num_stages=0), tmp_path / "separate")
    assert soft.keys() == separate.keys()
    assert all(torch.equal(soft[n], separate[n]) for n in soft)


def test_training_reaches_the_closed_form_of_mean_regularised_linear_models(tmp_path: Path) -> None:
    """The minimum of sum_t mean (x w_t - y_t)^2 + s / 2 sum_t |w_t - mean|^2 + d / 2 sum_t |w_t|^2 solves a linear system."""
    strength, decay, pool = 0.7, 0.2, TablePool(["a", "b", "c"], size=20, dtype=torch.float64)
    x = torch.cat((pool.inputs, torch.ones(20, 1, dtype=torch.float64)), 1)
    gram = 2 * x.T @ x / 20 + decay * torch.eye(7, dtype=torch.float64)
    pull = strength * (torch.eye(3, dtype=torch.float64) - 1 / 3)
    system = torch.kron(torch.eye(3, dtype=torch.float64), gram) + torch.kron(pull, torch.eye(7, dtype=torch.float64))
    right = torch.cat([2 * x.T @ y[:, 0] / 20 for y in pool.targets.values()])
    expected = torch.linalg.solve(system, right).reshape(3, 7)
    found = trained(Soft(strength=strength, heads=True, num_stages=0), tmp_path, updates=600, decay=decay)
    for i, task in enumerate(pool.targets):
        got = torch.cat((found[f"head.{task}.out.weight"][0], found[f"head.{task}.out.bias"]))
        torch.testing.assert_close(got, expected[i], rtol=0, atol=1e-6)


def test_the_stronger_the_pull_the_nearer_the_networks(tmp_path: Path) -> None:
    def spread(strength: float, lr: float) -> float:
        found = trained(Soft(strength=strength, heads=True, num_stages=0), tmp_path / str(strength), updates=150, lr=lr)
        return float(torch.stack([found[f"head.{t}.out.weight"] for t in "abc"]).var(0, correction=0).sum())

    alone, weak, strong, stronger = spread(0.0, 0.05), spread(1.0, 0.05), spread(100.0, 0.01), spread(1e5, 1e-5)
    assert alone > weak > 100 * strong > 0
    assert stronger < 1e-8 * alone


def test_the_penalty_is_no_part_of_a_task_and_adds_to_that_of_a_hand_over() -> None:
    pool = TablePool(["a", "b"], dtype=torch.float64)
    model = linear(Soft(strength=2.0, heads=True, num_stages=0), pool)
    assert components(model, ("a", "b")) == [("a",), ("b",)]
    names = frozenset(model.params())
    pulled = value(model.sharing.penalty(model.params()))
    freedom = handed_over(Spring(), model, names, names, 10)
    with torch.no_grad():
        for p in model.params().values():
            p.add_(1.0)  # the same for all: no further pull from the sharing, one per number from the hand-over
    assert freedom.penalty is not None
    assert pulled > 0
    assert value(freedom.penalty(model.params())) == pytest.approx(pulled + sum(p.numel() for p in model.params().values()))
