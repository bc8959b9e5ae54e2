"""Known answers: numbers that the literature or plain algebra fixes, computed by the real engine, inner loops and balancers.

`m3tl selftest` runs them in seconds on the CPU, in float64 and without data; the test suite runs the same list.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor, nn

from m3tl_cli.balancing.base import Balancer
from m3tl_cli.balancing.gradnorm import GradNorm
from m3tl_cli.balancing.mgda import MGDA
from m3tl_cli.balancing.pcgrad import PCGrad
from m3tl_cli.balancing.static import Static
from m3tl_cli.balancing.sum import Sum
from m3tl_cli.balancing.uncertainty import Uncertainty
from m3tl_cli.core.contracts import Batch, Episode, Name, Params, Part, Task, TaskName, generator
from m3tl_cli.inner.anil import ANIL
from m3tl_cli.inner.base import InnerLoop
from m3tl_cli.inner.maml import MAML
from m3tl_cli.inner.meta_sgd import MetaSGD
from m3tl_cli.inner.reptile import Reptile
from m3tl_cli.paradigm.engine import Engine
from m3tl_cli.paradigm.transference import Transference
from m3tl_cli.task.base import Meter, MetricInfo, TaskKind


@dataclass(frozen=True)
class Outcome:
    """What a check should have found, and what it found."""

    expected: str
    found: str
    passed: bool


@dataclass(frozen=True)
class Check:
    """One known answer.

    Args:
        name: Short.
        about: The set-up, one line.
        source: Where the answer comes from.
        run: Computes it.
    """

    name: str
    about: str
    source: str
    run: Callable[[], Outcome]


class Point:
    """A model whose only parameter is theta, which every task reads: a point that quadratics pull at."""

    def __init__(self, tasks: Sequence[TaskName], start: float = 0.5) -> None:
        self._tasks = {t: Task(t, "quadratic", num_outputs=1, dense=False) for t in tasks}
        self._phi: dict[Name, Tensor] = {"backbone.theta": nn.Parameter(torch.tensor([start], dtype=torch.float64))}

    @property
    def tasks(self) -> Mapping[TaskName, Task]:
        """Tasks by name."""
        return self._tasks

    def params(self) -> dict[Name, Tensor]:
        """Theta."""
        return self._phi

    def outputs(self, params: Params, batch: Batch, tasks: Sequence[TaskName]) -> dict[TaskName, Tensor]:
        """Theta, whatever the input."""
        return {t: params["backbone.theta"].expand(len(batch), 1) for t in tasks}

    def reads(self, task: TaskName) -> frozenset[Name]:  # noqa: ARG002
        """Theta."""
        return frozenset(self._phi)


class Quadratic(TaskKind):
    """Half the squared distance to the target, times `curvature`."""

    def __init__(self, *, task: Task, curvature: float = 1.0) -> None:
        super().__init__(task=task)
        self.metrics = {"mse": MetricInfo("lower", 0.0, "", "mean squared error")}
        self.primary = "mse"
        self.curvature = curvature

    def loss(self, output: Tensor, target: Tensor, labelled: Tensor) -> Tensor:
        """1/2 a (theta - c)^2, averaged over the labelled samples."""
        error = (output - torch.where(labelled[:, None], target, output.detach())).pow(2).sum(1)
        return self.curvature * 0.5 * (error * labelled).sum() / labelled.sum().clamp(min=1)

    def meter(self) -> Meter:
        """Mean squared error."""
        return _MeanSquaredError()

    def trivial(self, target: Tensor, labelled: Tensor) -> Tensor:
        """The mean."""
        return target[labelled].mean(0, keepdim=True)

    def decode(self, output: Tensor) -> Tensor:
        """As it is."""
        return output

    def draw(self, value: Tensor) -> str:
        """The number."""
        return f"{value.item():.3f}"


class _MeanSquaredError(Meter):
    def __init__(self) -> None:
        self._total, self._count = 0.0, 0

    def update(self, output: Tensor, target: Tensor, labelled: Tensor) -> None:
        error = (output - target).pow(2).sum(1)[labelled]
        self._total += float(error.sum())
        self._count += len(error)

    def compute(self) -> dict[str, float]:
        return {"mse": self._total / self._count if self._count else math.nan}


CENTRES, CURVATURES = {"near": 0.0, "far": 1.0}, {"near": 1.0, "far": 4.0}


def quadratic_episodes(centres: Mapping[TaskName, float], *, support: bool, together: bool = False) -> list[Episode]:
    """Episodes that pull theta to each task's centre: one a task, or one with all.

    Args:
        centres: Target per task.
        support: Whether an inner loop has something to adapt on.
        together: All tasks in one episode.
    """
    rows = torch.zeros(1, dtype=torch.long)
    yes = torch.ones(1, dtype=torch.bool)

    def part(names: tuple[TaskName, ...]) -> Part:
        targets = {t: torch.full((1, 1), centres[t], dtype=torch.float64) for t in names}
        return Part(Batch({}, {}, {}, {}, targets, dict.fromkeys(names, yes), rows, rows), names)

    groups = [tuple(centres)] if together else [(t,) for t in centres]
    return [
        Episode(uid, (part(names),) if support else (), (part(names),), tuple(Task(t, "quadratic", 1, False) for t in names))
        for uid, names in enumerate(groups)
    ]


def descend(inner: InnerLoop | None, balancer: Balancer, *, together: bool = False, updates: int = 300, lr: float = 0.1) -> float:
    """Where gradient descent on the two quadratics ends under a setting of the engine."""
    model = Point(tuple(CENTRES))
    kinds = {t: Quadratic(task=task, curvature=CURVATURES[t]) for t, task in model.tasks.items()}
    balancer.reset(tuple(CENTRES))
    engine = Engine(model=model, kinds=kinds, balancer=balancer, trainable=frozenset(model.params()), inner=inner)
    episodes = quadratic_episodes(CENTRES, support=inner is not None, together=together)
    theta = model.params()["backbone.theta"]
    for _ in range(updates):
        gradient = engine.gradient(engine.signal(episodes))["backbone.theta"]
        with torch.no_grad():
            theta -= lr * gradient
    return theta.item()


def _number(expected: float, compute: Callable[[], float], tolerance: float = 1e-5) -> Callable[[], Outcome]:
    def run() -> Outcome:
        found = compute()
        return Outcome(f"{expected:.6g}", f"{found:.6g}", abs(found - expected) <= tolerance)

    return run


def _numbers(expected: Sequence[float], compute: Callable[[], Tensor], tolerance: float = 1e-6) -> Callable[[], Outcome]:
    def run() -> Outcome:
        found = compute().double().flatten()
        wanted = torch.tensor(expected, dtype=torch.float64)
        show = lambda values: "(" + ", ".join(f"{v:.6g}" for v in values) + ")"  # noqa: E731
        return Outcome(show(expected), show(found.tolist()), bool((found - wanted).abs().max() <= tolerance))

    return run


def _maml(order: Literal[1, 2], steps: int = 1, loss_weights: list[float] | None = None) -> MAML:
    return MAML(
        num_inner_steps=steps, inner_lr=0.2, scope=["backbone", "head"], order=order, rates="fixed", rate_factor=1.0,
        loss_weights=loss_weights, clip=None, diverge=1e6, max_halvings=0, engine="loop",
    )  # fmt: skip


def _reptile(steps: int) -> Reptile:
    return Reptile(num_inner_steps=steps, inner_lr=0.2, scope=["backbone"], clip=None, diverge=1e6, max_halvings=0)


def _matrix(*rows: Sequence[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def _combined(balancer: Balancer, rows_TP: Tensor) -> Tensor:
    tasks = tuple(f"t{i}" for i in range(len(rows_TP)))
    balancer.reset(tasks)
    return balancer.combine(rows_TP, torch.ones(len(tasks), dtype=torch.float64), tasks).gradient_P


def _uncertainty(losses: Sequence[Mapping[TaskName, float]]) -> Tensor:
    """S of every task after many steps in which the given losses come round in turn, from the weights exp(-s)."""
    tasks = tuple(dict.fromkeys(t for step in losses for t in step))
    balancer = Uncertainty(lr=0.05)
    balancer.reset(tasks)
    weights: dict[TaskName, float] = {}
    for step in range(600):
        present = losses[step % len(losses)]
        found = balancer.weights(torch.tensor(list(present.values()), dtype=torch.float64), tuple(present))
        weights.update(zip(present, found.tolist(), strict=True))
    return 0.0 - torch.tensor([weights[t] for t in tasks], dtype=torch.float64).log()


def _gradnorm() -> Tensor:
    """Weights of two tasks with gradient norms 1 and 100 that train at equal rates."""
    balancer = GradNorm(alpha=1.5, lr=0.001)
    tasks = ("a", "b")
    balancer.reset(tasks)
    rows_TP = _matrix((1.0, 0.0), (0.0, 100.0))
    for _ in range(6000):
        weights = balancer.combine(rows_TP, torch.ones(2, dtype=torch.float64), tasks).weights_T
    return weights


def _finite_difference() -> Outcome:
    """Outer gradient of MAML through one inner step, against the slope of the query losses."""

    def query(theta: float) -> float:
        total = 0.0
        for task, centre in CENTRES.items():
            a = CURVATURES[task]
            adapted = theta - 0.2 * a * math.tanh(theta - centre)
            total += a * math.log(math.cosh(adapted - centre))
        return total

    theta = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    inner, phi, found = _maml(2), {"theta": theta}, 0.0
    for task, centre in CENTRES.items():
        a = CURVATURES[task]
        objective = lambda params, a=a, c=centre: {"": a * torch.log(torch.cosh(params["theta"] - c))}  # noqa: E731
        reached = inner.adapt(objective, phi, frozenset(phi), steps=1, differentiable=True)
        found += inner.outer(phi, reached, objective(reached[-1].params)[""], ["theta"], keep=False)["theta"].item()
    expected = (query(0.3 + 1e-6) - query(0.3 - 1e-6)) / 2e-6
    return Outcome(f"{expected:.7f}", f"{found:.7f}", abs(expected - found) < 1e-8)


def _difference(largest: float, limit: float = 1e-12) -> Outcome:
    return Outcome("0", f"{largest:.3g}", largest <= limit)


def _k_zero_is_mtl() -> Outcome:
    """Outer gradient with no inner step over all tasks minus the gradient of the summed losses."""
    gradients = []
    for inner in (_maml(2, steps=0), None):
        model = Point(tuple(CENTRES))
        kinds = {t: Quadratic(task=task, curvature=CURVATURES[t]) for t, task in model.tasks.items()}
        engine = Engine(model=model, kinds=kinds, balancer=Sum(), trainable=frozenset(model.params()), inner=inner)
        episodes = quadratic_episodes(CENTRES, support=inner is not None, together=True)
        gradients.append(engine.gradient(engine.signal(episodes))["backbone.theta"].item())
    return _difference(abs(gradients[0] - gradients[1]), 0.0)


class Branches:
    """A model of one tanh layer that every task shares, and a linear head per task."""

    def __init__(self, tasks: Sequence[TaskName]) -> None:
        self._tasks = {t: Task(t, "quadratic", num_outputs=1, dense=False) for t in tasks}
        shapes = {"backbone.shared.weight": (4, 3), **{f"head.{t}.out": (4, 1) for t in tasks}}
        self._phi: dict[Name, Tensor] = {
            n: nn.Parameter(torch.randn(shape, dtype=torch.float64, generator=generator("branches", n))) for n, shape in shapes.items()
        }

    @property
    def tasks(self) -> Mapping[TaskName, Task]:
        """Tasks by name."""
        return self._tasks

    def params(self) -> dict[Name, Tensor]:
        """Shared layer and heads."""
        return self._phi

    def outputs(self, params: Params, batch: Batch, tasks: Sequence[TaskName]) -> dict[TaskName, Tensor]:
        """Linear in the features."""
        features = torch.tanh(batch.inputs["x"] @ params["backbone.shared.weight"].T)
        return {t: features @ params[f"head.{t}.out"] for t in tasks}

    def reads(self, task: TaskName) -> frozenset[Name]:
        """The shared layer and the task's head."""
        return frozenset({"backbone.shared.weight", f"head.{task}.out"})


