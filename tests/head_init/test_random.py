from __future__ import annotations

import torch

from m3tl_cli.head_init.random import Random
from tests.head_init._support import normal, of_numbers


def test_the_last_layer_stays_the_very_one_that_was_constructed() -> None:
    weight, bias = normal(2, 3), normal(2)
    found = Random().out(weight, bias, of_numbers(normal(4, 3), normal(4, 2)))
    assert found[0] is weight
    assert found[1] is bias
    assert (Random().needs_features, Random().donor) == (False, "none")
    assert Random().out(weight, None, of_numbers(torch.zeros(0, 3), torch.zeros(0, 2)))[1] is None
