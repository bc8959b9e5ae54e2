"""Outputs of frozen encoders: computed once, kept in a memory-mapped store, and read by a pool in the place of the inputs.

Stored features stand for every column's encoder of a modality at once, so these must be equal: `encoder_key` tells. They are good for as
long as nothing moves the encoder; whoever lets it move closes the pools first, and a pool that is closed refuses to be read.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from m3tl_cli.core.contracts import Batch, Modality, Name, Pool, Progress, TaskName, quiet
from m3tl_cli.core.folders import cache_folder
from m3tl_cli.core.weights import digest
from m3tl_cli.data.store import Array, Column, Store, StorePool

Encode = Callable[[Tensor], Tensor]
"""A frozen encoder in evaluation mode: inputs [B, ...] as a batch holds them, on the CPU, to features [B, ...] on any device."""

NEEDLESS = ("image", "table")
"""Kinds of modality that nothing but their encoder reads; points also give their places, texts which tokens are there."""


@dataclass(frozen=True)
class Encoded:
    """Features of one modality.

    Args:
        array: [S + 1, ...], memory-mapped. The last row is what the encoder puts out for zeros, which is what it sees of an absent input.
        place: Row of the samples' store, [R], to a row of `array`; -1, which is the last one, for rows where the modality is absent.
    """

    array: Array
    place: Tensor

    def read(self, rows: Tensor, present: Tensor) -> Tensor:
        """Copy the features of the samples' rows [B] in one indexed read.

        Raises:
            RuntimeError: Where a sample is present whose features were never computed.
        """
        known = rows < len(self.place)
        at = torch.where(known & present, self.place[rows.clamp(max=len(self.place) - 1)], -1)
        if (present & (at < 0)).any():
            raise RuntimeError(f"row {int(rows[present & (at < 0)][0])} has no stored features: its pool was not among those encoded")
        return torch.from_numpy(self.array[at.numpy()])


class FeaturePool:
    """Read another pool, with the features of frozen encoders in the place of the inputs of their modalities.

    Everything else is the pool's: calibration, presence, targets, index. Made by `precompute`.

    Args:
        pool: The samples.
        encoded: Features by modality, for every row of the samples' store where it is present.
    """

    def __init__(self, *, pool: Pool, encoded: Mapping[Modality, Encoded]) -> None:
        self.domain = pool.domain
        self.labelled: Mapping[TaskName, Tensor] = pool.labelled
        self._pool = without_inputs(pool, tuple(encoded))
        self._encoded: Mapping[Modality, Encoded] | None = dict(encoded)

    def __len__(self) -> int:
        return len(self.domain)

    def read(self, index: Tensor, tasks: Sequence[TaskName] | None = None) -> Batch:
        """Read positions [B] of this pool, with the targets of `tasks` (all by default).

        Raises:
            RuntimeError: After `close`: the encoder may have moved since its outputs were stored.
        """
        if self._encoded is None:
            raise RuntimeError("stored features must not be read once their encoder may move; this pool was closed")
        batch = self._pool.read(index, tasks)
        features = {m: encoded.read(batch.index, batch.present[m]) for m, encoded in self._encoded.items()}
        inputs = {m: x for m, x in batch.inputs.items() if m not in features}
        return replace(batch, inputs=inputs, features={**batch.features, **features})

    def close(self) -> None:
        """End: the encoders are about to move. The files stay, for a run that starts from the same weights."""
        self._encoded = None


def precompute(
    pools: Sequence[Pool],
    encode: Mapping[Modality, Encode],
    keys: Mapping[Modality, str],
    *,
    batch_size: int,
    folder: Path | None = None,
    progress: Progress = quiet,
) -> tuple[FeaturePool, ...]:
    """Run each frozen encoder once over every sample of the pools, unless its outputs are stored already.

    A stored feature equals the recomputed one to the bit where the encoder's kernels do not depend on the size of a batch, else to their
    rounding, about 1e-6 of its size. No derivatives are taken and no random number is drawn.

    Args:
        pools: Pools of one store of samples; rows that several of them hold are encoded once.
        encode: Frozen encoders by modality.
        keys: For each of them, what decides its outputs but for the rows: the key of the samples' store and `encoder_key`, for example
            by `Store.key(samples=..., encoder=...)`.
        batch_size: Samples in one pass of an encoder.
        folder: Where stores of features lie; None: `features` in the cache.
        progress: Told how many samples are encoded.

    Returns:
        The pools in order, reading features; the same object where the same pool was given twice.

    Raises:
        DataError: If the disk has too little room, or cannot be written.
    """
    folder = cache_folder() / "features" if folder is None else folder
    layouts = [_layout(pool, tuple(encode), batch_size) for pool in pools]
    encoded: dict[Modality, Encoded] = {}
    for modality, run in encode.items():
        rows = torch.cat([index[present[modality]] for index, present in layouts]).unique()
        place = torch.full((1 + max(int(index.max()) for index, _ in layouts),), -1)
        place[rows] = torch.arange(len(rows))
        work = _Work(pools, layouts, modality, run, place, batch_size, progress)
        store, _ = Store.create(
            folder / Store.key(encoder=keys[modality], rows=hashlib.blake2b(rows.numpy().tobytes()).hexdigest()),
            rows=len(rows) + 1,
            columns={"feature": Column(str(work.nothing.dtype), work.nothing.shape)},
            fill=work.fill,
        )
        encoded[modality] = Encoded(store.columns["feature"], place)
    made = {id(pool): FeaturePool(pool=pool, encoded=encoded) for pool in pools}
    return tuple(made[id(pool)] for pool in pools)


def encoder_key(state: Mapping[Name, Tensor], config: Mapping[str, object]) -> str:
    """A key that is equal for encoders that compute the same.

    Args:
        state: Its state dict: weights and statistics.
        config: What else decides what it computes: its config node, JSON types.
    """
    return Store.key(weights=digest(state), config=dict(config))


def without_inputs(pool: Pool, modalities: Sequence[Modality]) -> Pool:
    """The same samples, without the cost of reading the inputs of these modalities where nothing else is made of them."""
    if not isinstance(pool, StorePool):
        return pool
    nothing = np.zeros((len(pool.store), 0), np.float32)
    needless = {f"input.{m}" for m in modalities if m in pool.modalities and pool.modalities[m].kind in NEEDLESS}
    lean = copy.copy(pool)
    lean.store = Store(folder=pool.store.folder, columns={n: nothing if n in needless else c for n, c in pool.store.columns.items()})
    return lean


class _Work:
    """Encode one modality of all samples; the first thing that it does is to look at zeros, for the shape of a feature."""

    def __init__(
        self,
        pools: Sequence[Pool],
        layouts: Sequence[tuple[Tensor, Mapping[Modality, Tensor]]],
        modality: Modality,
        encode: Encode,
        place: Tensor,
        batch_size: int,
        progress: Progress,
    ) -> None:
        self._layouts, self._modality, self._encode = layouts, modality, encode
        self._place, self._batch_size, self._progress = place, batch_size, progress
        others = [m for m in layouts[0][1] if m != modality]
        self._pools = [without_inputs(pool, others) for pool in pools]
        self.nothing = self._run(torch.zeros_like(self._pools[0].read(torch.zeros(1, dtype=torch.long), []).inputs[modality]))[0]

    def fill(self, arrays: Mapping[str, Array]) -> None:
        features = arrays["feature"]
        features[-1] = self.nothing
        done, total = torch.zeros(len(self._place), dtype=torch.bool), len(features) - 1
        for pool, (rows, present) in zip(self._pools, self._layouts, strict=True):
            wanted = torch.nonzero(present[self._modality] & ~done[rows]).flatten()
            for index in wanted.split(self._batch_size) if len(wanted) else ():
                features[self._place[rows[index]].numpy()] = self._run(pool.read(index, []).inputs[self._modality])
                done[rows[index]] = True
                self._progress(f"encode {self._modality}", int(done.sum()), total)

    def _run(self, x: Tensor) -> Array:
        with torch.no_grad():
            feature = self._encode(x)
        # Half precision has no room for what the rest of the network makes of it, and numpy knows no bfloat16.
        feature = feature if feature.dtype == torch.float64 else feature.float()
        return feature.cpu().numpy()


def _layout(pool: Pool, modalities: Sequence[Modality], batch_size: int) -> tuple[Tensor, Mapping[Modality, Tensor]]:
    """Row in the samples' store [N], and presence [N] per modality, of every position of a pool."""
    if isinstance(pool, StorePool):
        return pool.rows, pool.present
    batches = [pool.read(index, []) for index in torch.arange(len(pool)).split(batch_size)]
    present = {m: torch.cat([batch.present[m] for batch in batches]) for m in modalities}
    return torch.cat([batch.index for batch in batches]), present