def branch_episode(tasks: Sequence[TaskName], weight: float = 1.0) -> Episode:
    """Eight random samples to adapt on and eight to judge by, the same ones whatever the tasks."""

    def part(name: str) -> Part:
        draw = lambda key, *shape: torch.randn(*shape, dtype=torch.float64, generator=generator("episode", name, key))  # noqa: E731
        rows, yes = torch.arange(8), torch.ones(8, dtype=torch.bool)
        targets = {t: draw(t, 8, 1) for t in tasks}
        return Part(Batch({"x": draw("x", 8, 3)}, {}, {"x": yes}, {}, targets, dict.fromkeys(tasks, yes), rows, rows), tuple(tasks))

    return Episode(0, (part("support"),), (part("query"),), tuple(Task(t, "quadratic", 1, False) for t in tasks), weight=weight)


def _outer(inner: InnerLoop | None, episodes: Sequence[Episode], balancer: Balancer | None = None) -> dict[Name, Tensor]:
    """What one update sends to the parameters of `Branches` with four tasks."""
    model, balancer = Branches(FOUR), balancer or Sum()
    balancer.reset(FOUR)
    kinds = {t: Quadratic(task=task) for t, task in model.tasks.items()}
    engine = Engine(model=model, kinds=kinds, balancer=balancer, trainable=frozenset(model.params()), inner=inner)
    return engine.gradient(engine.signal(episodes))


