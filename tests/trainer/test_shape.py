"""The shape must carry what comes next: bi-level episodes, coupled heads, and tasks that arrive in the middle, through the real loop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from m3tl_cli.backbone.base import Backbone
from m3tl_cli.balancing.base import Balancer
from m3tl_cli.balancing.pcgrad import PCGrad
from m3tl_cli.balancing.sum import Sum
from m3tl_cli.core.contracts import Batch, Episode, Name, Part, Signature, TaskName, shared
from m3tl_cli.core.events import Event, Measured
from m3tl_cli.encoder.table.mlp import MLP
from m3tl_cli.fusion.concat import Concat
from m3tl_cli.heads.vector.linear import Linear
from m3tl_cli.inner.base import InnerLoop
from m3tl_cli.inner.maml import MAML
from m3tl_cli.inner.reptile import Reptile
from m3tl_cli.model import MultiTaskModel
from m3tl_cli.optimizer.adamw import AdamW
from m3tl_cli.optimizer.sgd import SGD
from m3tl_cli.paradigm.base import Stage
from m3tl_cli.paradigm.engine import Engine
from m3tl_cli.sampler.minibatch import MiniBatch
from m3tl_cli.scheduler.constant import Constant
from m3tl_cli.selftest import Point, Quadratic, quadratic_episodes
from m3tl_cli.sharing.base import Sharing
from m3tl_cli.sharing.cross_stitch import CrossStitch
from m3tl_cli.sharing.hard import Hard
from m3tl_cli.trainer import checkpoint
from m3tl_cli.trainer.loop import LAST, Loop
from tests.toys import TABLE, FixedEpisodes, TablePool, a_batch, regression, states_equal


def a_loop(updates: int, **changes: object) -> Loop:
    numbers: dict[str, object] = {
        "device": "cpu", "precision": 32, "threads": 1, "updates": updates, "warm_up": 0.0, "accumulate": 1,
        "clip": None, "validate_every": 10**6, "patience": None,
        "checkpoint_every": 10**6, "log_every": 10**6, "eval_batch_size": 64, "num_pictures": 0, "transference_every": None,
    }  # fmt: skip
    return Loop(**(numbers | changes))  # type: ignore[arg-type]


def sgd(lr: float) -> SGD:
    return SGD(lr=lr, momentum=0.0, nesterov=False, weight_decay=0.0)


def maml(order: int, steps: int = 1, inner_lr: float = 0.2, scope: Sequence[str] = ("backbone",)) -> MAML:
    return MAML(
        num_inner_steps=steps, inner_lr=inner_lr, scope=list(scope), order=order, rates="fixed", rate_factor=1.0,  # type: ignore[arg-type]
        loss_weights=None, clip=None, diverge=1e6, max_halvings=0, engine="loop",
    )  # fmt: skip


def reptile(steps: int) -> Reptile:
    return Reptile(num_inner_steps=steps, inner_lr=0.2, scope=["backbone"], clip=None, diverge=1e6, max_halvings=0)


@pytest.mark.parametrize(
    ("inner", "fixed_point"),
    [(maml(2), 0.2), (maml(1), 0.5), (None, 0.8), (reptile(1), 0.8), (reptile(2), 0.72727), (maml(2, steps=2), 0.015385)],
    ids=["MAML", "FOMAML", "joint", "Reptile(1)", "Reptile(2)", "MAML K=2"],
)
def test_the_real_loop_reaches_the_fixed_points_of_two_quadratics(inner: InnerLoop | None, fixed_point: float, tmp_path: Path) -> None:
    """Tasks 1/2 a (theta - c)^2 with a = (1, 4), c = (0, 1), inner rate .2 (SEED A2)."""
    model = Point(["near", "far"])
    kinds = {"near": Quadratic(task=regression("near"), curvature=1.0), "far": Quadratic(task=regression("far"), curvature=4.0)}
    balancer = Sum()
    engine = Engine(model=model, kinds=kinds, balancer=balancer, trainable=frozenset(model.params()), inner=inner)
    a_loop(400).fit(
        Stage("train", ("near", "far"), 400), kinds=kinds, engine=engine, balancer=balancer,
        sampler=FixedEpisodes(quadratic_episodes({"near": 0.0, "far": 1.0}, support=inner is not None)), optimizer=sgd(0.1),
        scheduler=Constant(warmup=0.0), validation=None, folder=tmp_path, seed=0, emit=lambda _: None,
    )  # fmt: skip
    assert model.params()["backbone.theta"].item() == pytest.approx(fixed_point, abs=1e-5)


class TwoLayers(Backbone):
    """Two small smooth stages."""

    def __init__(self, inputs: Signature) -> None:
        super().__init__()
        self.stages = torch.nn.ModuleList([torch.nn.Sequential(torch.nn.Linear(inputs.dim, inputs.dim), torch.nn.Tanh()) for _ in range(2)])
        self.signature = inputs


def a_model(tasks: Sequence[TaskName], sharing: type[Sharing] = Hard, dtype: torch.dtype = torch.float32, seed: int = 0) -> MultiTaskModel:
    def make_sharing(num_stages: int) -> Sharing:
        return CrossStitch(own=0.9, num_stages=num_stages) if sharing is CrossStitch else sharing(num_stages=num_stages)

    model = MultiTaskModel(
        encoders={"table": lambda: MLP(width=6, num_layers=1, modality=TABLE)},
        fusion=lambda inputs: Concat(width=6, groups=2, spread=1.0, inputs=inputs),
        backbone=TwoLayers,
        head=lambda task, inputs: Linear(hidden=[], task=task, inputs=inputs),
        sharing=make_sharing,
        seed=seed,
    )
    if tasks:
        model.start([regression(t) for t in tasks])
    return model.to(dtype)


def query_losses(model: MultiTaskModel, kinds: dict[TaskName, Quadratic], episode: Episode, inner: MAML) -> Tensor:
    """What the engine differentiates, written out again: adapt by SGD on the mean support loss, then each task's query loss, [T]."""
    phi = model.params()

    def losses(params: dict[Name, Tensor], part: Part) -> Tensor:
        outputs = model.outputs(params, part.batch, part.tasks)
        return torch.stack([kinds[t].loss(outputs[t], part.batch.targets[t], part.batch.labelled[t]) for t in part.tasks])

    names = [n for n in phi if inner.adapts(n)]
    gradients = torch.autograd.grad(losses(phi, episode.support[0]).mean(), [phi[n] for n in names])
    theta = dict(phi) | {n: phi[n] - inner.rates.inner_lr * g for n, g in zip(names, gradients, strict=True)}
    return losses(theta, episode.query[0]).detach()


