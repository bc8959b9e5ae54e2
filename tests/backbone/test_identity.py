"""No backbone: nothing changes, nothing is learnt."""

from __future__ import annotations

import pytest
import torch

from m3tl_cli.backbone.identity import Identity
from m3tl_cli.core.contracts import Signature


@pytest.mark.parametrize("inputs", [Signature("vector", 5), Signature("map", 3, (4, 6))], ids=lambda s: s.kind)
def test_what_comes_in_goes_out(inputs: Signature) -> None:
    net = Identity(inputs=inputs)
    x = torch.randn(2, inputs.dim, *(inputs.grid if inputs.kind == "map" else ()))
    assert net(x) is x
    assert net.signature == inputs


def test_it_has_nothing_to_learn_and_nothing_to_mix() -> None:
    net = Identity(inputs=Signature("vector", 5))
    assert not list(net.parameters())
    assert len(net.stages) == 0
