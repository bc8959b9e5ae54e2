from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd import gradgradcheck
from torch.func import functional_call, vmap

from m3tl_cli.backbone.resnet import ResNet
from m3tl_cli.core.contracts import Signature


def backbone(kind: str = "map", dim: int = 8, width: int = 8, num_stages: int = 3, blocks: int = 1) -> ResNet:
    inputs = Signature("map", dim, (6, 5)) if kind == "map" else Signature("vector", dim)
    return ResNet(width=width, num_stages=num_stages, blocks_per_stage=blocks, groups=4, inputs=inputs)


@pytest.mark.parametrize("dim", [8, 5])
@pytest.mark.parametrize("num_stages", [1, 3])
@pytest.mark.parametrize("blocks", [1, 2])
def test_map_and_vector_keep_their_shape(dim: int, num_stages: int, blocks: int) -> None:
    net = backbone("map", dim, num_stages=num_stages, blocks=blocks)
    assert net(torch.randn(2, dim, 6, 5)).shape == (2, 8, 6, 5)
    assert net.signature == Signature("map", 8, (6, 5))
    assert len(net.stages) == num_stages
    net = backbone("vector", dim, num_stages=num_stages, blocks=blocks)
    assert net(torch.randn(2, dim)).shape == (2, 8)
    assert net.signature == Signature("vector", 8)


def test_without_its_changes_it_is_the_identity_on_what_is_positive() -> None:
    net = backbone()
    for name, p in net.named_parameters():
        if name.endswith("layers.4.weight"):  # the last norm of each block
            nn.init.zeros_(p)
    x = torch.rand(2, 8, 6, 5)
    assert torch.equal(net(x), x)


@pytest.mark.parametrize(("num_stages", "reach"), [(1, 2), (2, 2 + 4), (3, 2 + 4 + 8)])
def test_each_stage_looks_twice_as_far(num_stages: int, reach: int) -> None:
    net = ResNet(width=4, num_stages=num_stages, blocks_per_stage=1, groups=4, inputs=Signature("map", 4, (1, 41))).double()
    for module in net.modules():
        if isinstance(module, nn.GroupNorm):
            module.forward = lambda x: x  # type: ignore[method-assign] # norms mix all cells: look at the convolutions alone
        if isinstance(module, nn.Conv2d):
            nn.init.ones_(module.weight)
    x = torch.ones(1, 4, 1, 41, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(net(x)[0, 0, 0, 20], x)
    touched = grad[0].abs().sum((0, 1)).nonzero().flatten()
    assert (touched.min().item(), touched.max().item()) == (20 - reach, 20 + reach)


def test_a_stage_at_a_time_is_the_whole() -> None:
    net, x = backbone(dim=5), torch.randn(2, 5, 6, 5)
    y = x
    for stage in net.stages:
        y = stage(y)
    assert torch.equal(y, net(x))


def test_samples_do_not_see_each_other() -> None:
    net, x = backbone().double(), torch.randn(3, 8, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(net(x)[1:2], net(x[1:2]), rtol=1e-12, atol=1e-12)


def test_a_vector_keeps_its_information() -> None:
    net = backbone("vector")
    x = torch.randn(4, 8)
    assert (net(x)[0] - net(x)[1]).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["map", "vector"])
def test_second_derivatives_agree_with_finite_differences(kind: str) -> None:
    net = ResNet(
        width=4, num_stages=2, blocks_per_stage=1, groups=2, inputs=Signature("map", 2, (3, 2)) if kind == "map" else Signature("vector", 2)
    ).double()
    x = torch.randn((2, 2, 3, 2) if kind == "map" else (2, 2), dtype=torch.float64, requires_grad=True)
    name, weight = next(iter(net.named_parameters()))
    assert gradgradcheck(lambda x, w: functional_call(net, {name: w}, x), (x, weight.detach().requires_grad_()), atol=1e-4)


@pytest.mark.parametrize("kind", ["map", "vector"])
def test_runs_under_vmap_over_parameters(kind: str) -> None:
    net = backbone(kind, dim=5)
    x = torch.randn((2, 5, 6, 5) if kind == "map" else (2, 5))
    stacked = {n: torch.stack([p.detach(), 2 * p.detach()]) for n, p in net.named_parameters()}
    torch.testing.assert_close(vmap(lambda p: functional_call(net, p, x))(stacked)[0], net(x))