def test_second_order_episodes_with_pcgrad_over_cross_stitch_equal_finite_differences(tmp_path: Path) -> None:
    tasks = ("a", "b", "c")
    pool = TablePool(tasks, dtype=torch.float64)
    model = a_model(tasks, CrossStitch, torch.float64)
    kinds = {t: Quadratic(task=regression(t)) for t in tasks}
    support, query = pool.read(torch.arange(8)), pool.read(torch.arange(8, 20))
    episode = Episode(0, (Part(support, tasks),), (Part(query, tasks),), tuple(regression(t) for t in tasks))
    inner = maml(2, inner_lr=0.3, scope=("backbone", "sharing", "head"))
    phi = {n: p.detach().clone() for n, p in model.params().items()}

    rows: dict[Name, Tensor] = {}
    step = 1e-5
    for name, param in model.params().items():
        row = torch.zeros(len(tasks), param.numel(), dtype=torch.float64)
        flat = param.data.view(-1)
        for i in range(param.numel()):
            before = flat[i].item()
            flat[i] = before + step
            up = query_losses(model, kinds, episode, inner)
            flat[i] = before - step
            row[:, i] = (up - query_losses(model, kinds, episode, inner)) / (2 * step)
            flat[i] = before
        rows[name] = row

    balancer = PCGrad(seed=0)
    balancer.reset(tasks)
    engine = Engine(model=model, kinds=kinds, balancer=balancer, trainable=frozenset(phi), inner=inner)
    signal = engine.signal([episode])
    for i, task in enumerate(tasks):
        for name, row in rows.items():
            found = signal.rows[task].get(name, torch.zeros_like(phi[name])).reshape(-1)
            torch.testing.assert_close(found, row[i], atol=2e-8, rtol=1e-5, msg=lambda m, n=name, t=task: f"{t} {n}: {m}")
    other_head = signal.rows["a"]["head.b.out.weight"].abs().max()
    assert other_head > 0, "through the joint inner step the loss of one task reaches another task's head"

    names = [n for n in phi if n in shared(model, tasks, coupled=True)]
    assert set(names) == set(phi), "coupled heads belong to the matrix"
    rows_TP = torch.cat([rows[n] for n in names], dim=1)
    judge = PCGrad(seed=0)
    judge.reset(tasks)
    expected_P = judge.combine(rows_TP, torch.zeros(3, dtype=torch.float64), tasks).gradient_P

    fresh = PCGrad(seed=0)
    engine = Engine(model=model, kinds=kinds, balancer=fresh, trainable=frozenset(phi), inner=inner)
    a_loop(1).fit(
        Stage("train", tasks, 1), kinds=kinds, engine=engine, balancer=fresh, sampler=FixedEpisodes([episode]),
        optimizer=sgd(1.0), scheduler=Constant(warmup=0.0), validation=None, folder=tmp_path, seed=0, emit=lambda _: None,
    )  # fmt: skip
    moved_P = torch.cat([(phi[n] - model.params()[n].detach()).reshape(-1) for n in names])
    torch.testing.assert_close(moved_P, expected_P, atol=1e-7, rtol=1e-5)


