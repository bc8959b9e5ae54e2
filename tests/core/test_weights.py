"""Files of tensors: what is read, what is refused, and the digest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from m3tl_cli.core.errors import DataError
from m3tl_cli.core.weights import digest, match, read

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor(3)}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".th", ".bin"])
def test_a_file_gives_back_what_was_written(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    save_file(TENSORS, path) if suffix == ".safetensors" else torch.save(TENSORS, path)
    found = read(path, "file")
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[n], v) for n, v in TENSORS.items())


@pytest.mark.parametrize("wrapped", [{"state_dict": TENSORS, "epoch": 3}, {"model": {"state_dict": TENSORS}}])
def test_a_state_dict_is_found_inside(wrapped: dict[str, Any], tmp_path: Path) -> None:
    torch.save(wrapped, tmp_path / "a.pt")
    assert read(tmp_path / "a.pt", "file").keys() == TENSORS.keys()


def test_the_prefix_of_data_parallelism_is_taken_off(tmp_path: Path) -> None:
    torch.save({f"module.{n}": v for n, v in TENSORS.items()}, tmp_path / "a.pt")
    assert read(tmp_path / "a.pt", "file").keys() == TENSORS.keys()


class Evil:
    """Would run on unpickling."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("ran"),))


def test_nothing_in_a_pickle_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.zeros(2), "b": Evil()}, "evil.pt")
    with pytest.raises(DataError, match="`file` must be a file of tensors; found UnpicklingError"):
        read(Path("evil.pt"), "file")
    assert not Path("ran").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_damaged_file_is_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    save_file(TENSORS, path) if suffix == ".safetensors" else torch.save(TENSORS, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="must be a file of tensors"):
        read(path, "file")
    path.write_bytes(b"")
    with pytest.raises(DataError, match="must be a file of tensors"):
        read(path, "file")


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "a.pt")
    with pytest.raises(DataError, match="must map names to tensors; found none"):
        read(tmp_path / "a.pt", "file")


def test_a_match_tells_shapes_apart() -> None:
    fits, table = match({"a": torch.zeros(2), "b": torch.zeros(3), "c": torch.zeros(())}, {"a": torch.ones(2), "b": torch.ones(4)}, "x")
    assert list(fits) == ["a"]
    assert (table.loaded, table.new, dict(table.dropped)) == (("a",), ("b",), {"b": "3, not 4", "c": "unknown"})


def test_a_digest_knows_every_bit_and_no_order() -> None:
    base = {"a": torch.zeros(2, 3), "b": torch.ones(2, dtype=torch.bfloat16), "c": torch.tensor(1)}
    known = digest(base)
    assert digest(dict(reversed(base.items()))) == known
    others = [
        base | {"a": torch.full((2, 3), -0.0)},
        base | {"a": torch.zeros(3, 2)},
        base | {"a": torch.zeros(2, 3, dtype=torch.int32)},
        {"d" if n == "c" else n: v for n, v in base.items()},
    ]
    assert len({known, *(digest(o) for o in others)}) == 5
    assert digest({"a": base["a"].T.contiguous().T}) == digest({"a": base["a"]})
