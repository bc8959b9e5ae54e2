"""The store: made once, found again, never half of it; and the pool that reads it."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep

import numpy as np
import pytest
import torch

from m3tl_cli.core.contracts import ModalityInfo
from m3tl_cli.core.errors import DataError
from m3tl_cli.data.store import Array, Column, Store, StorePool

COLUMNS = {"a": Column("int16"), "b": Column("float32", (2, 3))}


def _fill(arrays: Mapping[str, Array]) -> None:
    arrays["a"][:] = np.arange(5)
    arrays["b"][:] = np.arange(30).reshape(5, 2, 3)


def _make(folder: Path) -> tuple[Store, bool]:
    return Store.create(folder, rows=5, columns=COLUMNS, fill=_fill)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    store, made = _make(tmp_path / "k")
    assert made
    assert len(store) == 5
    index = torch.tensor([4, 0, 0])
    assert store.read("a", index).tolist() == [4, 0, 0]
    assert torch.equal(store.read("b", index), torch.arange(30.0).reshape(5, 2, 3)[index])
    assert store.read("a", index).dtype == torch.int16


def test_the_second_time_it_is_only_opened(tmp_path: Path) -> None:
    _make(tmp_path / "k")
    store, made = Store.create(tmp_path / "k", rows=5, columns=COLUMNS, fill=lambda _: pytest.fail("written again"))
    assert not made
    assert store.read("a", torch.arange(5)).tolist() == [0, 1, 2, 3, 4]


def test_a_copy_is_read_so_that_the_store_cannot_be_changed(tmp_path: Path) -> None:
    store, _ = _make(tmp_path / "k")
    store.read("a", torch.arange(5)).fill_(9)
    assert store.read("a", torch.arange(5)).tolist() == [0, 1, 2, 3, 4]


def test_the_key_follows_the_content_and_not_its_order() -> None:
    assert Store.key(a=1, b=[2]) == Store.key(b=[2], a=1)
    assert len({Store.key(a=1), Store.key(a=2), Store.key(b=1)}) == 3


def test_jobs_that_start_together_make_it_once(tmp_path: Path) -> None:
    calls = []

    def slow(arrays: Mapping[str, Array]) -> None:
        calls.append(1)
        sleep(0.1)
        _fill(arrays)

    with ThreadPoolExecutor(4) as threads:
        jobs = [threads.submit(Store.create, tmp_path / "k", rows=5, columns=COLUMNS, fill=slow) for _ in range(4)]
        made = [job.result()[1] for job in jobs]
    assert len(calls) == 1
    assert sorted(made) == [False, False, False, True]


def _shorten(folder: Path) -> None:
    path = folder / "b.npy"
    path.write_bytes(path.read_bytes()[:-4])


def _lose_a_column(folder: Path) -> None:
    (folder / "a.npy").unlink()


def _lose_the_index(folder: Path) -> None:
    (folder / "index.json").unlink()


def _garble_the_index(folder: Path) -> None:
    (folder / "index.json").write_text('{"format": 1, "col')


def _swap_shapes(folder: Path) -> None:
    np.save(folder / "b.npy", np.zeros((5, 3, 2), dtype=np.float32))


@pytest.mark.parametrize("damage", [_shorten, _lose_a_column, _lose_the_index, _garble_the_index, _swap_shapes])
def test_damage_is_refused_by_open_and_mended_by_create(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    _make(tmp_path / "k")
    damage(tmp_path / "k")
    with pytest.raises(DataError, match="the store must be"):
        Store.open(tmp_path / "k")
    store, made = _make(tmp_path / "k")
    assert made
    assert store.read("b", torch.arange(5)).sum() == sum(range(30))


def test_a_writer_that_fails_leaves_no_store(tmp_path: Path) -> None:
    def fail(arrays: Mapping[str, Array]) -> None:
        arrays["a"][:] = 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store.create(tmp_path / "k", rows=5, columns=COLUMNS, fill=fail)
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == []
    assert _make(tmp_path / "k")[1]


def test_what_a_killed_writer_left_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / "k.tmp").mkdir()
    (tmp_path / "k.tmp" / "a.npy").write_bytes(b"half")
    assert _make(tmp_path / "k")[1]
    assert not (tmp_path / "k.tmp").exists()


def test_too_little_disk_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1))
    with pytest.raises(DataError, match=r"free space at .* must be at least 32 MB; found 0 MB") as raised:
        _make(tmp_path / "k")
    assert "M3TL_CACHE" in raised.value.hint
    assert not (tmp_path / "k").exists()


def test_a_cache_that_cannot_be_written_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="the cache must be writable"):
        _make(tmp_path / "file" / "k")


def test_the_index_says_what_lies_there(tmp_path: Path) -> None:
    _make(tmp_path / "k")
    index = json.loads((tmp_path / "k" / "index.json").read_text())
    assert index["rows"] == 5
    assert index["columns"]["b"] == {"dtype": "float32", "shape": [2, 3], "bytes": 128 + 30 * 4}


def _pool(folder: Path) -> StorePool:
    columns = {
        "input.rgb": Column("uint8", (3, 2, 2)),
        "input.lidar": Column("float32", (2, 5)),
        "geometry.intrinsics": Column("float32", (3, 3)),
        "geometry.lidar.extrinsics": Column("float32", (3, 4)),
        "geometry.radar.extrinsics": Column("float32", (3, 4)),
        "target.t": Column("int8"),
        "target.u": Column("float32", (1,)),
    }

    def fill(arrays: Mapping[str, Array]) -> None:
        arrays["input.rgb"][:] = 51
        arrays["input.lidar"][:, 0] = [1, 2, 3, 0.5, 1]  # the second ray of each sample did not return
        arrays["target.t"][:] = [0, 1, 2, 3]
        arrays["target.u"][:, 0] = [0.0, 10, 20, 30]

    store, _ = Store.create(folder / "k", rows=4, columns=columns, fill=fill)
    yes, mixed = torch.ones(3, dtype=torch.bool), torch.tensor([True, False, True])
    return StorePool(
        store=store,
        rows=torch.tensor([1, 2, 3]),
        modalities={"rgb": ModalityInfo("rgb", "image", 3, (2, 2)), "lidar": ModalityInfo("lidar", "points", 5, (2, 2), 2)},
        domain=torch.tensor([0, 0, 1]),
        labelled={"t": yes, "u": mixed},
        present={"rgb": mixed, "lidar": yes},
    )


def test_a_pool_reads_a_whole_batch(tmp_path: Path) -> None:
    pool = _pool(tmp_path)
    assert len(pool) == 3
    batch = pool.read(torch.tensor([2, 1]))
    assert batch.index.tolist() == [3, 2]
    assert batch.domain.tolist() == [1, 0]
    assert batch.targets["t"].tolist() == [3, 2]
    assert batch.targets["t"].dtype == torch.int64
    assert batch.targets["u"].tolist() == [[30.0], [20.0]]
    assert batch.labelled["u"].tolist() == [True, False]
    assert batch.inputs["rgb"][0].unique().tolist() == pytest.approx([0.2])
    assert batch.geometry["lidar.position"][0, 0].tolist() == [1, 2, 3]
    assert batch.geometry["lidar.valid"].tolist() == [[True, False]] * 2
    assert set(batch.geometry) == {"intrinsics", "lidar.extrinsics", "lidar.position", "lidar.valid"}


def test_what_an_absent_modality_holds_reads_as_zeros(tmp_path: Path) -> None:
    batch = _pool(tmp_path).read(torch.tensor([0, 1]))
    assert batch.present["rgb"].tolist() == [True, False]
    assert batch.inputs["rgb"][0].any()
    assert not batch.inputs["rgb"][1].any()


def test_only_the_wanted_targets_are_read(tmp_path: Path) -> None:
    batch = _pool(tmp_path).read(torch.tensor([0]), ["u"])
    assert list(batch.targets) == list(batch.labelled) == ["u"]


def test_a_pool_takes_the_rows_of_another_of_its_store(tmp_path: Path) -> None:
    pool = _pool(tmp_path)
    other = StorePool(
        store=pool.store,
        rows=torch.tensor([0]),
        modalities=pool.modalities,
        domain=torch.tensor([2]),
        labelled=dict.fromkeys(("t", "u"), torch.tensor([True])),
        present=dict.fromkeys(("rgb", "lidar"), torch.tensor([True])),
    )
    both = pool.with_rows_of(other)
    batch = both.read(torch.tensor([3, 1, 0]))
    assert (len(both), batch.index.tolist(), batch.domain.tolist()) == (4, [0, 2, 1], [2, 0, 0])
    assert batch.targets["t"].tolist() == [0, 2, 1]
    assert batch.labelled["u"].tolist() == [True, False, True]
    assert batch.present["rgb"].tolist() == [True, False, True]
    elsewhere = _pool(tmp_path / "other")
    with pytest.raises(ValueError, match="must be a pool of"):
        pool.with_rows_of(elsewhere)
