from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

from m3tl_cli.core.errors import ConfigError
from m3tl_cli.transfer.handover.scale_shift import ScaledLayer, ScaleShift
from tests.transfer.networks import a_model, fresh_heads


def test_the_number_of_adapters_is_two_per_channel_or_one_per_kernel() -> None:
    layer = nn.Conv2d(3, 8, 3)
    for leading, scales in ((1, 8), (2, 8 * 3)):
        wrapped = ScaledLayer(layer, leading)
        assert wrapped.scale.numel() == scales
        assert wrapped.shift.numel() == 8
    model = a_model()
    added = ScaleShift(scale="slice").prepare(model, set(model.params()), 0)
    convolution = model.get_submodule("backbone.shared.stages.0.0.layers.0")
    assert sum(p.numel() for n, p in convolution.named_parameters() if "base_layer" not in n) == 8 * 8 + 8  # out * in + out
    assert not any(n.startswith("head.") for n in added)


@pytest.mark.parametrize("leading", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_a_scaled_layer_is_its_formula(leading: int, bias: bool) -> None:
    random = torch.Generator().manual_seed(1)
    layer = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=bias).double()
    wrapped = ScaledLayer(layer, leading)
    x = torch.randn(2, 3, 7, 7, generator=random, dtype=torch.float64)
    scale, shift = torch.randn(wrapped.scale.shape, generator=random).double(), torch.randn(4, generator=random).double()
    with torch.no_grad():
        wrapped.scale.copy_(scale)
        wrapped.shift.copy_(shift)
    expected = nn.functional.conv2d(x, layer.weight * scale, shift if layer.bias is None else layer.bias + shift, stride=2, padding=1)
    assert torch.allclose(wrapped(x), expected, rtol=0, atol=1e-14)
    linear = ScaledLayer(nn.Linear(2, 1, bias=bias).double(), leading)
    with torch.no_grad():
        linear.scale.fill_(3.0)
        linear.shift.fill_(5.0)
    base = linear.base_layer
    assert isinstance(base, nn.Linear)
    y = torch.tensor([[1.0, 2.0]]).double()
    by_hand = 3 * (base.weight[0, 0] * 1 + base.weight[0, 1] * 2) + 5 + (0 if base.bias is None else base.bias[0])
    assert linear(y).item() == pytest.approx(by_hand.item(), abs=1e-14)


def test_a_module_that_reads_the_weight_sees_it_scaled() -> None:
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    x = torch.randn(2, 3, 4)
    before = attention(x, x, x)[0]
    attention.out_proj = ScaledLayer(attention.out_proj, 1)  # type: ignore[assignment]
    assert torch.equal(attention(x, x, x)[0], before)
    with torch.no_grad():
        attention.out_proj.scale.fill_(2.0)  # type: ignore[union-attr, operator]
        attention.out_proj.shift.fill_(1.0)  # type: ignore[union-attr, operator]
    assert torch.allclose(attention(x, x, x)[0], 2 * before + 1, atol=1e-6)


def test_only_scales_shifts_heads_and_what_is_new_are_trained() -> None:
    model = a_model()
    fresh = fresh_heads(model, "count")
    option = ScaleShift(scale="channel")
    added = option.prepare(model, set(model.params()) - fresh, 0)
    free = option.trainable(model.params() | {"fusion.shared.scale": torch.ones(1)}, fresh, 0, 10)
    assert free == added | fresh_heads(model, "count", "depth"), "another module's `scale` is no adapter"


def test_encoders_first_and_the_rest_later() -> None:
    model = a_model()
    option = ScaleShift(scale="channel")
    first = option.prepare(model, {n for n in model.params() if n.startswith("encoder.")}, 0)
    second = option.prepare(model, set(model.params()), 0)
    assert {n.split(".")[0] for n in first} == {"encoder"}
    assert {n.split(".")[0] for n in second} == {"fusion", "backbone"}
    assert not any("base_layer.base_layer" in n for n in model.params())


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"must find a convolution or a linear layer in what is handed over; found none"):
        ScaleShift(scale="channel").prepare(a_model(), set(), 0)


def test_a_scaled_layer_runs_under_vmap() -> None:
    wrapped = ScaledLayer(nn.Conv2d(2, 3, 3), 1)
    x, shifts = torch.randn(4, 2, 5, 5), torch.randn(6, 3)
    found = vmap(lambda shift: functional_call(wrapped, {"shift": shift}, (x,)))(shifts)
    assert torch.allclose(found[2], wrapped(x) + shifts[2].view(-1, 1, 1), atol=1e-6)
