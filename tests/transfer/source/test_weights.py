from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from m3tl_cli.core.errors import ConfigError, DataError
from m3tl_cli.trainer import checkpoint
from m3tl_cli.transfer.source.weights import Weights
from tests.transfer.networks import a_model


def weights(file: Path, **changed: Any) -> Weights:
    given = {"modality": "rgb", "file_prefix": "", "encoder_prefix": ""} | changed
    return Weights(file=str(file), **given)


def trained(seed: int = 1) -> dict[str, Tensor]:
    return {n: v.clone() for n, v in a_model(seed=seed).encoder["shared"]["rgb"].state_dict().items()}  # type: ignore[index]


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".th"])
def test_a_file_starts_the_encoder_of_its_modality(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{suffix}"
    save_file(trained(), path) if suffix == ".safetensors" else torch.save({"state_dict": trained()}, path)
    model = a_model(seed=2)
    table = weights(path).load(model)
    assert all(torch.equal(model.state_dict()[f"encoder.shared.rgb.{n}"], v) for n, v in trained().items())
    assert {n.split(".")[2] for n in table.new} == {"table"}
    assert dict(table.dropped) == {}


def test_prefixes_are_taken_off_and_put_before(tmp_path: Path) -> None:
    there = {f"module.backbone.{n.removeprefix('layers.')}": v for n, v in trained().items()} | {"module.neck.weight": torch.zeros(2)}
    torch.save(there, tmp_path / "detector.pth")
    source = weights(tmp_path / "detector.pth", file_prefix="backbone.", encoder_prefix="layers.")
    assert set(source.tensors()) == {f"encoder.shared.rgb.{n}" for n in trained()}
    assert len(source.load(a_model(seed=2)).loaded) == len(trained())


def test_a_file_that_fits_another_network_is_refused(tmp_path: Path) -> None:
    save_file({"conv1.weight": torch.zeros(3, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(
        ConfigError, match=r"must hold tensors that fit the encoders .*found 0 loaded.*1 dropped: .*conv1.weight \(unknown\)"
    ):
        weights(tmp_path / "other.safetensors").load(a_model())
    save_file(trained(), tmp_path / "rgb.safetensors")
    with pytest.raises(ConfigError, match=r"modalities: rgb, table"):
        weights(tmp_path / "rgb.safetensors", modality="lidar").load(a_model())


def test_what_is_no_file_of_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must be a file ending in .safetensors, .*; found no file"):
        weights(tmp_path / "absent.pt")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"found `.*a.txt`"):
        weights(tmp_path / "a.txt")
    (tmp_path / "a.pt").write_bytes(b"not a pickle")
    with pytest.raises(DataError, match=r"`file` must be a file of tensors"):
        weights(tmp_path / "a.pt").tensors()


def test_a_prefix_that_nothing_has_is_refused(tmp_path: Path) -> None:
    save_file(trained(), tmp_path / "net.safetensors")
    with pytest.raises(ConfigError, match=r"found 'trunk.', and names such as layers"):
        weights(tmp_path / "net.safetensors", file_prefix="trunk.").tensors()


def test_a_checkpoint_of_ours_is_sent_to_its_own_option(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "best.safetensors", {"model": a_model().params()})
    with pytest.raises(ConfigError, match=r"found a checkpoint of m3tl.*transfer/source=checkpoint"):
        weights(tmp_path / "best.safetensors").tensors()


def test_the_key_is_of_the_content(tmp_path: Path) -> None:
    save_file(trained(), tmp_path / "a.safetensors")
    torch.save(trained(), tmp_path / "b.pt")
    save_file(trained(seed=2), tmp_path / "c.safetensors")
    key = weights(tmp_path / "a.safetensors").key({})
    assert weights(tmp_path / "b.pt").key({}) == key
    assert weights(tmp_path / "c.safetensors").key({}) != key
    assert weights(tmp_path / "a.safetensors", modality="depth").key({}) != key
