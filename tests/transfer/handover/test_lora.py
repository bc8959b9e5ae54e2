from __future__ import annotations

import pytest
import torch
from peft.tuners.lora import Conv2d, Linear
from torch import nn

from m3tl_cli.core.errors import ConfigError
from m3tl_cli.transfer.handover.lora import LoRA
from tests.transfer.networks import a_batch, a_model, fresh_heads, outputs, train

PATHS = ("encoder.shared.table.layers.0", "backbone.shared.stages.0.0.layers.0")
"""A linear layer and a convolution."""


def test_the_change_is_ba_times_alpha_over_r() -> None:
    model = a_model().double()
    model.refresh()
    option = LoRA(r=2, alpha=3.0)
    option.prepare(model, set(model.params()), 0)
    with torch.no_grad():
        for name, param in model.params().items():
            if ".lora_B." in name:
                param.normal_(generator=torch.Generator().manual_seed(len(name)))
    params = model.params()
    plain = a_model().double()
    with torch.no_grad():
        for name, param in plain.named_parameters():
            owner, _, last = name.rpartition(".")
            if f"{owner}.base_layer.{last}" not in params:
                param.copy_(params[name])
                continue
            param.copy_(params[f"{owner}.base_layer.{last}"])
            if last == "weight":
                a, b = params[f"{owner}.lora_A.default.weight"], params[f"{owner}.lora_B.default.weight"]
                assert a.shape[0] == b.shape[1] == 2
                param += 3.0 / 2 * (b.flatten(1) @ a.flatten(1)).view_as(param)
    plain.refresh()
    batch = a_batch(dtype=torch.float64)
    expected = outputs(plain, batch)
    assert all(torch.allclose(o, expected[t], rtol=0, atol=1e-12) for t, o in outputs(model, batch).items())
    before = outputs(a_model().double(), batch)
    assert not any(torch.allclose(o, before[t], atol=1e-3) for t, o in expected.items())


@pytest.mark.parametrize("path", PATHS)
def test_a_merged_layer_is_w_plus_ba(path: str) -> None:
    model = a_model().double()
    model.refresh()
    option = LoRA(r=2, alpha=3.0)
    option.prepare(model, set(model.params()), 0)
    layer = model.get_submodule(path)
    assert isinstance(layer, Linear | Conv2d)
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_()
    base = layer.get_base_layer().weight.detach().clone()
    change = layer.lora_B["default"].weight.flatten(1) @ layer.lora_A["default"].weight.flatten(1)
    layer.merge()
    assert torch.allclose(layer.get_base_layer().weight, base + 1.5 * change.view_as(base), rtol=0, atol=1e-14)


def test_only_the_matrices_heads_and_what_is_new_are_trained() -> None:
    model = a_model()
    fresh = fresh_heads(model, "count")
    option = LoRA(r=2, alpha=2.0)
    added = option.prepare(model, set(model.params()) - fresh, 0)
    assert option.trainable(model.params(), fresh, 0, 10) == added | fresh_heads(model, "count", "depth")
    assert not hasattr(model, "peft_config"), "peft leaves no trace on the model"


def test_the_seed_redraws_a_and_not_b() -> None:
    def start(seed: int) -> dict[str, torch.Tensor]:
        model = a_model()
        LoRA(r=2, alpha=2.0).prepare(model, set(model.params()), seed)
        return model.params()

    one, again, other = start(1), start(1), start(2)
    assert all(torch.equal(p, again[n]) for n, p in one.items())
    for name in one:
        if ".lora_A." in name:
            assert not torch.equal(one[name], other[name])
        elif ".lora_B." in name:
            assert not one[name].any()


def test_a_second_stage_adapts_what_the_first_did_not() -> None:
    model = a_model()
    option = LoRA(r=2, alpha=2.0)
    fresh = frozenset(n for n in model.params() if not n.startswith("encoder."))
    first = option.prepare(model, set(model.params()) - fresh, 0)
    train(model, option, fresh)
    learnt = {n: model.params()[n].detach().clone() for n in first}
    second = option.prepare(model, set(model.params()), 0)
    assert {n.split(".")[0] for n in second} == {"fusion", "backbone"}
    assert all(torch.equal(model.params()[n], v) for n, v in learnt.items())


def test_layers_that_cannot_be_adapted_are_left_out() -> None:
    model = a_model()
    net = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.MultiheadAttention(4, 2), nn.Linear(4, 4))
    model.encoder["shared"]["rgb"] = net  # type: ignore[index, assignment, operator]
    model.refresh()
    added = LoRA(r=2, alpha=2.0).prepare(model, {n for n in model.params() if n.startswith("encoder.shared.rgb.")}, 0)
    assert {n.split(".lora_")[0] for n in added} == {"encoder.shared.rgb.2"}


def test_a_network_without_layers_is_refused() -> None:
    model = a_model()
    grouped = {n for n in model.params() if n.startswith("encoder.shared.rgb.layers.1.")}
    with pytest.raises(ConfigError, match=r"must find a linear layer or a 2-d convolution without groups .*; found none"):
        LoRA(r=2, alpha=2.0).prepare(model, grouped, 0)
