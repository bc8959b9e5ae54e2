from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import timm
from safetensors.torch import save_model
from torch import nn

from m3tl_cli.core.errors import ConfigError
from m3tl_cli.core.weights import Loaded
from m3tl_cli.encoder.image.timm import Timm
from m3tl_cli.transfer.source.own import Own
from tests.transfer.networks import RGB, a_model, changed, state


def test_what_an_encoder_loaded_counts_and_the_rest_is_new() -> None:
    model = a_model()
    before = state(model)
    encoder = cast(nn.ModuleDict, model.encoder["shared"])["rgb"]
    # Its network is `layers`; names of a weights file are relative to that, and the last norm was not in it.
    inside = tuple(n.removeprefix("layers.") for n in encoder.state_dict() if not n.startswith("layers.7."))
    encoder.loaded = Loaded("hub", inside, ("7.weight", "7.bias"), {})  # type: ignore[assignment]
    found = Own().load(model)
    assert found.source == "hub"
    assert set(found.loaded) == {f"encoder.shared.rgb.layers.{n}" for n in inside}
    assert {"encoder.shared.rgb.layers.7.weight", "encoder.shared.table.layers.0.weight"} <= set(found.new)
    assert len(found.loaded) + len(found.new) == sum(n.startswith("encoder.") for n in before)
    assert changed(before, model) == set()


def test_encoders_that_start_at_random_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"an encoder must load weights itself .*modalities: rgb, table.*weights=hub"):
        Own().load(a_model())


def test_there_is_nothing_to_read_and_nothing_to_train() -> None:
    assert (Own().tensors(), Own().updates) == (None, 0)
    assert Own().key({"encoder": "a"}) != Own().key({"encoder": "b"})


def test_an_encoder_of_timm_says_what_it_loaded(tmp_path: Path) -> None:
    small: dict[str, Any] = {"depth": 1, "embed_dim": 32, "num_heads": 2, "patch_size": 4}
    made = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=RGB.size, **small)
    save_model(made, str(tmp_path / "vit.safetensors"))
    encoder = Timm(
        model="vit_tiny_patch16_224", output="vector", stage=-1, width=8, weights=str(tmp_path / "vit.safetensors"), input_size=None,
        mean="model", std="model", norm="model", groups=8, options=small, modality=RGB,
    )  # fmt: skip
    model = nn.ModuleDict({"encoder": nn.ModuleDict({"shared": nn.ModuleDict({"rgb": encoder})})})
    found = Own().load(model)
    assert set(found.loaded) == {f"encoder.shared.rgb.net.{n}" for n in made.state_dict()}
    assert found.new == ("encoder.shared.rgb.project.weight", "encoder.shared.rgb.project.bias")
    assert found.source.endswith("vit.safetensors")