def _largest(a: Mapping[Name, Tensor], b: Mapping[Name, Tensor]) -> float:
    """Largest difference of two gradients, what one lacks being 0."""
    return max((a.get(n, torch.zeros(())) - b.get(n, torch.zeros(()))).abs().max().item() for n in {*a, *b})


FOUR = ("a", "b", "c", "d")
SUBSETS = tuple(s for k in (2, 3, 4) for s in combinations(FOUR, k))


def _inclusion() -> Outcome:
    """Without inner steps the mean over all subsets of four tasks minus 7/11 of the joint gradient."""
    mean = _outer(_maml(2, steps=0), [branch_episode(s, weight=1 / len(SUBSETS)) for s in SUBSETS])
    joint = {n: 7 / 11 * g for n, g in _outer(None, [branch_episode(FOUR)]).items()}
    return _difference(_largest(mean, joint))


def _unbiased() -> Outcome:
    """Mean of the outer gradients of single subsets minus that of an update with all of them."""
    alone = [_outer(_maml(2), [branch_episode(s)]) for s in SUBSETS]
    mean = {n: sum((g.get(n, torch.zeros(())) for g in alone), torch.zeros(())) / len(alone) for n in alone[-1]}
    return _difference(_largest(mean, _outer(_maml(2), [branch_episode(s, weight=1 / len(SUBSETS)) for s in SUBSETS])))


