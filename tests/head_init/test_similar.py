from __future__ import annotations

import pytest
import torch

from m3tl_cli.head_init.closed_form import ClosedForm
from m3tl_cli.head_init.similar import Similar
from m3tl_cli.head_init.zero_out import ZeroOut
from tests.head_init._support import normal, of_classes, of_numbers


def similar(then: str, ridge: float = 0.3) -> Similar:
    return Similar(then=then, ridge=ridge, classification="ridge", scale=1.0)  # type: ignore[arg-type]


def test_the_last_layer_is_what_follows_says() -> None:
    weight, bias, support = normal(2, 3), normal(2), of_numbers(normal(8, 3), normal(8, 2))
    assert similar("zero_out").out(weight, bias, support)[0].equal(ZeroOut().out(weight, bias, support)[0])
    closed = ClosedForm(ridge=0.3, classification="ridge", scale=1.0)
    assert similar("closed_form").out(weight, bias, support)[0].equal(closed.out(weight, bias, support)[0])
    assert (similar("zero_out").needs_features, similar("closed_form").needs_features) == (False, True)
    assert similar("zero_out").donor == "similar"


def test_features_that_hold_the_target_fit_better_than_as_many_that_do_not() -> None:
    z = normal(20, 6)
    target = z @ normal(6, 2, seed="map") + 0.1 * normal(20, 2, seed="noise")
    other = normal(20, 6, seed="other")
    assert similar("zero_out").misfit(of_numbers(z, target)) < 0.5 * similar("zero_out").misfit(of_numbers(other, target))
    classes = target.argmax(1)[:, None]
    assert similar("zero_out").misfit(of_classes(z, classes, 2)) < similar("zero_out").misfit(of_classes(other, classes, 2))


def test_features_that_can_only_memorise_are_not_mistaken_for_good_ones() -> None:
    # With more features than rows both residuals vanish; what a row is missed by when it is left out does not.
    z, target = normal(8, 20), normal(8, 1, seed="target")
    good = torch.cat([20 * target, z[:, 1:]], 1)
    tiny = similar("zero_out", ridge=1e-9)
    assert tiny.misfit(of_numbers(good, target)) < 0.1 * tiny.misfit(of_numbers(z, target))


def test_misfit_by_hand() -> None:
    # Rows alike: the weight is 0, and each of 3 is missed by 3 / 2 times its distance from the mean.
    support = of_numbers(torch.ones(3, 2).double(), torch.tensor([[0.0], [3.0], [6.0]]).double())
    assert similar("zero_out").misfit(support) == pytest.approx((4.5**2 + 4.5**2) / 3)


def test_unknown_entries_do_not_count() -> None:
    z, y = normal(12, 3), normal(12, 2)
    known = torch.ones(12, 2, dtype=torch.bool)
    known[:4, 1] = False
    parts = [similar("zero_out").misfit(of_numbers(z, y[:, [0]])), similar("zero_out").misfit(of_numbers(z[4:], y[4:, [1]]))]
    expected = (12 * parts[0] + 8 * parts[1]) / 20
    assert similar("zero_out").misfit(of_numbers(z, torch.where(known, y, 1e6), known)) == pytest.approx(expected)


def test_one_sample_tells_no_donors_apart() -> None:
    misfits = [similar("zero_out").misfit(of_numbers(normal(1, 3, seed=s), normal(1, 2))) for s in range(3)]
    assert misfits == [0, 0, 0]
