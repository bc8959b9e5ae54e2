"""The 4-block net: its size, its blocks, and which norm lets samples see each other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradgradcheck
from torch.func import functional_call
from torch.nn import functional as F

from m3tl_cli.core.contracts import ModalityInfo, Signature
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.encoder.image.conv4 import Conv4


def conv4(width: int = 64, norm: str = "group", size: tuple[int, int] = (28, 28), channels: int = 1) -> Conv4:
    return Conv4(width=width, norm=norm, groups=8, modality=ModalityInfo("image", "image", channels=channels, size=size))  # type: ignore[arg-type]


@pytest.mark.parametrize(("size", "dim"), [((28, 28), 64), ((16, 16), 64), ((84, 84), 1600), ((33, 70), 64 * 2 * 4)])
def test_its_vector_is_the_last_map_flattened(size: tuple[int, int], dim: int) -> None:
    net = conv4(size=size, channels=3)
    assert net.signature == Signature("vector", dim)
    assert net(torch.rand(2, 3, *size)).shape == (2, dim)


def test_it_has_the_papers_number_of_parameters() -> None:
    # Four convolutions (9 x in x 64 + 64) and four norms (2 x 64), by hand: 768 + 3 x 37,056.
    assert sum(p.numel() for p in conv4().parameters()) == 640 + 128 + 3 * (36_928 + 128) == 111_936


def test_batch_norm_gives_as_many() -> None:
    assert sum(p.numel() for p in conv4(norm="batch").parameters()) == 111_936


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_it_is_the_blocks_written_out(norm: str) -> None:
    net = conv4(width=16, norm=norm).double()
    x = torch.rand(3, 1, 28, 28, dtype=torch.float64)
    expected: Tensor = x
    for convolution in (m for m in net.layers if isinstance(m, nn.Conv2d)):
        expected = F.conv2d(expected, convolution.weight, convolution.bias, padding=1)
        dims = (0, 2, 3) if norm == "batch" else (2, 3, 4)
        grouped = expected if norm == "batch" else expected.unflatten(1, (8, 2))
        var, mean = torch.var_mean(grouped, dims, keepdim=True, correction=0)
        expected = ((grouped - mean) / (var + 1e-5).sqrt()).reshape_as(expected)
        expected = F.max_pool2d(expected.relu(), 2)
    torch.testing.assert_close(net(x), expected.flatten(1), rtol=1e-10, atol=1e-10)


def test_under_group_norm_a_sample_stands_alone() -> None:
    net, x = conv4().double(), torch.rand(4, 1, 28, 28, dtype=torch.float64)
    torch.testing.assert_close(net(x)[:1], net(x[:1]), rtol=1e-10, atol=1e-10)


def test_under_batch_norm_a_sample_sees_the_others_in_evaluation_too() -> None:
    net, x = conv4(norm="batch").eval(), torch.rand(4, 1, 28, 28)
    assert (net(x)[:1] - net(x[:1])).abs().max() > 0.01
    assert torch.equal(net(x), net.train()(x))


def test_batch_norm_remembers_no_batch() -> None:
    net, x = conv4(norm="batch"), torch.rand(4, 1, 28, 28)
    before = net(x)
    net(torch.rand(4, 1, 28, 28) * 9)
    assert torch.equal(net(x), before)
    assert not list(net.buffers())


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_it_can_be_differentiated_twice(norm: str) -> None:
    net = conv4(width=2, norm=norm, size=(16, 16)).double()
    x = torch.rand(2, 1, 16, 16, dtype=torch.float64)
    names, values = zip(*net.named_parameters(), strict=True)
    assert gradgradcheck(lambda *p: functional_call(net, dict(zip(names, p, strict=True)), x), values)


def test_an_image_that_cannot_be_halved_four_times_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"must be at least 16 pixels each way.*found 15 x 28"):
        conv4(size=(15, 28))
