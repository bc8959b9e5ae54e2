"""No fusion: one modality passes unchanged, a second is refused."""

from __future__ import annotations

import pytest
import torch

from m3tl_cli.core.contracts import Signature
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.fusion.single import Single
from tests.fusion.inputs import SIGNATURES, everywhere, features


@pytest.mark.parametrize("name", ["rgb", "table"])
def test_one_modality_passes_unchanged(name: str) -> None:
    net, given = Single(inputs={name: SIGNATURES[name]}), features([name], 3)
    assert torch.equal(net(given, everywhere([name], 3), {}), given[name])
    assert net.signature == SIGNATURES[name]
    assert not list(net.parameters())


@pytest.mark.parametrize("name", ["rgb", "table"])
def test_what_an_absent_modality_holds_reaches_neither_output_nor_gradients(name: str) -> None:
    net, given = Single(inputs={name: SIGNATURES[name]}), features([name], 2)
    given[name][1] = torch.nan
    x = given[name].requires_grad_()
    out = net({name: x}, {name: torch.tensor([True, False])}, {})
    out.square().sum().backward()
    assert torch.equal(out[0], x[0])
    assert (out[1] == 0).all()
    assert x.grad is not None
    assert torch.equal(x.grad[0], 2 * x[0])
    assert (x.grad[1] == 0).all()


def test_a_second_modality_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"must be one with this fusion.*found rgb, table"):
        Single(inputs={"rgb": SIGNATURES["rgb"], "table": SIGNATURES["table"]})


def test_tokens_are_refused() -> None:
    with pytest.raises(ConfigError, match="`lidar` must be a vector or a map"):
        Single(inputs={"lidar": Signature("tokens", 5)})
