from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from m3tl_cli.core.errors import ConfigError
from m3tl_cli.task.palette import UNLABELLED, class_colours
from m3tl_cli.task.segmentation import Segmentation
from tests.task.cases import SURFACES, make

KIND = Segmentation(task=SURFACES, label_smoothing=0.0)


def test_loss_by_hand_leaves_out_pixels_without_label() -> None:
    # One pixel with p = 1/2, one with uniform p, one without label.
    output = torch.zeros(1, 3, 1, 3, dtype=torch.float64)
    output[0, 0, 0, 0] = math.log(2)
    output[0, 0, 0, 2] = 50.0
    loss = KIND.loss(output, torch.tensor([[[0, 1, -1]]]), torch.tensor([True]))
    assert loss.item() == pytest.approx((math.log(2) + math.log(3)) / 2, rel=1e-15)


def test_metrics_agree_with_numpy() -> None:
    case = make("segmentation", num_samples=50)
    meter = case.kind.meter()
    meter.update(case.output, case.target, case.labelled)
    predicted, truth = case.output.argmax(1)[case.labelled].numpy(), case.target[case.labelled].numpy()
    predicted, truth = predicted[truth >= 0], truth[truth >= 0]
    iou = [np.sum((predicted == c) & (truth == c)) / np.sum((predicted == c) | (truth == c)) for c in range(3)]
    assert meter.compute() == pytest.approx({"miou": np.mean(iou), "pixel_accuracy": np.mean(predicted == truth)}, rel=1e-6)


def test_miou_averages_over_the_classes_of_the_labels_only() -> None:
    # Labels 0 0 0 1, predictions 0 0 2 1: IoU 2/3 and 1; class 2, only predicted, is not averaged in.
    meter = KIND.meter()
    logits = torch.eye(3)[[0, 0, 2, 1]].T.reshape(1, 3, 2, 2)
    meter.update(logits, torch.tensor([[[0, 0], [0, 1]]]), torch.tensor([True]))
    assert meter.compute() == pytest.approx({"miou": 5 / 6, "pixel_accuracy": 0.75})


def test_trivial_is_the_majority_at_each_position_and_elsewhere_that_of_all_pixels() -> None:
    target = torch.tensor([[[0, 1, -1]], [[0, 2, -1]], [[2, 2, -1]], [[1, 1, 1]]])
    labelled = torch.tensor([True, True, True, False])
    found = KIND.trivial(target, labelled)
    assert KIND.decode(found).tolist() == [[[0, 2, 2]]]  # 0 0 2 | 1 2 2 | nothing: of all, 0 twice, 1 once, 2 thrice
    torch.testing.assert_close(found[0, :, 0, 2].exp(), torch.tensor([3 / 9, 2 / 9, 4 / 9]))


def test_drawing_paints_classes_and_leaves_the_rest_grey() -> None:
    picture = KIND.draw(torch.tensor([[0, 2], [-1, 1]]))
    assert not isinstance(picture, str)
    colours = class_colours(SURFACES.classes)
    assert np.array_equal(picture, np.array([[colours[0], colours[2]], [UNLABELLED, colours[1]]]))


def test_classes_must_match_the_outputs() -> None:
    with pytest.raises(ConfigError, match="found 0"):
        Segmentation(task=replace(SURFACES, classes=()), label_smoothing=0.0)
