from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from m3tl_cli.core.contracts import Task, generator
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.task.binary import Binary

MINE = Task("mine", "binary", num_outputs=1, dense=False, classes=("earth", "mine"))
ALL = torch.ones(4, dtype=torch.bool)


def kind(pos_weight: float = 1.0) -> Binary:
    return Binary(task=MINE, pos_weight=pos_weight)


def measured(output: list[float], target: list[int]) -> dict[str, float]:
    meter = kind().meter()
    meter.update(torch.tensor(output)[:, None], torch.tensor(target), torch.ones(len(target), dtype=torch.bool))
    return meter.compute()


def test_the_loss_is_computed_as_by_hand() -> None:
    output = torch.tensor([[math.log(3.0)], [0.0], [9.0], [-math.log(4.0)]], dtype=torch.float64)
    target = torch.tensor([1, 0, -1, 1])
    expected = (-2 * math.log(3 / 4) - math.log(1 / 2) - 2 * math.log(1 / 5)) / 3
    assert kind(2.0).loss(output, target, ALL).item() == pytest.approx(expected, rel=1e-14)


def test_the_loss_stays_finite_at_any_logit() -> None:
    loss = kind().loss(torch.tensor([[1e4], [-1e4]]), torch.tensor([0, 1]), ALL[:2])
    assert loss.item() == pytest.approx(1e4)


def test_metrics_are_computed_as_by_hand() -> None:
    # Pairs of yes and no: 2 > -1 and 2 > 1 are right, -0.5 > -1 is, -0.5 > 1 is not. By rank: yes, no, yes, no.
    values = measured([2.0, -1.0, 1.0, -0.5], [1, 0, 0, 1])
    assert values == pytest.approx({"auroc": 3 / 4, "average_precision": (1 + 2 / 3) / 2, "accuracy": 2 / 4})


def test_ties_count_half_and_logits_far_from_0_are_still_in_order() -> None:
    assert measured([3.0, 3.0, 3.0, 1.0], [1, 0, 0, 0])["auroc"] == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert measured([200.0, 100.0, 300.0], [1, 0, 1])["auroc"] == 1.0, "their probabilities in float32 are all 1"


def test_metrics_agree_with_scikit_learn() -> None:
    random = generator("binary")
    output = torch.randn(200, 1, generator=random).round(decimals=1)
    target = (torch.rand(200, generator=random) < 0.1 + 0.2 * (output[:, 0] > 0)).long()
    meter = kind().meter()
    for rows in range(0, 200, 33):
        meter.update(output[rows : rows + 33], target[rows : rows + 33], torch.ones(len(output[rows : rows + 33]), dtype=torch.bool))
    found = meter.compute()
    assert found["auroc"] == pytest.approx(roc_auc_score(target, output[:, 0]), abs=1e-6)
    assert found["average_precision"] == pytest.approx(average_precision_score(target, output[:, 0]), abs=1e-6)


@pytest.mark.parametrize("target", [[0, 0, 0], [1, 1, 1]])
def test_a_set_of_one_class_scores_a_half_and_is_counted(target: list[int]) -> None:
    values = measured([1.0, 2.0, 3.0], target)
    assert values["auroc"] == 0.5
    assert math.isnan(values["average_precision"]) == (not any(target))


def test_the_trivial_predictor_orders_nothing() -> None:
    trivial = kind().trivial(torch.tensor([1, 0, 0, 1]), torch.tensor([True, True, True, False]))
    assert trivial.item() == pytest.approx(math.log(2 / 3))  # one more of each: 2 yes, 3 no
    meter = kind().meter()
    meter.update(trivial, torch.tensor([1, 0, 0, 1]), ALL)
    assert meter.compute()["auroc"] == 0.5


def test_a_prediction_is_drawn_with_its_probability_and_a_label_by_name() -> None:
    assert kind().draw(kind().decode(torch.tensor([[math.log(4.0)]]))[0]) == "mine (0.80)"
    assert kind().draw(torch.tensor(0)) == "earth"
    assert kind().draw(torch.tensor(-1)) == "no label"


def test_more_than_one_output_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"`num_outputs` of a binary task must be 1; found 2"):
        Binary(task=Task("a", "multiclass", num_outputs=2, dense=False), pos_weight=1.0)
