"""Transference: the ratio of the paper, on parameters that tasks share, and nothing else is touched by measuring it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from m3tl_cli.balancing.pcgrad import PCGrad
from m3tl_cli.balancing.sum import Sum
from m3tl_cli.core.contracts import Part, TaskName, shared
from m3tl_cli.model import MultiTaskModel
from m3tl_cli.optimizer.adamw import AdamW
from m3tl_cli.paradigm.base import Stage
from m3tl_cli.paradigm.engine import Engine
from m3tl_cli.paradigm.transference import Transference
from m3tl_cli.sampler.minibatch import MiniBatch
from m3tl_cli.scheduler.constant import Constant
from m3tl_cli.selftest import Quadratic
from m3tl_cli.sharing.separate import Separate
from tests.paradigm._nets import Net
from tests.paradigm.test_engine import TASKS, an_engine, an_episode
from tests.toys import TablePool, regression, states_equal
from tests.trainer.test_shape import a_loop, a_model

RATE = 0.05


def loss(model: MultiTaskModel, params: dict[str, torch.Tensor], part: Part, task: TaskName) -> torch.Tensor:
    output = model.outputs(params, part.batch, (task,))[task]
    return Quadratic(task=regression(task)).loss(output, part.batch.targets[task], part.batch.labelled[task])


@pytest.mark.parametrize("per_task", [False, True])
def test_it_is_the_ratio_of_the_paper_after_a_step_on_shared_parameters_alone(per_task: bool) -> None:
    """Against a loop that deep-copies, steps and looks again; heads stay where they are."""
    model, episode = a_model(TASKS, dtype=torch.float64), an_episode(per_task=per_task)
    found = Transference()
    found.measure(an_engine(model, Sum()), [episode], RATE)
    phi = model.params()
    common = shared(model, TASKS)
    part_of = {t: p for p in episode.query for t in p.tasks}
    for i in TASKS:
        names = [n for n in phi if n in common]
        gradients = torch.autograd.grad(loss(model, phi, part_of[i], i), [phi[n] for n in names])
        moved = {**phi, **{n: phi[n] - RATE * g for n, g in zip(names, gradients, strict=True)}}
        for j in TASKS:
            expected = 1 - (loss(model, moved, part_of[j], j) / loss(model, phi, part_of[j], j)).detach()
            assert found.matrix[i][j] == pytest.approx(expected.item(), abs=1e-14)
    assert set(names) < set(phi), "heads are not shared"


def test_a_task_helps_its_twin_as_much_as_itself_and_networks_apart_have_no_influence() -> None:
    twins = a_model(("a", "b"), dtype=torch.float64)
    with torch.no_grad():
        for name, param in twins.params().items():
            if name.startswith("head.b."):
                param.copy_(twins.params()[name.replace("head.b.", "head.a.")])
    episode = an_episode(tasks=("a", "b"))
    [part] = episode.query
    same = replace(part, batch=replace(part.batch, targets=dict.fromkeys(("a", "b"), part.batch.targets["a"])))
    found = Transference()
    found.measure(an_engine(twins, Sum()), [replace(episode, query=(same,))], RATE)
    assert found.matrix["a"]["b"] == pytest.approx(found.matrix["a"]["a"], abs=1e-14)
    assert found.matrix["a"]["a"] > 0
    apart = Transference()
    apart.measure(an_engine(a_model(TASKS, Separate, dtype=torch.float64), Sum()), [an_episode()], RATE)
    assert apart.matrix == {}


def test_measurements_are_averaged_and_survive_a_checkpoint() -> None:
    engine = an_engine(a_model(TASKS, dtype=torch.float64), Sum())
    one, both, kept = Transference(), Transference(), Transference()
    one.measure(engine, [an_episode(12)], RATE)
    both.measure(engine, [an_episode(12)], RATE)
    kept.load_state_dict(json.loads(json.dumps(both.state_dict())))
    for each in (both, kept):
        each.measure(engine, [an_episode(7)], RATE)
    assert kept.matrix == both.matrix
    alone = Transference()
    alone.measure(engine, [an_episode(7)], RATE)
    assert both.matrix["a"]["b"] == pytest.approx((one.matrix["a"]["b"] + alone.matrix["a"]["b"]) / 2, abs=1e-14)


def test_a_task_without_labels_has_no_row_and_a_loss_of_nothing_no_share() -> None:
    episode = an_episode()
    [part] = episode.query
    none = {**part.batch.labelled, "b": torch.zeros(len(part.batch), dtype=torch.bool)}
    found = Transference()
    engine = an_engine(a_model(TASKS, dtype=torch.float64), Sum())
    found.measure(engine, [replace(episode, query=(replace(part, batch=replace(part.batch, labelled=none)),))], RATE)
    assert set(found.matrix) == {"a", "c"}
    assert set(found.matrix["a"]) == {"a", "c"}


@pytest.mark.parametrize("norm", ["batch", "dropout"])
def test_looking_moves_no_statistics_draws_nothing_and_is_not_counted(norm: str) -> None:
    net = Net(norm).train()
    kinds = {t: Quadratic(task=task) for t, task in net.tasks.items()}
    engine = Engine(model=net, kinds=kinds, balancer=Sum(), trainable=frozenset(net.params()))
    episode = an_episode(tasks=("a", "b"))
    engine.signal([episode])
    before, state, passes = torch.get_rng_state(), {k: v.clone() for k, v in net.state_dict().items()}, replace(engine.passes)
    found = Transference()
    found.measure(engine, [episode], 0.0)
    assert torch.equal(torch.get_rng_state(), before)
    assert states_equal(dict(net.state_dict()), state)
    assert engine.passes == passes
    assert all(value == 0.0 for row in found.matrix.values() for value in row.values()), "a step of nothing, under the same dropout"
    assert net.training


def test_training_with_it_is_training_without_it_to_the_bit(tmp_path: Path) -> None:
    states = []
    for every in (None, 2):
        model, found = a_model(TASKS), Transference()
        kinds = {t: Quadratic(task=regression(t)) for t in TASKS}
        balancer = PCGrad(seed=0)
        engine = Engine(model=model, kinds=kinds, balancer=balancer, trainable=frozenset(model.params()))
        pool = TablePool(TASKS, size=96)
        sampler = MiniBatch(batch_size=8, per_task=False, modality_dropout=0.0, pool=pool, tasks=[regression(t) for t in TASKS], seed=0)
        a_loop(5, transference_every=every).fit(
            Stage("train", TASKS, 5), kinds=kinds, engine=engine, balancer=balancer, sampler=sampler,
            optimizer=AdamW(lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01), scheduler=Constant(warmup=0.0),
            validation=None, folder=tmp_path / str(every), seed=0, emit=lambda _: None, transference=found,
        )  # fmt: skip
        states.append((dict(model.state_dict()), engine.passes, found))
    (without, passes, nothing), (with_it, same, found) = states
    assert states_equal(without, with_it)
    assert passes == same
    assert nothing.matrix == {}
    assert found.state_dict()["sums"]["a"]["b"][1] == 3, "after updates 2, 4 and the last"