class Killed(Exception):
    """Stands for a kill -9 in a test of one process: nothing is written after it."""


def train(
    model: MultiTaskModel, tasks: tuple[TaskName, ...], updates: int, folder: Path, *, name: str, resume: bool = False, die_at: int = 0
) -> None:
    pool = TablePool(("a", "b", "c"))
    kinds = {t: Quadratic(task=regression(t)) for t in tasks}
    balancer: Balancer = PCGrad(seed=3)
    engine = Engine(model=model, kinds=kinds, balancer=balancer, trainable=frozenset().union(*(model.reads(t) for t in tasks)))
    sampler = MiniBatch(batch_size=8, per_task=False, modality_dropout=0.0, pool=pool, tasks=tuple(regression(t) for t in tasks), seed=0)

    def emit(event: Event) -> None:
        if die_at and isinstance(event, Measured) and event.step == die_at:
            raise Killed

    a_loop(updates, checkpoint_every=5, log_every=1).fit(
        Stage(name, tasks, updates), kinds=kinds, engine=engine, balancer=balancer, sampler=sampler,
        optimizer=AdamW(lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01), scheduler=Constant(warmup=0.0), validation=None,
        folder=folder, seed=0, emit=emit, resume=resume, about={"ledger": model.ledger()},
    )  # fmt: skip


@pytest.mark.parametrize("sharing", [Hard, CrossStitch])
def test_a_task_added_in_the_middle_survives_a_kill_and_a_resume(sharing: type[Sharing], tmp_path: Path) -> None:
    def first_stage(folder: Path) -> MultiTaskModel:
        model = a_model(("a", "b"), sharing)
        train(model, ("a", "b"), 12, folder, name="train")
        return model

    unbroken = first_stage(tmp_path / "unbroken")
    batch = a_batch({}, torch.randn(7, TABLE.channels))
    before = unbroken.outputs(unbroken.params(), batch, ("a", "b"))
    grown = unbroken.add_task(regression("c"), like="a")
    after = unbroken.outputs(unbroken.params(), batch, ("a", "b"))
    assert all(torch.equal(before[t], after[t]) for t in before), "old outputs are equal to the bit"
    assert "head.c.out.weight" in grown
    train(unbroken, ("a", "b", "c"), 20, tmp_path / "unbroken", name="adapt")

    broken = first_stage(tmp_path / "broken")
    broken.add_task(regression("c"), like="a")
    with pytest.raises(Killed):
        train(broken, ("a", "b", "c"), 20, tmp_path / "broken", name="adapt", die_at=13)

    state = checkpoint.load(tmp_path / "broken" / LAST)
    assert state["counters"]["updates"] == 10, "the last checkpoint is from before the kill"
    resumed = a_model((), sharing, seed=99)
    resumed.replay(state["about"]["ledger"])
    train(resumed, ("a", "b", "c"), 20, tmp_path / "broken", name="adapt", resume=True)

    assert list(resumed.params()) == list(unbroken.params())
    assert states_equal(resumed.params(), unbroken.params())
    assert all(math.isfinite(p.abs().sum().item()) for p in resumed.params().values())


def test_batch_is_untouched_by_training(tmp_path: Path) -> None:
    pool = TablePool(("a", "b", "c"))
    before: Batch = pool.read(torch.arange(4))
    train(a_model(("a", "b")), ("a", "b"), 3, tmp_path, name="train")
    after = pool.read(torch.arange(4))
    assert states_equal(vars(before), vars(after))
