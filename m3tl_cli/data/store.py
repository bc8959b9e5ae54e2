"""The prepared store: one memory-mapped array per column, made once, found again by its content; and the pool that reads it.

`<cache>/store/<key>/` holds `index.json` and `<column>.npy`; row i of every column belongs to sample i. A batch is one indexed read
per column.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from torch import Tensor

from m3tl_cli.core.contracts import Batch, Modality, ModalityInfo, TaskName
from m3tl_cli.core.errors import DataError

Array = npt.NDArray[Any]
Fill = Callable[[Mapping[str, Array]], None]
"""Writes every row of every column, which arrive as writable arrays of zeros."""

FORMAT = 1  # of the folder; another format is never read
SPARE = 32 * 2**20  # bytes that stay free on the disk beside the store


@dataclass(frozen=True)
class Column:
    """One array of a store.

    Args:
        dtype: numpy's name, for example `uint8`.
        shape: Of one row; empty for a number.
    """

    dtype: str
    shape: tuple[int, ...] = ()

    def num_bytes(self, rows: int) -> int:
        """Size of the numbers, without the header of the file."""
        return rows * math.prod(self.shape) * np.dtype(self.dtype).itemsize


class Store:
    """Read columns of a prepared folder. Made by `create` or `open`.

    Args:
        folder: Where it lies.
        columns: Memory-mapped arrays by name, [N, ...] each.
    """

    def __init__(self, *, folder: Path, columns: Mapping[str, Array]) -> None:
        self.folder = folder
        self.columns = dict(columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def read(self, column: str, index: Tensor) -> Tensor:
        """Copy rows [B] of a column in one indexed read, in the column's dtype, [B, ...]."""
        return torch.from_numpy(self.columns[column][index.numpy()])

    @staticmethod
    def key(**content: object) -> str:
        """Name of the folder for everything that decides the content, 32 hexadecimal digits; the values must be JSON types."""
        return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()

    @classmethod
    def open(cls, folder: Path) -> Store:
        """Map a finished store.

        Raises:
            DataError: It is not there, was written by another version, or a file does not have the size and shape that
                `index.json` gives.
        """
        try:
            index = json.loads((folder / "index.json").read_text())
        except FileNotFoundError:
            raise DataError(f"the store must be prepared; found nothing at {folder}.", hint="m3tl data prepare") from None
        except (OSError, ValueError) as error:
            raise _damaged(folder, f"`index.json` cannot be read: {error}") from error
        if not isinstance(index, dict) or index.get("format") != FORMAT or not index.get("columns"):
            raise _damaged(folder, "`index.json` is not of this version's format")
        columns: dict[str, Array] = {}
        for name, told in index["columns"].items():
            path = folder / f"{name}.npy"
            try:
                size = path.stat().st_size
                mapped = np.load(path, mmap_mode="r", allow_pickle=False) if size == told["bytes"] else None
            except (OSError, ValueError) as error:
                raise _damaged(folder, f"`{path.name}` cannot be read: {error}") from error
            if mapped is None:
                raise _damaged(folder, f"`{path.name}` must have {told['bytes']} bytes; found {size}")
            if [str(mapped.dtype), *mapped.shape] != [told["dtype"], index["rows"], *told["shape"]]:
                raise _damaged(
                    folder, f"`{path.name}` must hold {told['dtype']} {told['shape']} a row; found {mapped.dtype} {mapped.shape}"
                )
            columns[name] = mapped
        return cls(folder=folder, columns=columns)

    @classmethod
    def create(cls, folder: Path, *, rows: int, columns: Mapping[str, Column], fill: Fill) -> tuple[Store, bool]:
        """Open the store, or make it where it is absent or damaged.

        Processes that want the same folder wait for the first one, which makes it. Until the last byte is on the disk the folder has
        another name.

        Args:
            folder: Where it shall lie; its last part is the content's key.
            rows: N, above 0.
            columns: What a row holds.
            fill: Writes it; whatever it raises leaves no store.

        Returns:
            The store, and whether it had to be made.

        Raises:
            DataError: The disk has too little room, or the folder cannot be written.
        """
        try:
            return cls.open(folder), False
        except DataError:
            pass
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_name(f"{folder.name}.lock")):
                try:
                    return cls.open(folder), False  # another process was quicker
                except DataError:
                    _write(folder, rows, columns, fill)
                return cls.open(folder), True
        except OSError as error:
            raise DataError(
                f"the cache must be writable; found {error}.", hint="set M3TL_CACHE to a folder with room", place=str(folder)
            ) from error


