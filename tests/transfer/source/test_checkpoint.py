from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from m3tl_cli.core.errors import ConfigError, DataError
from m3tl_cli.sharing.separate import Separate
from m3tl_cli.trainer import checkpoint
from m3tl_cli.transfer.handover.scale_shift import ScaleShift
from m3tl_cli.transfer.source.checkpoint import Checkpoint
from tests.transfer.networks import a_model, state


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder such as the trainer leaves; the last checkpoint differs from the best."""
    for seed, which in enumerate(("best", "last")):
        model = a_model(seed=seed)
        optimizer = {n: {"exp_avg": torch.ones_like(p)} for n, p in model.params().items()}
        written = {"about": {"ledger": model.ledger()}, "model": model.params(), "optimizer": optimizer, "counters": {"updates": 4}}
        checkpoint.save(tmp_path / "run" / "checkpoints" / f"{which}.safetensors", written)
    return tmp_path / "run"


@pytest.mark.parametrize(("which", "seed"), [("best", 0), ("last", 1)])
def test_a_run_gives_its_encoders_and_nothing_else(run: Path, which: str, seed: int) -> None:
    found = Checkpoint(run=str(run), which=which).tensors()  # type: ignore[arg-type]
    expected = {n: v for n, v in state(a_model(seed=seed)).items() if n.startswith("encoder.")}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[n], v) for n, v in expected.items())


def test_a_file_can_be_named_itself(run: Path) -> None:
    by_file = Checkpoint(run=str(run / "checkpoints" / "last.safetensors"), which="best")
    assert by_file.key({}) == Checkpoint(run=str(run), which="last").key({})


def test_the_encoders_of_a_run_start_every_column_of_another(run: Path) -> None:
    source, model = Checkpoint(run=str(run), which="best"), a_model(sharing=Separate, seed=7)
    table = source.load(model)
    assert source.updates == 0
    assert table.new == ()
    expected = a_model(seed=0).params()["encoder.shared.rgb.layers.0.weight"]
    assert all(torch.equal(model.params()[f"encoder.{t}.rgb.layers.0.weight"], expected) for t in ("depth", "count"))


def test_the_key_is_of_the_content_and_not_of_the_place(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "moved")
    key = Checkpoint(run=str(run), which="best").key({})
    assert Checkpoint(run=str(tmp_path / "moved"), which="best").key({}) == key
    assert Checkpoint(run=str(run), which="last").key({}) != key


def test_a_run_without_that_checkpoint_is_refused(run: Path, tmp_path: Path) -> None:
    (run / "checkpoints" / "best.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"the folder has last.*which=last"):
        Checkpoint(run=str(run), which="best")
    with pytest.raises(ConfigError, match=r"no checkpoints in"):
        Checkpoint(run=str(tmp_path), which="best")
    with pytest.raises(ConfigError, match=r"nothing at .*/nowhere"):
        Checkpoint(run=str(tmp_path / "nowhere"), which="best")


def test_a_damaged_or_foreign_file_is_refused(run: Path, tmp_path: Path) -> None:
    path = run / "checkpoints" / "best.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"must be a readable safetensors file"):
        Checkpoint(run=str(run), which="best").tensors()
    save_file({"conv.weight": torch.zeros(3)}, tmp_path / "foreign.safetensors")
    with pytest.raises(DataError, match=r"no state in its header.*transfer/source=weights"):
        Checkpoint(run=str(tmp_path / "foreign.safetensors"), which="best").tensors()
    checkpoint.save(tmp_path / "headless.safetensors", {"model": {"head.depth.out.weight": torch.zeros(3)}})
    with pytest.raises(DataError, match=r"no encoder in it"):
        Checkpoint(run=str(tmp_path / "headless.safetensors"), which="best").tensors()


def test_encoders_with_adapters_are_refused(tmp_path: Path) -> None:
    model = a_model()
    ScaleShift(scale="channel").prepare(model, set(model.params()), 0)
    checkpoint.save(tmp_path / "adapted.safetensors", {"model": model.params()})
    with pytest.raises(ConfigError, match=r"must be plain networks; found adapters around"):
        Checkpoint(run=str(tmp_path / "adapted.safetensors"), which="best").tensors()
