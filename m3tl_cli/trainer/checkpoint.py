"""Checkpoints: one safetensors file each, tensors inside and everything else as JSON in its header; replaced in one step.

Nothing is pickled, so a checkpoint from a stranger can be opened.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from m3tl_cli.core.contracts import Name
from m3tl_cli.core.errors import DataError

_TENSOR = "__tensor__"


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write nested dicts and lists of tensors and JSON types.

    A reader sees the old file or the new one; what was written is on the disk when this returns.
    """
    tensors: dict[str, Tensor] = {}
    header = {"m3tl": json.dumps(_split(state, "", tensors))}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    save_file(tensors, temporary, metadata=header)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load(path: Path) -> dict[str, Any]:
    """Inverse of `save`; tensors on the CPU.

    Raises:
        DataError: If the file is absent, damaged, or not a checkpoint of this program.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("m3tl")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError) as error:
        raise DataError(f"a checkpoint must be a readable safetensors file; found: {error}", place=str(path)) from error
    if header is None:
        raise DataError("a checkpoint must have been written by m3tl; found no state in its header", place=str(path))
    state: dict[str, Any] = _join(json.loads(header), tensors)
    return state


def updates(path: Path) -> int:
    """Updates of the run done when the checkpoint was written, read from the header alone; 0 where there is no file."""
    header = _header(path)
    return int(header["counters"]["updates"]) + int(header.get("first", 0)) if header else 0


def about(path: Path) -> dict[str, Any]:
    """What the run said of itself when the checkpoint was written, read from the header alone; empty where there is no file."""
    found: dict[str, Any] = _header(path).get("about", {})
    return found


def _header(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    with safe_open(path, framework="pt") as file:
        header: dict[str, Any] = json.loads((file.metadata() or {})["m3tl"])
    return header


def optimizer_state(optimizer: torch.optim.Optimizer, names: Mapping[int, Name]) -> dict[Name, dict[str, Any]]:
    """State per parameter name; `names` maps `id(parameter)` to its name."""
    return {names[id(p)]: dict(state) for p, state in optimizer.state.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, params: Mapping[Name, Tensor], state: Mapping[Name, Mapping[str, Any]]) -> None:
    """Inverse of `optimizer_state`, on the parameters' devices (step counters stay where the optimiser keeps them: on the CPU)."""
    for name, values in state.items():
        param = params[name]
        optimizer.state[param] = {
            k: v.to(param.device) if isinstance(v, Tensor) and v.shape == param.shape and v.dim() else v for k, v in values.items()
        }


def _split(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        # A clone, because safetensors refuses tensors that share memory.
        tensors[place] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {_TENSOR: place}
    if isinstance(value, Mapping):
        return {k: _split(v, f"{place}/{k}" if place else str(k), tensors) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_split(v, f"{place}/{i}", tensors) for i, v in enumerate(value)]
    return value


def _join(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        return tensors[value[_TENSOR]] if _TENSOR in value else {k: _join(v, tensors) for k, v in value.items()}
    if isinstance(value, list):
        return [_join(v, tensors) for v in value]
    return value