def _write(folder: Path, rows: int, columns: Mapping[str, Column], fill: Fill) -> None:
    """Make the folder under another name, and rename it when everything is on the disk. The caller holds the lock."""
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    shutil.rmtree(folder, ignore_errors=True)  # damaged, or it would have been opened
    needed = sum(c.num_bytes(rows) for c in columns.values())
    free = shutil.disk_usage(folder.parent).free
    if free < needed + SPARE:
        raise DataError(
            f"the free space at {folder.parent} must be at least {(needed + SPARE) / 2**20:.0f} MB; found {free / 2**20:.0f} MB.",
            hint="free some space, or set M3TL_CACHE to a folder with room",
        )
    temporary.mkdir()
    try:
        arrays = {
            name: np.lib.format.open_memmap(temporary / f"{name}.npy", mode="w+", dtype=np.dtype(c.dtype), shape=(rows, *c.shape))
            for name, c in columns.items()
        }
        fill(arrays)
        for array in arrays.values():
            array.flush()
        del arrays
        told = {
            name: {"dtype": str(np.dtype(c.dtype)), "shape": list(c.shape), "bytes": (temporary / f"{name}.npy").stat().st_size}
            for name, c in columns.items()
        }
        (temporary / "index.json").write_text(json.dumps({"format": FORMAT, "rows": rows, "columns": told}, indent=1))
        for path in [*temporary.iterdir(), temporary]:
            _to_disk(path)
        temporary.rename(folder)
        _to_disk(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _damaged(folder: Path, what: str) -> DataError:
    return DataError(f"the store must be whole; found that {what}.", hint=f"rm -r {folder}", place=str(folder))


class StorePool:
    """Rows of a store as a `Pool`.

    It reads the columns `input.<modality>`, `target.<task>`, and those of the calibration, `geometry.<name>`. Images may be stored as
    uint8 (they become float in [0, 1]), classes as any integers (they become int64).

    Args:
        store: Where the samples lie.
        rows: [N] their rows.
        modalities: Those of the run, in config order.
        domain: [N] index into the data's domains.
        labelled: [N] bool per task; its keys are the tasks.
        present: [N] bool per modality. What an absent modality holds reads as zeros.
    """

    def __init__(
        self,
        *,
        store: Store,
        rows: Tensor,
        modalities: Mapping[Modality, ModalityInfo],
        domain: Tensor,
        labelled: Mapping[TaskName, Tensor],
        present: Mapping[Modality, Tensor],
    ) -> None:
        self.store = store
        self.rows = rows
        self.modalities = dict(modalities)
        self.domain = domain
        self.labelled: Mapping[TaskName, Tensor] = dict(labelled)
        self.present = dict(present)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: Tensor, tasks: Sequence[TaskName] | None = None) -> Batch:
        """Read positions [B] of this pool, with the targets of `tasks` (all by default)."""
        index = index.cpu()
        rows = self.rows[index]
        present = {m: self.present[m][index] for m in self.modalities}
        geometry = {name.removeprefix("geometry."): self.store.read(name, rows) for name in self.store.columns if self._calibrates(name)}
        inputs: dict[Modality, Tensor] = {}
        for name, info in self.modalities.items():
            x = self.store.read(f"input.{name}", rows)
            if x.dtype == torch.uint8:
                x = x.float() / 255
            if not present[name].all():
                x[~present[name]] = 0
            if info.kind == "points":
                geometry[f"{name}.position"] = x[..., :3]
            if info.kind in ("points", "text"):
                geometry[f"{name}.valid"] = x[..., -1] > 0
            inputs[name] = x
        wanted = list(self.labelled) if tasks is None else list(tasks)
        return Batch(
            inputs=inputs,
            features={},
            present=present,
            geometry=geometry,
            targets={t: self._target(t, rows) for t in wanted},
            labelled={t: self.labelled[t][index] for t in wanted},
            index=rows,
            domain=self.domain[index],
        )

    def with_rows_of(self, other: StorePool) -> StorePool:
        """This pool's rows, then those of another pool of the same store and tasks.

        Raises:
            ValueError: If it is of another store, or other tasks.
        """
        if other.store.folder != self.store.folder or other.labelled.keys() != self.labelled.keys():
            raise ValueError(f"`other` must be a pool of {self.store.folder} with the same tasks; found one of {other.store.folder}")
        return StorePool(
            store=self.store,
            rows=torch.cat([self.rows, other.rows]),
            modalities=self.modalities,
            domain=torch.cat([self.domain, other.domain]),
            labelled={t: torch.cat([known, other.labelled[t]]) for t, known in self.labelled.items()},
            present={m: torch.cat([there, other.present[m]]) for m, there in self.present.items()},
        )

    def _target(self, task: TaskName, rows: Tensor) -> Tensor:
        target = self.store.read(f"target.{task}", rows)
        return target if target.is_floating_point() else target.long()

    def _calibrates(self, column: str) -> bool:
        """Whether the column is calibration of the camera or of a modality of the run."""
        kind, _, name = column.partition(".")
        owner, _, rest = name.rpartition(".")
        return kind == "geometry" and bool(rest) and (not owner or owner in self.modalities)
