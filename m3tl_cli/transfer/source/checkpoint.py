"""Encoders of an earlier run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open
from torch import Tensor

from m3tl_cli.core.contracts import Name
from m3tl_cli.core.errors import ConfigError, DataError
from m3tl_cli.core.weights import digest
from m3tl_cli.transfer.base import Source

INSIDE = "model/"
"""What a checkpoint puts before the names of the model's parameters."""

PLACE = "transfer.source.run"


class Checkpoint(Source):
    """Start from the encoders that an earlier run trained.

    Only they are read from the file; nothing in it is executed.

    Args:
        run: Folder of the run, or one of its checkpoint files.
        which: Of a folder: the checkpoint that validation found best, or the last.

    Raises:
        ConfigError: If there is no such checkpoint, or its encoders carry adapters.
        DataError: If the file is damaged, or not a checkpoint of this program.
    """

    def __init__(self, *, run: str, which: Literal["best", "last"]) -> None:
        self.path = _path(Path(run).expanduser(), which)

    def tensors(self) -> Mapping[Name, Tensor]:
        """The run's encoder tensors, on the CPU."""
        try:
            with safe_open(self.path, framework="pt") as file:
                ours = "m3tl" in (file.metadata() or {})
                names = [n for n in file.keys() if n.startswith(f"{INSIDE}encoder.")]  # noqa: SIM118 (not a mapping)
                found = {n.removeprefix(INSIDE): file.get_tensor(n) for n in names}
        except (OSError, SafetensorError) as error:
            raise DataError(f"a checkpoint must be a readable safetensors file; found: {error}", place=str(self.path)) from error
        if not ours or not found:
            problem = "no encoder in it" if ours else "no state in its header"
            hint = "" if ours else "a file from elsewhere: transfer/source=weights"
            raise DataError(f"a checkpoint must hold encoders that m3tl wrote; found {problem}", hint=hint, place=str(self.path))
        if adapted := [n for n in found if ".base_layer." in n]:
            raise ConfigError(
                f"the encoders of `run` must be plain networks; found adapters around {len(adapted)} of their tensors.",
                hint="train that run with transfer/handover=fine_tune or extract",
                place=PLACE,
            )
        return found

    def identity(self) -> Mapping[str, Any]:
        """A hash of the tensors; the file may move."""
        return {"tensors": digest(self.tensors())}


def _path(run: Path, which: str) -> Path:
    if run.is_file():
        return run
    path = run / "checkpoints" / f"{which}.safetensors"
    if path.is_file():
        return path
    there = sorted(p.stem for p in path.parent.glob("*.safetensors"))
    if there:
        problem, hint = f"the folder has {' and '.join(there)}", f"transfer.source.which={there[0]}"
    elif run.is_dir():
        problem, hint = f"no checkpoints in `{run.absolute()}`", "a run that trained has the folder checkpoints"
    else:
        problem, hint = f"nothing at `{run.absolute()}`", "transfer.source.run=outputs/train/..."
    raise ConfigError(
        f"`run` must be a run folder with checkpoints/{which}.safetensors, or a file; found {problem}.", hint=hint, place=PLACE
    )