def _single_task() -> Outcome:
    """With one task, an episode's gradient under a balancer of rows minus that of plain MAML."""
    episode = [branch_episode(("b",))]
    return _difference(_largest(_outer(_maml(2), episode, PCGrad(seed=0)), _outer(_maml(2), episode)))


def _before_only() -> Outcome:
    """All weight of the query loss before adaptation, minus the joint gradient."""
    episode = [branch_episode(FOUR)]
    return _difference(_largest(_outer(_maml(2, steps=2, loss_weights=[1.0, 0.0, 0.0]), episode), _outer(None, episode)), 0.0)


def _coupling() -> Outcome:
    """Whether the query loss of one task alone reaches the head of another that adapted with it: in second order only."""
    episode = branch_episode(("a", "b"))
    alone = replace(episode, query=tuple(replace(p, tasks=("a",)) for p in episode.query))
    reached = [f"order {order}: {'head.b.out' in _outer(_maml(order), [alone])}" for order in (1, 2)]
    return Outcome("order 1: False, order 2: True", ", ".join(reached), reached == ["order 1: False", "order 2: True"])


def _anil() -> Outcome:
    """What adapting leaves of the parameters: the very tensors, but for the episode's heads."""
    anil = ANIL(
        num_inner_steps=3, inner_lr=0.2, order=2, rates="module_task", rate_factor=1.0, loss_weights=None, clip=None, diverge=1e6,
        max_halvings=0, engine="loop",
    )  # fmt: skip
    model = Branches(FOUR)
    kinds = {t: Quadratic(task=task) for t, task in model.tasks.items()}
    engine = Engine(model=model, kinds=kinds, balancer=Sum(), trainable=frozenset(model.params()), inner=anil)
    theta = engine.adapted(engine.params(), branch_episode(("a", "b")).support, steps=3)
    changed = ", ".join(n for n, p in model.params().items() if theta[n] is not p)
    return Outcome("head.a.out, head.b.out", changed, changed == "head.a.out, head.b.out")


