"""Trees on known tables: values by hand, scikit-learn's own numbers, and what is left where there is nothing to fit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingRegressor
from torch import Tensor

from m3tl_cli.core.contracts import Task
from m3tl_cli.estimator.base import Labels, Rows
from m3tl_cli.estimator.hist_gradient_boosting import HistGradientBoosting
from m3tl_cli.task.binary import Binary
from m3tl_cli.task.multiclass import Multiclass

NAN = math.nan
# One round that goes all the way, without regularisation: every leaf is exact.
NUMBERS: dict[str, Any] = {"learning_rate": 1.0, "max_iter": 1, "max_leaf_nodes": 2, "min_samples_leaf": 1, "l2_regularization": 0.0}
USUAL: dict[str, Any] = {"learning_rate": 0.1, "max_iter": 30, "max_leaf_nodes": 6, "min_samples_leaf": 5, "l2_regularization": 1.0}


def boosting(**changes: Any) -> HistGradientBoosting:
    return HistGradientBoosting(**(NUMBERS | changes), seed=0)


def numbers(*columns: list[float]) -> Labels:
    """Standardised values, a list per output, NaN where unknown; the prior is their mean."""
    y = torch.tensor(columns, dtype=torch.float64).T
    known = ~y.isnan()
    return Labels(torch.where(known, y, 0.0), known, y.nanmean(0), "identity")


def binary(*target: int) -> Labels:
    kind, y = Binary(task=Task("mine", "binary", 1, dense=False), pos_weight=1.0), torch.tensor(target)
    return Labels(*kind.ideal_output(y, y >= 0), kind.prior(y, y >= 0), "sigmoid")


def classes(number: int, *target: int) -> Labels:
    task = Task("diet", "multiclass", number, dense=False, classes=tuple("abcdef"[:number]))
    kind, y = Multiclass(task=task, label_smoothing=0.0), torch.tensor(target)
    return Labels(*kind.ideal_output(y, y >= 0), kind.prior(y, y >= 0), "softmax")


def column(*values: float) -> Rows:
    return np.array(values)[:, None]


def last(estimator: HistGradientBoosting, x: Rows, labels: Labels, at: Rows | None = None) -> Tensor:
    fitted = estimator.fit(x, labels)
    return fitted.outputs(x if at is None else at, [fitted.num_rounds])[0]


def test_a_step_of_one_column_is_learnt_exactly() -> None:
    x = np.stack([np.arange(8.0), np.array([3.0, 1, 4, 1, 5, 9, 2, 6])], 1)
    found = last(boosting(), x, numbers([-1, -1, -1, 2, 2, 2, 2, 2]))
    torch.testing.assert_close(found, torch.tensor([-1.0, -1, -1, 2, 2, 2, 2, 2])[:, None])
    torch.testing.assert_close(last(boosting(), x, numbers([-1, -1, -1, 2, 2, 2, 2, 2]), np.array([[2.4, 7], [2.6, 0]]))[:, 0],
                               torch.tensor([-1.0, 2.0]))  # fmt: skip


@pytest.mark.parametrize(("l2", "step"), [(0.0, 2.0), (1.0, 1.0)])
def test_a_leaf_of_yes_or_no_takes_newtons_step(l2: float, step: float) -> None:
    # Half are yes: from log-odds 0, four rows of a side give sum(y - p) / (sum(p (1 - p)) + l2) = 4 * .5 / (4 * .25 + l2).
    found = last(boosting(l2_regularization=l2), column(*range(8)), binary(0, 0, 0, 0, 1, 1, 1, 1))
    torch.testing.assert_close(found, torch.tensor([-step] * 4 + [step] * 4)[:, None])


def test_two_classes_say_the_same_as_yes_or_no() -> None:
    x, y = column(0, 1, 2, 3, 4, 5, 6), (0, 0, 1, 0, 1, 1, 1)
    two = last(boosting(max_iter=5), x, classes(2, *y)).softmax(1)[:, 1]
    torch.testing.assert_close(two, last(boosting(max_iter=5), x, binary(*y)).sigmoid()[:, 0])


def test_a_class_without_rows_keeps_the_priors_probability_and_the_others_share_the_rest() -> None:
    for target in ((0, 0, 0, 2, 2, 2), (0, 0, 3, 3, 2, 2)):
        found = last(boosting(max_iter=20), column(*range(6)), classes(4, *target)).exp()
        torch.testing.assert_close(found.sum(1), torch.ones(6))
        torch.testing.assert_close(found[:, 1], torch.full((6,), 1 / 10))  # (0 + 1) / (6 + 4)
        assert found.argmax(1).tolist() == list(target)


@pytest.mark.parametrize(
    ("labels", "prior"),
    [
        (numbers([0.7] * 4, [-1.0] * 4), [0.7, -1.0]),
        (binary(1, 1, 1, 1), [math.log(5 / 1)]),
        (classes(3, 2, 2, 2, 2), [math.log(1 / 7), math.log(1 / 7), math.log(5 / 7)]),
    ],
)
def test_labels_that_are_all_alike_leave_the_prior(labels: Labels, prior: list[float]) -> None:
    fitted = boosting(max_iter=9).fit(column(1, 2, 3, 4), labels)
    assert fitted.num_rounds == 0
    assert fitted.num_parameters(9) == 0
    for found in fitted.outputs(column(1, 9), [0, 5]):
        torch.testing.assert_close(found, torch.tensor([prior, prior]))


def test_rows_without_a_known_cell_and_no_rows_at_all_leave_the_prior() -> None:
    fitted = boosting().fit(np.full((4, 2), NAN), numbers([0, 1, 2, 3]))
    torch.testing.assert_close(fitted.outputs(np.ones((1, 2)), [1])[0], torch.tensor([[1.5]]))
    empty = Labels(torch.zeros(0, 1), torch.zeros(0, 1, dtype=torch.bool), torch.tensor([0.3]), "sigmoid")
    torch.testing.assert_close(boosting().fit(np.zeros((0, 2)), empty).outputs(np.ones((1, 2)), [1])[0], torch.tensor([[0.3]]))


def test_a_missing_cell_can_be_split_on() -> None:
    x = column(5, NAN, 5, NAN, 6, NAN)
    found = last(boosting(max_iter=60, learning_rate=0.5), x, numbers([0, 1, 0, 1, 0, 1]))
    torch.testing.assert_close(found[:, 0], torch.tensor([0.0, 1, 0, 1, 0, 1]))


def test_a_column_that_nothing_is_known_of_is_not_read() -> None:
    x = np.stack([np.arange(6.0), np.full(6, NAN)], 1)
    found = last(boosting(), x, numbers([0, 0, 0, 1, 1, 1]), np.array([[0.0, 7.0], [5.0, -7.0]]))
    torch.testing.assert_close(found[:, 0], torch.tensor([0.0, 1.0]))


def test_every_output_has_trees_of_its_own_on_the_rows_that_know_it() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(40, 3))
    y = np.stack([x[:, 0] + random.normal(size=40), np.where(np.arange(40) < 25, x[:, 1] ** 2, NAN), np.full(40, 0.4)])
    found = last(HistGradientBoosting(**USUAL, seed=0), x, numbers(*y.tolist()))
    for o, rows in ((0, 40), (1, 25)):
        reference = HistGradientBoostingRegressor(**USUAL, early_stopping=False).fit(x[:rows], y[o, :rows])
        np.testing.assert_allclose(found[:, o].numpy(), reference.predict(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[:, 2], torch.full((40,), 0.4))


def test_outputs_after_so_many_rounds_are_those_of_so_many_trees() -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(50, 4))
    labels = numbers((x[:, 0] * x[:, 1]).tolist())
    fitted = HistGradientBoosting(**USUAL, seed=0).fit(x, labels)
    at = random.normal(size=(7, 4))
    asked = [0, 3, 30, 99, 3]
    found = fitted.outputs(at, asked)
    torch.testing.assert_close(found[0], labels.prior_O.float().expand(7, 1))
    for rounds, outputs in zip(asked[1:], found[1:], strict=True):
        fewer = HistGradientBoosting(**(USUAL | {"max_iter": min(rounds, 30)}), seed=0).fit(x, labels)
        torch.testing.assert_close(outputs, fewer.outputs(at, [30])[0], rtol=0, atol=0)
    assert all(o.dtype == torch.float32 and o.shape == (7, 1) for o in found)
    assert fitted.outputs(np.zeros((0, 4)), [0, 3])[1].shape == (0, 1)


def test_parameters_are_the_leaves_of_the_trees_that_are_used() -> None:
    fitted = boosting(max_iter=5, learning_rate=0.5).fit(column(*range(8)), numbers([0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 1, 1]))
    assert [fitted.num_parameters(r) for r in (0, 1, 3, 9)] == [0, 4, 12, 20]  # two outputs, trees of two leaves


def test_the_threads_of_the_process_stay_as_they_are() -> None:
    before = torch.get_num_threads()
    last(boosting(), column(*range(6)), numbers([0, 0, 0, 1, 1, 1]))
    assert torch.get_num_threads() == before


def test_a_seed_of_any_size_is_taken() -> None:
    x, labels = column(*range(6)), binary(0, 1, 0, 1, 1, 1)
    huge = HistGradientBoosting(**NUMBERS, seed=2**62 + 1)
    torch.testing.assert_close(last(huge, x, labels), last(boosting(), x, labels))
