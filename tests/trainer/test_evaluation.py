"""Scores beside the trivial predictor's."""

from __future__ import annotations

import pytest
import torch

from m3tl_cli.selftest import Quadratic
from m3tl_cli.trainer import evaluation
from m3tl_cli.trainer.runtime import Runtime
from tests.toys import TablePool, regression
from tests.trainer.test_shape import a_model

TASKS = ("a", "b")


def test_batches_of_any_size_give_the_same_scores() -> None:
    model, pool = a_model(TASKS), TablePool(TASKS, size=50)
    kinds = {t: Quadratic(task=regression(t)) for t in TASKS}
    runtime = Runtime(device="cpu", precision=32, threads=None)
    seen: list[tuple[int, int]] = []
    whole = evaluation.evaluate(model, kinds, pool, runtime, 50)
    parts = evaluation.evaluate(model, kinds, pool, runtime, 7, advanced=lambda n, total: seen.append((n, total)))
    assert seen[-1] == (50, 50)
    for task in TASKS:
        assert parts[task]["mse"] == pytest.approx(whole[task]["mse"], rel=1e-5)


def test_the_trivial_predictor_sees_training_labels_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = TablePool(TASKS, size=100)
    pool.targets["a"] = torch.arange(100.0)[:, None]  # in order, as domains would be
    monkeypatch.setattr(evaluation, "TRIVIAL_SAMPLES", 11)
    kinds = {t: Quadratic(task=regression(t)) for t in TASKS}
    outputs = evaluation.trivial_outputs(kinds, pool, 4)
    assert outputs["a"].item() == pytest.approx(49.5, abs=1.0)


def test_results_hold_value_and_trivial_of_every_metric() -> None:
    model, pool = a_model(TASKS), TablePool(TASKS, size=20)
    kinds = {t: Quadratic(task=regression(t)) for t in TASKS}
    values = evaluation.evaluate(model, kinds, pool, Runtime(device="cpu", precision=32, threads=None), 20)
    constant = evaluation.evaluate_constant(kinds, evaluation.trivial_outputs(kinds, pool, 20), pool, 20)
    results = evaluation.task_results(kinds, values, constant)
    score = results["a"].scores[results["a"].primary]
    assert score.value == values["a"]["mse"]
    assert score.trivial == pytest.approx(pool.targets["a"].var(correction=0).item(), rel=1e-5)
