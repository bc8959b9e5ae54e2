"""Files of tensors from elsewhere: reading them without running anybody's code, and what became of their tensors."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from m3tl_cli.core.contracts import Name
from m3tl_cli.core.errors import DataError

SUFFIXES = (".safetensors", ".pt", ".pth", ".th", ".bin")
"""Endings of files that `read` takes."""

SHOWN = 3  # names that a line of the log shows


@dataclass(frozen=True)
class Loaded:
    """What became of the tensors of a source.

    Args:
        source: Where they come from, for people.
        loaded: Names that were copied into the network.
        new: Names of the network that the source lacks or has in another shape; they keep their start.
        dropped: Names of the source that the network has no use for, with the reason.
    """

    source: str
    loaded: tuple[Name, ...]
    new: tuple[Name, ...]
    dropped: Mapping[Name, str]

    def lines(self) -> tuple[str, ...]:
        """The table for the log: how many loaded; how many new and dropped, and the first of them."""
        reasons = [f"{name} ({reason})" for name, reason in self.dropped.items()]
        rows = [f"{len(self.loaded)} loaded"]
        rows += [f"{len(self.new)} new: {_some(self.new)}"] if self.new else []
        rows += [f"{len(reasons)} dropped: {_some(reasons)}"] if reasons else []
        return tuple(rows)

    def __str__(self) -> str:
        return "; ".join(self.lines())


def read(path: Path, key: str) -> dict[Name, Tensor]:
    """Tensors of a file by name, on the CPU, without the prefix `module.` that torch's data parallelism leaves.

    Args:
        path: Ends in one of `SUFFIXES`. Of a pickle nothing but tensors is unpickled; a state dict may stand under `state_dict` or
            `model`.
        key: The setting that names the file, for the message.

    Raises:
        DataError: If the file cannot be read, or holds no tensors.
    """
    try:
        found: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise DataError(f"`{key}` must be a file of tensors; found {type(error).__name__}: {error}", place=str(path)) from error
    while isinstance(found, Mapping) and (
        inner := next((found[k] for k in ("state_dict", "model") if isinstance(found.get(k), Mapping)), None)
    ):
        found = inner
    if not isinstance(found, Mapping) or not any(isinstance(v, Tensor) for v in found.values()):
        raise DataError(f"`{key}` must map names to tensors; found none.", place=str(path))
    return {str(n).removeprefix("module."): v for n, v in found.items() if isinstance(v, Tensor)}


def match(there: Mapping[Name, Tensor], net: Mapping[Name, Tensor], source: str) -> tuple[dict[Name, Tensor], Loaded]:
    """Tensors of `there` that `net` has under the same name and in the same shape, and the table of all others.

    Args:
        there: What a source holds.
        net: What the network holds.
        source: Of the table.
    """
    fits = {n: v for n, v in there.items() if n in net and v.shape == net[n].shape}
    table = Loaded(
        source=source,
        loaded=tuple(fits),
        new=tuple(n for n in net if n not in fits),
        dropped={n: f"{_shape(v)}, not {_shape(net[n])}" if n in net else "unknown" for n, v in there.items() if n not in fits},
    )
    return fits, table


def digest(tensors: Mapping[Name, Tensor]) -> str:
    """32 hexadecimal digits, equal where names, types, shapes and every bit are equal, in whatever order."""
    found = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name}\x1f{tensor.dtype}\x1f{tuple(tensor.shape)}\x1f".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _some(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
