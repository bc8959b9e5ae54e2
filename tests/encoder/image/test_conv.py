from __future__ import annotations

import pytest
import torch
from torch.autograd import gradgradcheck
from torch.func import functional_call, vmap

from m3tl_cli.core.contracts import ModalityInfo
from m3tl_cli.encoder.image.conv import Conv


def encoder(size: tuple[int, int] = (64, 64), width: int = 16, stride: int = 4, channels: int = 3) -> Conv:
    return Conv(width=width, stride=stride, groups=8, modality=ModalityInfo("rgb", "image", channels, size))  # type: ignore[arg-type]


@pytest.mark.parametrize("stride", [2, 4])
@pytest.mark.parametrize("size", [(64, 64), (32, 48), (33, 50), (7, 9)])
def test_any_size_gives_the_map_that_the_signature_names(size: tuple[int, int], stride: int) -> None:
    net = encoder(size, stride=stride)
    out = net(torch.rand(2, 3, *size))
    assert net.signature.kind == "map"
    assert out.shape == (2, net.signature.dim, *net.signature.grid)
    assert net.signature.grid == (-(-size[0] // stride), -(-size[1] // stride))


def test_same_seed_same_bytes() -> None:
    x = torch.rand(2, 3, 16, 16)
    outs = []
    for _ in range(2):
        torch.manual_seed(3)
        outs.append(encoder((16, 16))(x))
    assert torch.equal(*outs)


def test_place_matters_even_in_a_uniform_image() -> None:
    out = encoder()(torch.full((1, 3, 64, 64), 0.3))
    # Away from the borders, where padding tells places apart without coordinates.
    assert (out[..., 4, 4] - out[..., 11, 11]).abs().max() > 1e-2


def test_brightness_survives_the_norms() -> None:
    net = encoder()
    x = torch.rand(1, 3, 64, 64)
    assert (net(x) - net(0.2 * x)).abs().mean() > 1e-2


def test_samples_do_not_see_each_other() -> None:
    net = encoder((16, 16)).double()
    x = torch.rand(4, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(net(x)[1:2], net(x[1:2]), rtol=1e-12, atol=1e-12)


def test_input_is_left_alone() -> None:
    x = torch.rand(2, 3, 16, 16)
    before = x.clone()
    encoder((16, 16))(x)
    assert torch.equal(x, before)


def test_second_derivatives_agree_with_finite_differences() -> None:
    net = encoder((8, 8), width=4, channels=1).double()
    x = torch.rand(2, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    weight = net.layers[0].weight.detach().requires_grad_()
    assert gradgradcheck(lambda x, w: functional_call(net, {"layers.0.weight": w}, x), (x, weight), atol=1e-4)


def test_runs_under_vmap_over_parameters() -> None:
    net = encoder((16, 16))
    stacked = {n: torch.stack([p.detach(), 2 * p.detach()]) for n, p in net.named_parameters()}
    x = torch.rand(2, 3, 16, 16)
    out = vmap(lambda p: functional_call(net, p, x))(stacked)
    torch.testing.assert_close(out[0], net(x))
    torch.testing.assert_close(out[1], functional_call(net, {n: p[1] for n, p in stacked.items()}, x))
