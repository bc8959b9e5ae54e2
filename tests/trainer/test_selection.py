"""Early stopping and best parameters, per component."""

from __future__ import annotations

import math

import torch

from m3tl_cli.sharing.hard import Hard
from m3tl_cli.sharing.separate import Separate
from m3tl_cli.trainer.selection import Selection
from tests.toys import states_equal
from tests.trainer.test_shape import a_model


def test_each_component_keeps_its_own_best() -> None:
    model = a_model(("a", "b"), Separate)
    selection = Selection(model, ("a", "b"), patience=None)
    params = model.params()
    first = {n: p.detach().clone() for n, p in params.items()}
    selection.judge(1, {"a": 0.9, "b": 0.1}, params)
    with torch.no_grad():
        for p in params.values():
            p.add_(1.0)
    selection.judge(2, {"a": 0.5, "b": 0.6}, params)
    with torch.no_grad():
        for p in params.values():
            p.add_(1.0)
    selection.restore_best(params)
    for name, param in params.items():
        expected = first[name] if name in model.reads("a") else first[name] + 1.0
        assert torch.equal(param, expected), name


def test_a_task_without_a_score_does_not_decide() -> None:
    model = a_model(("a", "b"), Hard)
    selection = Selection(model, ("a", "b"), patience=1)
    selection.judge(1, {"a": 0.1, "b": math.nan}, model.params())
    stopped = selection.judge(2, {"a": 0.2, "b": math.nan}, model.params())
    assert not stopped
    assert selection.components[0].best_step == 2


def test_patience_counts_validations_since_the_best_and_survives_its_state() -> None:
    model = a_model(("a", "b"), Separate)
    selection = Selection(model, ("a", "b"), patience=2)
    selection.judge(1, {"a": 1.0, "b": 0.0}, model.params())
    assert not selection.judge(2, {"a": 0.5, "b": 1.0}, model.params())
    copy = Selection(model, ("a", "b"), patience=2)
    copy.load_state_dict(selection.state_dict())
    assert [c.tasks for c in copy.judge(3, {"a": 0.5, "b": 2.0}, model.params())] == [("a",)]
    assert copy.active == ("b",)
    assert not states_equal(copy.state_dict(), selection.state_dict())
