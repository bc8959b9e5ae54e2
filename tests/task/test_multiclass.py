from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from m3tl_cli.core.errors import ConfigError
from m3tl_cli.task.multiclass import Multiclass
from tests.task.cases import COUNT, make

ALL = torch.ones(2, dtype=torch.bool)


def test_loss_by_hand() -> None:
    # Uniform logits: ln 4. Logits (ln 3, 0, 0, 0): p = 1/2, so ln 2.
    output = torch.tensor([[0.0, 0, 0, 0], [math.log(3), 0, 0, 0]], dtype=torch.float64)
    loss = Multiclass(task=COUNT, label_smoothing=0.0).loss(output, torch.tensor([2, 0]), ALL)
    assert loss.item() == pytest.approx((math.log(4) + math.log(2)) / 2, rel=1e-15)


def test_smoothed_loss_by_hand() -> None:
    # Target .7 + .3 / 4 on class 0 and .3 / 4 on each other: .775 ln 2 + .225 ln 6.
    output = torch.tensor([[math.log(3), 0, 0, 0]], dtype=torch.float64)
    loss = Multiclass(task=COUNT, label_smoothing=0.3).loss(output, torch.tensor([0]), ALL[:1])
    assert loss.item() == pytest.approx(0.775 * math.log(2) + 0.225 * math.log(6), rel=1e-14)


def test_metrics_agree_with_numpy() -> None:
    case = make("multiclass", num_samples=50)
    meter = case.kind.meter()
    meter.update(case.output, case.target, case.labelled)
    predicted = case.output[case.labelled].argmax(1).numpy()
    truth = case.target[case.labelled].numpy()
    f1 = [2 * np.sum((predicted == c) & (truth == c)) / (np.sum(predicted == c) + np.sum(truth == c)) for c in range(4)]
    assert meter.compute() == pytest.approx({"accuracy": np.mean(predicted == truth), "macro_f1": np.mean(f1)}, rel=1e-6)


def test_macro_f1_leaves_out_a_class_that_never_occurs() -> None:
    meter = Multiclass(task=COUNT, label_smoothing=0.0).meter()
    meter.update(torch.eye(4)[[0, 1, 1]], torch.tensor([0, 1, 0]), torch.ones(3, dtype=torch.bool))
    assert meter.compute() == pytest.approx({"accuracy": 2 / 3, "macro_f1": 2 / 3})  # F1 2/3 and 2/3, two classes absent


def test_trivial_predicts_the_majority_class() -> None:
    kind = Multiclass(task=COUNT, label_smoothing=0.0)
    target = torch.tensor([3, 1, 3, 2, 2, 2])
    found = kind.trivial(target, torch.tensor([True, True, True, True, False, False]))
    torch.testing.assert_close(found.exp(), torch.tensor([[1 / 8, 2 / 8, 2 / 8, 3 / 8]]))
    assert kind.decode(found).tolist() == [3]


def test_minus_one_is_no_label() -> None:
    kind = Multiclass(task=COUNT, label_smoothing=0.0)
    assert kind.loss(torch.zeros(2, 4), torch.tensor([-1, 0]), ALL).item() == pytest.approx(math.log(4))
    assert kind.draw(torch.tensor(-1)) == "no label"
    assert kind.draw(torch.tensor(2)) == "two"


def test_classes_must_match_the_outputs() -> None:
    with pytest.raises(ConfigError, match="one for each of the 4 outputs; found 2"):
        Multiclass(task=replace(COUNT, classes=("a", "b")), label_smoothing=0.0)


def test_the_prior_is_the_logarithm_of_the_frequencies_with_one_more_of_each() -> None:
    kind = make("multiclass").kind
    found = kind.prior(torch.tensor([0, 0, 2, -1, 3]), torch.tensor([True, True, True, True, False]))
    assert found.exp().tolist() == pytest.approx([3 / 7, 1 / 7, 2 / 7, 1 / 7])
