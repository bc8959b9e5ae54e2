from __future__ import annotations

import pytest
import torch

from m3tl_cli.task.masking import as_float, log_frequencies, masked_mean, one_hot_signs, per_sample, repeat_constant


def test_the_mean_counts_only_what_the_mask_holds() -> None:
    assert masked_mean(torch.tensor([1.0, 5.0, 100.0]), torch.tensor([True, True, False])).item() == 3.0
    assert masked_mean(torch.tensor([1.0, 5.0]), torch.tensor([False, False])).item() == 0.0


def test_log_frequencies_are_laplace_smoothed_probabilities() -> None:
    found = log_frequencies(torch.tensor([7, 1, 0])).exp()
    torch.testing.assert_close(found, torch.tensor([8 / 11, 2 / 11, 1 / 11]))


def test_log_frequencies_do_not_lose_the_majority_among_many() -> None:
    assert log_frequencies(torch.tensor([2**23, 2**23 + 8])).argmax() == 1


def test_only_float64_stays() -> None:
    assert as_float(torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32
    assert as_float(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64


def test_a_batch_of_one_is_repeated_and_any_other_left() -> None:
    assert repeat_constant(torch.ones(1, 2), torch.ones(3)).shape == (3, 2)
    output = torch.ones(3, 2)
    assert repeat_constant(output, torch.ones(3)) is output


@pytest.mark.parametrize(("shape", "expected"), [((5,), (5,)), ((5, 2, 3), (5, 1, 1))])
def test_a_mask_of_samples_is_viewed_beside_its_target(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert per_sample(torch.ones(5, dtype=torch.bool), torch.ones(shape)).shape == expected


def test_signs_of_classes_by_hand() -> None:
    signs, known = one_hot_signs(torch.tensor([2, 0, -1]), torch.tensor([True, True, False]), 3)
    assert signs.tolist() == [[-1, -1, 1], [1, -1, -1], [0, 0, 0]]
    assert known.tolist() == [[True] * 3, [True] * 3, [False] * 3]
