"""Loading encoders into a model: tables, columns, refusals; and the keys of sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from m3tl_cli.core.errors import ConfigError
from m3tl_cli.core.weights import Loaded
from m3tl_cli.sharing.separate import Separate
from m3tl_cli.transfer.base import Source, hold, load_encoders, parts
from tests.transfer.networks import a_model, state


def encoders(model: nn.Module) -> dict[str, Tensor]:
    return {n: v for n, v in state(model).items() if n.startswith("encoder.")}


class Given(Source):
    """A source that holds what it is given."""

    def __init__(self, numbers: Mapping[str, Any]) -> None:
        self.numbers = numbers

    def identity(self) -> Mapping[str, Any]:
        return self.numbers


def test_every_column_takes_the_encoder_of_its_modality() -> None:
    source, model = a_model(seed=1), a_model(sharing=Separate, seed=2)
    table = load_encoders(model, encoders(source))
    for name, value in encoders(source).items():
        for task in ("depth", "count"):
            assert torch.equal(model.state_dict()[name.replace(".shared.", f".{task}.")], value)
    assert len(table.loaded) == 2 * len(encoders(source))
    assert (table.new, dict(table.dropped)) == ((), {})
    assert table.lines() == (f"{len(table.loaded)} loaded",)


def test_nothing_but_encoders_changes() -> None:
    source, model = a_model(seed=1), a_model(seed=2)
    before = state(model)
    load_encoders(model, state(source))
    assert {n for n in before if not torch.equal(before[n], model.state_dict()[n])} <= set(encoders(model))


def test_a_column_takes_the_column_of_its_own_name_and_else_the_first() -> None:
    source, model = a_model(sharing=Separate, seed=1), a_model(sharing=Separate, seed=2)
    load_encoders(model, encoders(source))
    assert all(torch.equal(model.state_dict()[n], v) for n, v in encoders(source).items())
    joint = a_model(seed=2)
    table = load_encoders(joint, encoders(source))
    name = "encoder.shared.rgb.layers.0.weight"
    assert torch.equal(joint.state_dict()[name], encoders(source)["encoder.depth.rgb.layers.0.weight"])
    assert set(table.dropped) == {n for n in encoders(source) if n.startswith("encoder.count.")}


def test_the_table_names_what_is_new_and_what_was_dropped() -> None:
    model = a_model(seed=2)
    there = encoders(a_model(seed=1))
    there = {n: v for n, v in there.items() if ".table." not in n}
    there["encoder.shared.rgb.layers.0.weight"] = torch.zeros(4, 3, 3, 3)
    there["encoder.shared.rgb.classifier.weight"] = torch.zeros(2)
    there["head.depth.out.weight"] = torch.zeros(2)
    before = state(model)
    table = load_encoders(model, there, "a file")
    assert set(table.new) == {"encoder.shared.rgb.layers.0.weight"} | {n for n in encoders(model) if ".table." in n}
    assert table.dropped == {
        "encoder.shared.rgb.layers.0.weight": "4x3x3x3, not 4x5x3x3",
        "encoder.shared.rgb.classifier.weight": "unknown",
        "head.depth.out.weight": "not used",
    }
    assert all(torch.equal(before[n], model.state_dict()[n]) for n in table.new)
    lines = table.lines()
    assert lines[0] == f"{len(encoders(model)) - len(table.new)} loaded"
    assert lines[1].startswith(f"{len(table.new)} new: ")
    assert lines[2].startswith("3 dropped: ")
    assert str(table) == "; ".join(lines)


def test_a_long_table_stays_short() -> None:
    table = Loaded("a file", (), tuple(f"layer.{i}" for i in range(50)), {})
    assert str(table) == "0 loaded; 50 new: layer.0, layer.1, layer.2 and 47 more"


def test_a_source_that_fits_nothing_is_refused() -> None:
    model = a_model(seed=2)
    for there in ({}, {"conv1.weight": torch.zeros(3)}, {"encoder.shared.lidar.local.0.weight": torch.zeros(3)}):
        with pytest.raises(
            ConfigError, match=r"must hold tensors that fit the encoders of the run \(modalities: rgb, table\); found 0 loaded"
        ):
            load_encoders(model, there)


def test_a_normalisation_without_its_statistics_is_refused() -> None:
    there = {n: v for n, v in encoders(a_model(normed=True, seed=1)).items() if "running" not in n and "tracked" not in n}
    with pytest.raises(ConfigError, match=r"must hold the statistics of its normalisation; found none of layers.1.running_mean"):
        load_encoders(a_model(normed=True, seed=2), there)
    with_them = encoders(a_model(normed=True, seed=1))
    with_them["encoder.shared.rgb.layers.1.running_mean"] += 3
    model = a_model(normed=True, seed=2)
    load_encoders(model, with_them)
    assert torch.equal(model.state_dict()["encoder.shared.rgb.layers.1.running_mean"], torch.full((8,), 3.0))


def test_what_is_loaded_keeps_the_models_type() -> None:
    model = a_model(seed=2).double()
    load_encoders(model, encoders(a_model(seed=1)))
    assert {v.dtype for v in encoders(model).values()} == {torch.float64}


def test_a_source_loads_what_the_pretraining_stage_made() -> None:
    model = a_model(seed=2)
    made = encoders(a_model(seed=1))
    table = Given({}).load(model, made)
    assert set(table.loaded) == set(made)
    with pytest.raises(ConfigError, match=r"transfer.source"):
        Given({}).load(model)


def test_a_key_changes_with_whatever_decides_the_result() -> None:
    key = Given({"updates": 3}).key({"seed": 1})
    assert key == Given({"updates": 3}).key({"seed": 1})
    assert len({key, Given({"updates": 4}).key({"seed": 1}), Given({"updates": 3}).key({"seed": 2})}) == 3


def test_parts_are_the_largest_modules_of_which_nothing_is_new() -> None:
    model = a_model()
    below = {n for n in model.params() if not n.startswith("head.")}
    assert set(parts(model, below)) == {"encoder", "fusion", "backbone"}
    assert set(parts(model, {n for n in below if n.startswith("encoder.shared.rgb.")})) == {"encoder.shared.rgb"}
    some = parts(model, {n for n in below if n.startswith("encoder.shared.rgb.") and ".layers.0." not in n})
    assert set(some) == {f"encoder.shared.rgb.layers.{i}" for i in (1, 3, 4, 6, 7)}
    assert parts(model, set(model.params()) - below) == {}


def test_a_held_module_stays_in_evaluation_mode() -> None:
    layer = nn.BatchNorm1d(2)
    hold(layer)
    hold(layer)
    assert len(layer._forward_pre_hooks) == 1
    layer.train()
    assert layer.running_mean is not None
    layer(torch.randn(4, 2) + 5)
    assert torch.equal(layer.running_mean, torch.zeros(2))
