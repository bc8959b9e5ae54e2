"""The engine: whatever way gradients are made, they are the gradients."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from m3tl_cli.balancing.base import Balancer
from m3tl_cli.balancing.gradnorm import GradNorm
from m3tl_cli.balancing.mgda import MGDA
from m3tl_cli.balancing.nash_mtl import NashMTL
from m3tl_cli.balancing.pcgrad import PCGrad
from m3tl_cli.balancing.static import Static
from m3tl_cli.balancing.sum import Sum
from m3tl_cli.balancing.uncertainty import Uncertainty
from m3tl_cli.core.contracts import Episode, Name, Part, TaskName, shared
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.model import MultiTaskModel
from m3tl_cli.paradigm.engine import Engine
from m3tl_cli.selftest import Quadratic
from m3tl_cli.sharing.cross_stitch import CrossStitch
from m3tl_cli.sharing.separate import Separate
from tests.toys import TablePool, regression
from tests.trainer.test_shape import a_model, reptile

TASKS = ("a", "b", "c")
BALANCERS = {
    "sum": Sum,
    "static": lambda: Static(weights={"a": 2.0, "c": 0.5}),
    "uncertainty": lambda: Uncertainty(lr=0.1),
    "gradnorm": lambda: GradNorm(alpha=1.0, lr=0.1),
    "pcgrad": lambda: PCGrad(seed=0),
    "mgda": MGDA,
    "nash_mtl": lambda: NashMTL(update_weights_every=1, optim_niter=20, max_norm=1.0),
}


def an_episode(size: int = 12, *, per_task: bool = False, tasks: Sequence[TaskName] = TASKS, weight: float = 1.0) -> Episode:
    pool = TablePool(TASKS, dtype=torch.float64)
    if per_task:
        parts = tuple(Part(pool.read(torch.arange(i * size, (i + 1) * size)), (t,)) for i, t in enumerate(tasks))
    else:
        parts = (Part(pool.read(torch.arange(size)), tuple(tasks)),)
    return Episode(0, (), parts, tuple(regression(t) for t in tasks), weight=weight)


def an_engine(model: MultiTaskModel, balancer: Balancer, **changes: object) -> Engine:
    balancer.reset(tuple(model.tasks))
    kinds = {t: Quadratic(task=task) for t, task in model.tasks.items()}
    return Engine(model=model, kinds=kinds, balancer=balancer, trainable=frozenset(model.params()), **changes)  # type: ignore[arg-type]


def by_backward(model: MultiTaskModel, episode: Episode) -> dict[TaskName, dict[Name, Tensor]]:
    """Each task's gradient by a plain backward pass of its loss alone."""
    rows: dict[TaskName, dict[Name, Tensor]] = {}
    for part in episode.query:
        for task in part.tasks:
            model.zero_grad()
            output = model.outputs(model.params(), part.batch, (task,))[task]
            Quadratic(task=regression(task)).loss(output, part.batch.targets[task], part.batch.labelled[task]).backward()
            rows[task] = {n: p.grad.clone() for n, p in model.params().items() if p.grad is not None}
    return rows


