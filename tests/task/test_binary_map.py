from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from m3tl_cli.core.contracts import generator
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.task.binary_map import BinaryMap
from m3tl_cli.task.palette import UNLABELLED
from tests.task.cases import OUTLINES, make

KIND = BinaryMap(task=OUTLINES, pos_weight=1.0, threshold=0.5)
YES = torch.tensor([True])


def average_precision(truth: np.ndarray, score: np.ndarray) -> float:
    """Precision at every yes, from the highest score down, averaged; no two scores alike."""
    ordered = truth[np.argsort(-score)]
    precision = np.cumsum(ordered) / np.arange(1, len(ordered) + 1)
    return float(precision[ordered == 1].mean())


def test_loss_by_hand_leaves_out_pixels_without_label() -> None:
    # Probabilities of yes 1/2, 3/4 and 3/4, told yes, no and nothing.
    output = torch.tensor([0.0, math.log(3), math.log(3)], dtype=torch.float64).reshape(1, 1, 1, 3)
    target = torch.tensor([[[1, 0, -1]]])
    assert KIND.loss(output, target, YES).item() == pytest.approx((math.log(2) + math.log(4)) / 2, rel=1e-15)
    heavy = BinaryMap(task=OUTLINES, pos_weight=5.0, threshold=0.5)
    assert heavy.loss(output, target, YES).item() == pytest.approx((5 * math.log(2) + math.log(4)) / 2, rel=1e-15)


def test_loss_is_that_of_torch_and_finite_at_any_logit() -> None:
    case = make("binary_map", num_samples=20)
    known = case.labelled[:, None, None] & (case.target >= 0)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        case.output[:, 0][known], case.target[known].double(), pos_weight=torch.tensor(3.0, dtype=torch.float64)
    )
    assert case.kind.loss(case.output, case.target, case.labelled).item() == pytest.approx(expected.item(), rel=1e-14)
    far = torch.tensor([1e4, -1e4]).reshape(1, 1, 1, 2)
    assert KIND.loss(far, torch.tensor([[[0, 1]]]), YES).item() == 1e4
    assert KIND.loss(far, torch.tensor([[[1, 0]]]), YES).item() == 0


def test_metrics_agree_with_numpy() -> None:
    case = make("binary_map", num_samples=50)
    meter = case.kind.meter()
    meter.update(case.output, case.target, case.labelled)
    logits, truth = case.output[:, 0][case.labelled].numpy(), case.target[case.labelled].numpy()
    logits, truth = logits[truth >= 0], truth[truth >= 0]
    called = logits > math.log(0.4 / 0.6)
    expected = {
        "average_precision": average_precision(truth, logits),
        "iou": np.sum(called & (truth == 1)) / np.sum(called | (truth == 1)),
        "f1": 2 / (1 / np.mean(truth[called] == 1) + 1 / np.mean(called[truth == 1])),
    }
    assert meter.compute() == pytest.approx(expected, rel=1e-6)


def test_average_precision_by_hand() -> None:
    # In order: yes, no, yes, no. Precision 1 at half of the recall, 2/3 at the other half.
    meter = KIND.meter()
    meter.update(torch.tensor([-1.0, -4.0, -2.0, -3.0]).reshape(1, 1, 2, 2), torch.tensor([[[1, 0], [0, 1]]]), YES)
    assert meter.compute() == pytest.approx({"average_precision": (1 + 2 / 3) / 2, "iou": 0.0, "f1": 0.0})


def test_average_precision_does_not_depend_on_how_outputs_fall_into_batches() -> None:
    # All logits of the first batch lie in [0, 1] and could be taken for probabilities; those of the second do not.
    random = generator("batches")
    output = torch.cat([torch.rand(1, 1, 3, 4, generator=random), 6 * torch.rand(1, 1, 3, 4, generator=random) - 3])
    target = (torch.rand(2, 3, 4, generator=random) < 0.4).long()
    labelled = torch.ones(2, dtype=torch.bool)
    apart = KIND.meter()
    for row in (0, 1):
        apart.update(output[row : row + 1], target[row : row + 1], labelled[:1])
    expected = average_precision(target.flatten().numpy(), output.flatten().numpy())
    assert apart.compute()["average_precision"] == pytest.approx(expected, rel=1e-6)


def test_labels_without_a_yes_leave_nothing_to_recall() -> None:
    meter = KIND.meter()
    meter.update(torch.full((1, 1, 1, 2), -1.0), torch.zeros(1, 1, 2, dtype=torch.int64), YES)
    assert all(math.isnan(value) for value in meter.compute().values())
    meter.update(torch.full((1, 1, 1, 2), 1.0), torch.zeros(1, 1, 2, dtype=torch.int64), YES)
    values = meter.compute()
    assert math.isnan(values["average_precision"])
    assert values["iou"] == values["f1"] == 0


def test_trivial_is_the_share_at_each_position_and_elsewhere_that_of_all_pixels() -> None:
    target = torch.tensor([[[1, 0, -1]], [[1, 1, -1]], [[0, 0, -1]], [[1, 0, -1]], [[0, 1, 1]]])
    labelled = torch.tensor([True, True, True, True, False])
    shares = KIND.decode(KIND.trivial(target, labelled))
    assert shares.flatten().tolist() == pytest.approx([3 / 4, 1 / 4, 4 / 8])


def test_drawing_is_dark_for_no_bright_for_yes_and_grey_without_label() -> None:
    told = KIND.draw(torch.tensor([[0, 1, -1]]))
    predicted = KIND.draw(torch.tensor([[0.0, 1.0, 0.5]]))
    assert not isinstance(told, str)
    assert not isinstance(predicted, str)
    assert np.array_equal(told[0, :2], predicted[0, :2])
    assert told[0, 2].tolist() == list(UNLABELLED)
    assert told[0, 0].sum() < predicted[0, 2].sum() < told[0, 1].sum()


def test_there_is_one_output() -> None:
    with pytest.raises(ConfigError, match="must be 1; found 2"):
        BinaryMap(task=replace(OUTLINES, num_outputs=2), pos_weight=1.0, threshold=0.5)


def test_the_prior_is_the_log_odds_with_one_more_of_each() -> None:
    kind = make("binary_map").kind
    target = torch.tensor([[[1, 0, 0, -1]]])
    assert kind.prior(target, torch.tensor([True])).tolist() == pytest.approx([math.log(2 / 3)])