def _meta_sgd() -> Tensor:
    """Learned rates on two quadratics of curvature 1 and 4, each with a parameter of its own."""
    inner = MetaSGD(
        num_inner_steps=1, inner_lr=0.1, scope=["backbone"], order=2, rate_factor=1.0, loss_weights=None, clip=None, diverge=1e6,
        max_halvings=0, engine="loop",
    )  # fmt: skip
    curvatures = torch.tensor(list(CURVATURES.values()), dtype=torch.float64)
    theta = {"backbone.theta": torch.full((2,), 0.5, dtype=torch.float64, requires_grad=True)}
    inner.start(theta, {"": frozenset(theta)})
    phi, (rate,) = theta | inner.params(), inner.params()
    objective = lambda params: {"": (curvatures * (params["backbone.theta"] - 1).square() / 2).sum()}  # noqa: E731
    for _ in range(300):
        reached = inner.adapt(objective, phi, frozenset(theta), steps=1, differentiable=True)
        gradient = inner.outer(phi, reached, objective(reached[-1].params)[""], [rate], keep=False)[rate]
        with torch.no_grad():
            phi[rate] -= gradient
    return 0.1 * phi[rate].detach().exp()


def _transference() -> list[float]:
    """What a step of .1 on (theta - 1)^2 / 2 from 0 removes of losses with other centres: the same, the opposite, further on."""
    centres = {"one": 1.0, "same": 1.0, "opposed": -1.0, "further": 2.0}
    model = Point(tuple(centres), start=0.0)
    kinds = {t: Quadratic(task=task) for t, task in model.tasks.items()}
    engine = Engine(model=model, kinds=kinds, balancer=Sum(), trainable=frozenset(model.params()))
    found = Transference()
    found.measure(engine, quadratic_episodes(centres, support=False, together=True), 0.1)
    return [found.matrix["one"][t] for t in ("same", "opposed", "further")]


_TWO = "two tasks 1/2 a (theta - c)^2, a = (1, 4), c = (0, 1), inner rate .2"