@pytest.mark.parametrize("per_task", [False, True])
@pytest.mark.parametrize("name", BALANCERS)
def test_the_balanced_gradient_is_the_balancer_applied_to_plain_gradients(name: str, per_task: bool) -> None:
    model = a_model(TASKS, CrossStitch, torch.float64)
    episode = an_episode(per_task=per_task)
    engine = an_engine(model, BALANCERS[name]())
    signal = engine.signal([episode])
    found = engine.gradient(signal)

    rows = by_backward(model, episode)
    judge = BALANCERS[name]()
    judge.reset(TASKS)
    losses_T = torch.stack([signal.losses[t] for t in TASKS])
    if judge.needs == "rows":
        names = [n for n in model.params() if n in shared(model, TASKS)]
        rows_TP = torch.stack([torch.cat([rows[t].get(n, torch.zeros_like(model.params()[n])).reshape(-1) for n in names]) for t in TASKS])
        balanced = judge.combine(rows_TP, losses_T, TASKS)
        sizes = [model.params()[n].numel() for n in names]
        expected = dict(zip(names, balanced.gradient_P.split(sizes), strict=True))
        weights_T = balanced.weights_T
    else:
        names, expected, weights_T = [], {}, judge.weights(losses_T, TASKS)
    for i, task in enumerate(TASKS):
        for n, g in rows[task].items():
            if n not in names:
                expected[n] = expected.get(n, 0) + weights_T[i] * g.reshape(-1)
    assert found.keys() == expected.keys()
    for n, g in expected.items():
        torch.testing.assert_close(found[n].reshape(-1), g, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("name", BALANCERS)
def test_a_task_that_is_absent_from_a_batch_leaves_no_trace(name: str) -> None:
    model = a_model(TASKS, dtype=torch.float64)
    episode = an_episode()
    for part in episode.query:
        part.batch.labelled["b"][:] = False  # type: ignore[index]
        part.batch.targets["b"][:] = float("nan")  # type: ignore[index]
    without = an_engine(model, BALANCERS[name]())
    found = without.gradient(without.signal([episode]))
    assert not any(n.startswith("head.b.") for n in found)
    assert all(bool(g.isfinite().all()) for g in found.values())
    only = an_engine(model, BALANCERS[name]())
    expected = only.gradient(only.signal([an_episode(tasks=("a", "c"))]))
    assert found.keys() == expected.keys()
    for n in expected:
        torch.testing.assert_close(found[n], expected[n], atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("name", BALANCERS)
def test_separate_networks_and_a_single_task_are_legal_for_every_balancer(name: str) -> None:
    for tasks in (TASKS, ("a",)):
        model = a_model(tasks, Separate, torch.float64)
        engine = an_engine(model, BALANCERS[name]() if name != "static" else Static(weights={"a": 1.0}))
        found = engine.gradient(engine.signal([an_episode(tasks=tasks)]))
        assert found.keys() == model.params().keys() - {n for n in model.params() if n not in found and "absent" in n}


def test_weights_of_episodes_scale_their_gradients() -> None:
    model = a_model(TASKS, dtype=torch.float64)
    for balancer in (Sum(), PCGrad(seed=0)):
        engine = an_engine(model, balancer)
        once = engine.gradient(engine.signal([an_episode()]))
        twice = engine.gradient(engine.signal([an_episode(weight=0.5), an_episode(weight=1.5)]))
        for n in once:
            torch.testing.assert_close(twice[n], 2 * once[n])


def test_only_trainable_names_get_a_gradient() -> None:
    model = a_model(TASKS, dtype=torch.float64)
    trainable = frozenset(n for n in model.params() if n.startswith("head."))
    for balancer in (Sum(), PCGrad(seed=0)):
        balancer.reset(TASKS)
        kinds = {t: Quadratic(task=task) for t, task in model.tasks.items()}
        engine = Engine(model=model, kinds=kinds, balancer=balancer, trainable=trainable)
        assert set(engine.gradient(engine.signal([an_episode()]))) == trainable


def test_an_inner_loop_without_rows_refuses_a_balancer_that_needs_them() -> None:
    with pytest.raises(ConfigError, match="Reptile"):
        an_engine(a_model(TASKS), PCGrad(seed=0), inner=reptile(1))
    an_engine(a_model(TASKS), PCGrad(seed=0), inner=reptile(0))


def test_passes_are_counted() -> None:
    model = a_model(TASKS, dtype=torch.float64)
    engine = an_engine(model, PCGrad(seed=0))
    engine.signal([an_episode()])
    assert (engine.passes.forward, engine.passes.backward) == (1, 3)
    engine = an_engine(model, Sum())
    engine.signal([an_episode(per_task=True)])
    assert (engine.passes.forward, engine.passes.backward) == (3, 3)
    engine = an_engine(a_model(TASKS, Separate, torch.float64), Sum())
    engine.signal([an_episode()])
    assert (engine.passes.forward, engine.passes.backward) == (3, 3), "one batch through three networks"
