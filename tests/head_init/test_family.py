from __future__ import annotations

from m3tl_cli.head_init.closed_form import ClosedForm
from m3tl_cli.head_init.family import Family
from m3tl_cli.head_init.zero_out import ZeroOut
from tests.head_init._support import normal, of_numbers

SUPPORT = of_numbers(normal(8, 3), normal(8, 2))


def family(then: str) -> Family:
    return Family(then=then, ridge=0.7, classification="ridge", scale=1.0)  # type: ignore[arg-type]


def test_the_last_layer_is_what_follows_says() -> None:
    weight, bias = normal(2, 3), normal(2)
    assert family("zero_out").out(weight, bias, SUPPORT)[0].equal(ZeroOut().out(weight, bias, SUPPORT)[0])
    closed = ClosedForm(ridge=0.7, classification="ridge", scale=1.0)
    assert family("closed_form").out(weight, bias, SUPPORT)[0].equal(closed.out(weight, bias, SUPPORT)[0])


def test_it_needs_features_for_a_closed_form_alone_and_a_donor_of_the_family() -> None:
    assert (family("zero_out").needs_features, family("closed_form").needs_features) == (False, True)
    assert family("zero_out").donor == "family"
