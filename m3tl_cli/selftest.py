"""Known answers: numbers that the literature or plain algebra fixes, computed by the real engine, inner loops and balancers.

`m3tl selftest` runs them in seconds on the CPU, in float64 and without data; the test suite runs the same list.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from m3tl_cli.balancing.base import Balancer
from m3tl_cli.balancing.gradnorm import GradNorm
from m3tl_cli.balancing.mgda import MGDA
from m3tl_cli.balancing.pcgrad import PCGrad
from m3tl_cli.balancing.static import Static
from m3tl_cli.balancing.sum import Sum
from m3tl_cli.balancing.uncertainty import Uncertainty
from m3tl_cli.core.contracts import Batch, Episode, Name, Params, Part, Task, TaskName
from m3tl_cli.inner.base import InnerLoop
from m3tl_cli.inner.maml import MAML
from m3tl_cli.inner.reptile import Reptile
from m3tl_cli.paradigm.engine import Engine
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


def descend(
    inner: InnerLoop | None, steps: int, balancer: Balancer, *, together: bool = False, updates: int = 300, lr: float = 0.1
) -> float:
    """Where gradient descent on the two quadratics ends under a setting of the engine."""
    model = Point(tuple(CENTRES))
    kinds = {t: Quadratic(task=task, curvature=CURVATURES[t]) for t, task in model.tasks.items()}
    balancer.reset(tuple(CENTRES))
    engine = Engine(
        model=model,
        kinds=kinds,
        balancer=balancer,
        trainable=frozenset(model.params()),
        inner=inner,
        inner_steps=steps,
        scope=frozenset({"backbone"}),
    )
    episodes = quadratic_episodes(CENTRES, support=steps > 0, together=together)
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


def _maml(order: int) -> MAML:
    return MAML(inner_lr=0.2, order=2 if order == 2 else 1, clip=None, diverge=1e6, max_halvings=0)


def _reptile() -> Reptile:
    return Reptile(inner_lr=0.2, clip=None, diverge=1e6, max_halvings=0)


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
    inner, found = _maml(2), 0.0
    for task, centre in CENTRES.items():
        a = CURVATURES[task]
        objective = lambda params, a=a, c=centre: a * torch.log(torch.cosh(params["theta"] - c))  # noqa: E731
        adapted = inner.adapt(objective, {"theta": theta}, lambda _step: frozenset({"theta"}), steps=1, differentiable=True)
        found += inner.outer({"theta": theta}, adapted, objective(adapted), ["theta"], keep=False)["theta"].item()
    expected = (query(0.3 + 1e-6) - query(0.3 - 1e-6)) / 2e-6
    return Outcome(f"{expected:.7f}", f"{found:.7f}", abs(expected - found) < 1e-8)


def _k_zero_is_mtl() -> Outcome:
    """Outer gradient with no inner step over all tasks minus the gradient of the summed losses."""
    gradients = []
    for inner, steps in ((_maml(2), 0), (None, 0)):
        model = Point(tuple(CENTRES))
        kinds = {t: Quadratic(task=task, curvature=CURVATURES[t]) for t, task in model.tasks.items()}
        engine = Engine(
            model=model, kinds=kinds, balancer=Sum(), trainable=frozenset(model.params()), inner=inner, inner_steps=steps,
            scope=frozenset({"backbone"}),
        )  # fmt: skip
        episodes = quadratic_episodes(CENTRES, support=inner is not None, together=True)
        gradients.append(engine.gradient(engine.signal(episodes))["backbone.theta"].item())
    difference = abs(gradients[0] - gradients[1])
    return Outcome("0", f"{difference:g}", difference == 0.0)


_TWO = "two tasks 1/2 a (theta - c)^2, a = (1, 4), c = (0, 1), inner rate .2"

CHECKS: tuple[Check, ...] = (
    Check("MAML", f"{_TWO}; one inner step, second order", "SEED A2", _number(0.2, lambda: descend(_maml(2), 1, Sum()))),
    Check("FOMAML", f"{_TWO}; one inner step, first order", "SEED A2", _number(0.5, lambda: descend(_maml(1), 1, Sum()))),
    Check("joint training", f"{_TWO}; no inner step", "SEED A2", _number(0.8, lambda: descend(None, 0, Sum()))),
    Check("Reptile, 1 step", _TWO, "SEED A2", _number(0.8, lambda: descend(_reptile(), 1, Sum()))),
    Check("Reptile, 2 steps", _TWO, "SEED A2", _number(8 / 11, lambda: descend(_reptile(), 2, Sum()))),
    Check("MAML, 2 steps", f"{_TWO}; second order", "SEED A2", _number(0.0153846, lambda: descend(_maml(2), 2, Sum(), updates=600))),
    Check("MAML, outer gradient", "log cosh losses; against finite differences", "SEED 2.1", _finite_difference),
    Check("K = 0 is MTL", "outer gradient without inner steps minus the gradient of the sum", "SEED 2.1, F9", _k_zero_is_mtl),
    Check(
        "static weights",
        "two quadratics, weights (3, 0.5): sum w a c / sum w a",
        "SEED L2",
        _number(0.4, lambda: descend(None, 0, Static(weights={"near": 3.0, "far": 0.5}), together=True)),
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
