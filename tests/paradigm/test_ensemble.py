"""What a task predicts is the mean of what its members predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor

from m3tl_cli.core.contracts import Batch, Name, Params, Task, TaskName, generator
from m3tl_cli.core.members import members, with_members
from m3tl_cli.paradigm.ensemble import Ensemble
from m3tl_cli.sharing.separate import Separate
from m3tl_cli.task.regression import Regression
from tests.toys import TablePool, a_batch, regression
from tests.trainer.test_shape import a_model

TASK = Task("a", "regression", num_outputs=1, dense=False, mean=(10.0,), std=(2.0,))


def kind(task: Task) -> Regression:
    return Regression(task=task, loss="mse", delta=1.0)


class Fixed:
    """A model that puts out what it was given, whatever it reads."""

    def __init__(self, outputs: Mapping[TaskName, Tensor], tasks: Sequence[Task]) -> None:
        self.given = dict(outputs)
        self.tasks = {t.name: t for t in tasks}

    def params(self) -> dict[Name, Tensor]:
        return {f"head.{t}.bias": torch.zeros(()) for t in self.tasks}

    def reads(self, task: TaskName) -> frozenset[Name]:
        return frozenset({f"head.{task}.bias"})

    def outputs(self, params: Params, batch: Batch, tasks: Sequence[TaskName]) -> dict[TaskName, Tensor]:
        return {t: self.given[t] for t in tasks}


def test_the_mean_of_noisy_predictors_has_the_mth_part_of_their_squared_error() -> None:
    """Planted: each of M members is the truth and independent noise of variance 1, in units of the target's deviation (2)."""
    number, rows = 4, 20_000
    truth = torch.randn(rows, 1, generator=generator("truth"), dtype=torch.float64)
    tasks = with_members([TASK], number)
    noisy = {t.name: truth + torch.randn(rows, 1, generator=generator("noise", t.name), dtype=torch.float64) for t in tasks}
    ensemble = Ensemble(Fixed(noisy, tasks), {"a": kind(TASK)})
    batch = a_batch({"a": truth * 2 + 10}, torch.zeros(rows, 6))

    def rmse(output: Tensor) -> float:
        meter = kind(TASK).meter()
        meter.update(output, batch.targets["a"], batch.labelled["a"])
        return meter.compute()["rmse"]

    alone = [rmse(output) for output in noisy.values()]
    together = rmse(ensemble.outputs({}, batch, ("a",))["a"])
    assert all(error == pytest.approx(2.0, rel=0.03) for error in alone)
    assert together == pytest.approx(2.0 / number**0.5, rel=0.03)


def test_a_task_alone_is_answered_by_the_models_own_tensors() -> None:
    model = a_model(("a", "b"), Separate)
    batch = TablePool(("a", "b"), size=8).read(torch.arange(8))
    ensemble = Ensemble(model, {})
    found, plain = (m.outputs(m.params(), batch, ("b", "a")) for m in (ensemble, model))
    assert list(found) == ["b", "a"]
    assert all(torch.equal(found[t], plain[t]) for t in found)
    assert ensemble.params() is model.params(), "which the model is fastest with"


def test_members_are_networks_of_their_own_and_only_tasks_are_asked_for() -> None:
    model = a_model((), Separate)
    tasks = with_members([regression("a"), regression("b")], 2)
    model.start(tasks)
    batch = TablePool(("a", "b"), size=8).read(torch.arange(8))
    ensemble = Ensemble(model, {t: kind(regression(t)) for t in "ab"})
    outputs = model.outputs(model.params(), batch, [t.name for t in tasks])
    assert not torch.equal(outputs["a"], outputs["a__2"]), "another initialisation"
    assert torch.equal(ensemble.outputs(model.params(), batch, ("a",))["a"], (outputs["a"] + outputs["a__2"]) / 2)
    assert list(ensemble.tasks) == ["a", "b"]
    assert ensemble.reads("a") == model.reads("a") | model.reads("a__2")
    assert not model.reads("a") & model.reads("a__2")
    assert members(model.tasks.values()) == {"a": ("a", "a__2"), "b": ("b", "b__2")}