CHECKS: tuple[Check, ...] = (
    Check("MAML", f"{_TWO}; one inner step, second order", "SEED A2", _number(0.2, lambda: descend(_maml(2), Sum()))),
    Check("FOMAML", f"{_TWO}; one inner step, first order", "SEED A2", _number(0.5, lambda: descend(_maml(1), Sum()))),
    Check("joint training", f"{_TWO}; no inner step", "SEED A2", _number(0.8, lambda: descend(None, Sum()))),
    Check("Reptile, 1 step", _TWO, "SEED A2", _number(0.8, lambda: descend(_reptile(1), Sum()))),
    Check("Reptile, 2 steps", _TWO, "SEED A2", _number(8 / 11, lambda: descend(_reptile(2), Sum()))),
    Check("MAML, 2 steps", f"{_TWO}; second order", "SEED A2", _number(0.0153846, lambda: descend(_maml(2, steps=2), Sum(), updates=600))),
    Check("MAML, outer gradient", "log cosh losses; against finite differences", "SEED 2.1", _finite_difference),
    Check("K = 0 is MTL", "outer gradient without inner steps minus the gradient of the sum", "SEED 2.1, F9", _k_zero_is_mtl),
    Check("loss before adaptation only", "MAML with loss weights (1, 0, 0) minus joint training", "SEED 2.1", _before_only),
    Check("inclusion of a task", "all 11 subsets of 4 tasks without inner steps minus 7/11 of the joint gradient", "SEED 2.1", _inclusion),
    Check("subsets are unbiased", "mean of single subsets minus the gradient of all 11", "SEED 2.1", _unbiased),
    Check("one task", "mtl_meta with one task minus meta", "ARCHITECTURE 2", _single_task),
    Check("coupling of heads", "the loss of task a reaches the head of task b", "ARCHITECTURE 8", _coupling),
    Check("ANIL", "what inner steps on heads change", "SEED 2.1", _anil),
    Check("Meta-SGD", "learned rates of curvatures (1, 4): one over each", "SEED A7", _numbers([1.0, 0.25], _meta_sgd, 1e-4)),
    Check("transference", "a step on one quadratic: its twin, its opposite, one further on", "SEED R4",
          _numbers([0.19, -0.21, 0.0975], lambda: torch.tensor(_transference(), dtype=torch.float64), 1e-9)),
    Check(
        "static weights",
        "two quadratics, weights (3, 0.5): sum w a c / sum w a",
        "SEED L2",
        _number(0.4, lambda: descend(None, Static(weights={"near": 3.0, "far": 0.5}), together=True)),
    ),
    Check(
        "uncertainty", "one loss of 2: s rests at ln 2", "SEED L3", _numbers([math.log(2)], lambda: _uncertainty([{"a": 2.0}]))
    ),
    Check(
        "uncertainty, half present",
        "task b is absent from every other step and still rests at ln 2; a loss of 1 rests at 0",
        "SEED L3",
        _numbers([0.0, math.log(2)], lambda: _uncertainty([{"a": 1.0, "b": 2.0}, {"a": 1.0}])),
    ),
    Check("GradNorm", "gradient norms 1 and 100, equal rates", "SEED L4", _numbers([1.9802, 0.0198], _gradnorm, 0.01)),
    Check("PCGrad", "(1, 0) and (-1, 1): projected (.5, .5) and (0, 1)", "SEED A.3",
          _numbers([0.5, 1.5], lambda: _combined(PCGrad(seed=0), _matrix((1, 0), (-1, 1))))),
    Check("PCGrad, no conflict", "(1, 0) and (1, 1) stay as they are", "SEED L5",
          _numbers([2.0, 1.0], lambda: _combined(PCGrad(seed=0), _matrix((1, 0), (1, 1))))),
    Check("MGDA", "(1, 0) and (0, 2): weight .8, the shortest point of the hull", "SEED L7",
          _numbers([0.8, 0.4], lambda: _combined(MGDA(), _matrix((1, 0), (0, 2))))),
)  # fmt: skip
