from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradgradcheck
from torch.func import functional_call, vmap

from m3tl_cli.core.contracts import ModalityInfo, Signature
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.encoder.points.pointnet import PointNet


def encoder(channels: int = 5, size: tuple[int, ...] = (64, 48), width: int = 16) -> PointNet:
    return PointNet(width=width, stride=4, scale=20.0, modality=ModalityInfo("lidar", "points", channels, size, 12))


def cloud(batch: int = 3, points: int = 12) -> Tensor:
    x = 30 * torch.randn(batch, points, 5)
    x[..., -1] = (torch.rand(batch, points) > 0.3).float()
    x[0, 0, -1] = 1
    return x


def test_tokens_know_the_map_that_they_would_fill() -> None:
    net = encoder()
    assert net(cloud()).shape == (3, 12, 16)
    assert net.signature == Signature("tokens", 16, (16, 12))
    assert encoder(size=()).signature == Signature("tokens", 16, (1, 1))


def test_permuting_points_permutes_tokens() -> None:
    net, x = encoder().double(), cloud().double()
    order = torch.randperm(12)
    torch.testing.assert_close(net(x[:, order]), net(x)[:, order], rtol=1e-12, atol=1e-12)


def test_a_point_sees_the_whole_cloud() -> None:
    net, x = encoder(), cloud()
    x[0, :2, -1] = 1
    other = x.clone()
    other[0, 1, :3] = torch.tensor([90.0, -80.0, 70.0])
    assert not torch.allclose(net(x)[0, 0], net(other)[0, 0])
    assert torch.equal(net(x)[1:], net(other)[1:])


@pytest.mark.parametrize("trash", [float("nan"), float("inf"), 1e30])
def test_what_an_invalid_point_holds_reaches_neither_output_nor_gradients(trash: float) -> None:
    net, x = encoder(), cloud()
    broken = x.clone()
    broken[..., :-1] = torch.where(x[..., -1:] > 0, x[..., :-1], trash)
    assert torch.equal(net(x), net(broken))
    assert (net(x)[x[..., -1] == 0] == 0).all()
    net(broken).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_a_cloud_without_a_valid_point_is_zero() -> None:
    x = cloud()
    x[1, :, -1] = 0
    net = encoder()
    out = net(x)
    assert (out[1] == 0).all()
    out.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_the_scale_is_in_metres() -> None:
    x = cloud()
    near = PointNet(width=16, stride=4, scale=1.0, modality=ModalityInfo("lidar", "points", 5, (64, 48)))
    far = encoder()
    far.load_state_dict(near.state_dict())
    torch.testing.assert_close(far(torch.cat((20 * x[..., :3], x[..., 3:]), -1)), near(x))


def test_second_derivatives_agree_with_finite_differences() -> None:
    net = encoder(width=4).double()
    x = cloud(2, 4).double()
    weight = net.local[0].weight.detach().requires_grad_()
    assert gradgradcheck(lambda w: functional_call(net, {"local.0.weight": w}, x), (weight,), atol=1e-4)


def test_runs_under_vmap_over_parameters() -> None:
    net, x = encoder(), cloud()
    stacked = {n: torch.stack([p.detach(), 2 * p.detach()]) for n, p in net.named_parameters()}
    out = vmap(lambda p: functional_call(net, p, x))(stacked)
    torch.testing.assert_close(out[0], net(x))


def test_points_without_a_valid_column_are_refused() -> None:
    with pytest.raises(ConfigError, match="`channels` of points must be at least 4"):
        encoder(channels=3)


def test_leaving_out_invalid_points_changes_nothing_for_the_others() -> None:
    net, x = encoder().double(), cloud(1).double()
    valid = x[0, :, -1] > 0
    assert 0 < valid.sum() < 12
    torch.testing.assert_close(net(x)[:, valid], net(x[:, valid]), rtol=1e-12, atol=1e-12)
