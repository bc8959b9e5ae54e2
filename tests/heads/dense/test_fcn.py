from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd import gradgradcheck
from torch.func import functional_call, vmap
from torch.nn import functional as F

from m3tl_cli.core.contracts import Signature, Task
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.heads.dense.fcn import FCN

MAP = Signature("map", 4, (4, 6))


def head(size: tuple[int, int], num_outputs: int = 3, kernel: int = 3, inputs: Signature = MAP, width: int = 8) -> FCN:
    return FCN(width=width, kernel=kernel, groups=4, task=Task("seg", "segmentation", num_outputs, True, size), inputs=inputs)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("size", [(4, 6), (8, 12), (16, 24), (8, 6), (9, 13), (2, 3), (8, 13)])
def test_one_output_vector_per_pixel_of_the_label(size: tuple[int, int], kernel: int) -> None:
    net = head(size, kernel=kernel)
    assert net(torch.randn(2, 4, 4, 6)).shape == (2, 3, *size)


def test_the_last_layer_is_linear_and_makes_r_by_r_pixels_per_cell() -> None:
    net = head((12, 18))
    assert isinstance(net.out, nn.Conv2d)
    assert net.out.weight.shape == (3 * 9, 8, 1, 1)
    assert head((9, 13)).out.weight.shape == (3, 8, 1, 1)


def test_pixels_of_a_cell_lie_where_their_cell_is() -> None:
    net = head((2, 4), num_outputs=1, inputs=Signature("map", 4, (1, 2)))
    net.hidden = nn.Sequential(nn.Identity())  # type: ignore[assignment]
    net.out = nn.Conv2d(1, 4, 1)
    with torch.no_grad():
        net.out.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None, None, None])
        net.out.bias.zero_()
    assert net(torch.tensor([[[[1.0, 10.0]]]])).tolist() == [[[[1, 2, 10, 20], [3, 4, 30, 40]]]]


def test_sizes_that_do_not_fit_are_resized_bilinearly() -> None:
    net, x = head((9, 13)), torch.randn(2, 4, 4, 6)
    torch.testing.assert_close(net(x), F.interpolate(net.out(net.hidden(x)), (9, 13), mode="bilinear", align_corners=False))


def test_a_map_of_another_size_than_announced_still_fits_the_label() -> None:
    assert head((8, 12))(torch.randn(1, 4, 5, 5)).shape == (1, 3, 8, 12)


def test_a_vector_is_refused() -> None:
    with pytest.raises(ConfigError, match="`inputs` of a dense task must be a map; found a vector"):
        head((8, 8), inputs=Signature("vector", 4))


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ConfigError, match="`kernel` must be odd; found 2"):
        head((8, 12), kernel=2)


@pytest.mark.parametrize("size", [(4, 4), (3, 5)])
def test_second_derivatives_agree_with_finite_differences(size: tuple[int, int]) -> None:
    net = head(size, num_outputs=1, inputs=Signature("map", 2, (2, 2)), width=2).double()
    x = torch.randn(1, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    weight = net.hidden[0].weight.detach().requires_grad_()
    assert gradgradcheck(lambda x, w: functional_call(net, {"hidden.0.weight": w}, x).square(), (x, weight), atol=1e-4)


@pytest.mark.parametrize("size", [(8, 12), (9, 13)])
def test_runs_under_vmap_over_parameters(size: tuple[int, int]) -> None:
    net, x = head(size), torch.randn(2, 4, 4, 6)
    stacked = {n: torch.stack([p.detach(), 2 * p.detach()]) for n, p in net.named_parameters()}
    torch.testing.assert_close(vmap(lambda p: functional_call(net, p, x))(stacked)[0], net(x))


@pytest.mark.parametrize("size", [(4, 6), (8, 12), (16, 24)])
def test_the_output_in_rows_is_the_last_layer_of_the_features(size: tuple[int, int]) -> None:
    net, x = head(size).double(), torch.randn(2, 4, 4, 6, dtype=torch.float64)
    features = net.features(x)
    assert features.shape == (2 * 4 * 6, 8)
    torch.testing.assert_close(net.rows(net(x)), F.linear(features, net.out.weight.flatten(1), net.out.bias))


def test_rows_are_cells_and_columns_the_pixels_of_a_cell_channel_by_channel() -> None:
    net = head((2, 4), num_outputs=2, inputs=Signature("map", 4, (1, 2)))
    y = torch.tensor([[[[1, 2, 5, 6], [3, 4, 7, 8]], [[11, 12, 15, 16], [13, 14, 17, 18]]]]).float()
    assert net.rows(y).tolist() == [[1, 2, 3, 4, 11, 12, 13, 14], [5, 6, 7, 8, 15, 16, 17, 18]]


@pytest.mark.parametrize("size", [(9, 13), (3, 5), (8, 6)])
def test_labels_that_do_not_fit_the_map_are_resized_to_it(size: tuple[int, int]) -> None:
    net = head(size, num_outputs=2)
    y = torch.linspace(0, 1, size[0])[:, None].expand(2, 2, *size).clone()
    rows = net.rows(y)
    assert rows.shape == (2 * 4 * 6, net.out.weight.shape[0])
    expected = F.interpolate(y, (4, 6), mode="bilinear", align_corners=False).movedim(1, -1).reshape(48, 2)
    torch.testing.assert_close(rows, expected)
    assert net.features(torch.randn(2, 4, 4, 6)).shape[0] == len(rows)
