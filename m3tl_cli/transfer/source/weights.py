"""Encoder weights from a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from m3tl_cli.core.contracts import Name
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.core.weights import SUFFIXES, digest, read
from m3tl_cli.transfer.base import Source

PLACE = "transfer.source"


class Weights(Source):
    """Start one modality's encoder from a file of tensors; encoders of other modalities start at random.

    Args:
        file: safetensors; or .pt, .pth, .th, .bin, of which nothing but tensors is unpickled. Names may carry the prefix `module.`.
        modality: Whose encoder the file holds.
        file_prefix: Names in the file that start with this are read, without it (`backbone.` of a detector); empty: all of them.
        encoder_prefix: What the encoder's own names have before those of the file (`net.` for a network of timm); often empty.

    Raises:
        ConfigError: If there is no such file, no name in it has the prefix, or it is a checkpoint of this program.
        DataError: If the file cannot be read, or holds no tensors.
    """

    def __init__(self, *, file: str, modality: str, file_prefix: str, encoder_prefix: str) -> None:
        self.path = Path(file).expanduser()
        self.modality, self.file_prefix, self.encoder_prefix = modality, file_prefix, encoder_prefix
        if self.path.suffix not in SUFFIXES or not self.path.is_file():
            problem = f"no file `{self.path.absolute()}`" if self.path.suffix in SUFFIXES else f"`{file}`"
            raise ConfigError(
                f"`file` must be a file ending in {', '.join(SUFFIXES)}; found {problem}.",
                hint=f"{PLACE}.file=/path/model.safetensors",
                place=f"{PLACE}.file",
            )

    def tensors(self) -> Mapping[Name, Tensor]:
        """The file's tensors under the names of the modality's encoder, on the CPU."""
        found = read(self.path, "file")
        if any(n.startswith("model/encoder.") for n in found):
            raise ConfigError(
                "`file` must hold the tensors of one network; found a checkpoint of m3tl.",
                hint=f"transfer/source=checkpoint {PLACE}.run={self.path}",
                place=f"{PLACE}.file",
            )
        inside = {n.removeprefix(self.file_prefix): v for n, v in found.items() if n.startswith(self.file_prefix)}
        if not inside:
            raise ConfigError(
                f"`file_prefix` must begin some name of the file; found {self.file_prefix!r}, and names such as {next(iter(found))}.",
                hint=f"{PLACE}.file_prefix='' reads all of them",
                place=f"{PLACE}.file_prefix",
            )
        return {f"encoder.shared.{self.modality}.{self.encoder_prefix}{n}": v for n, v in inside.items()}

    def identity(self) -> Mapping[str, Any]:
        """A hash of the tensors under their new names; the file may move."""
        return {"tensors": digest(self.tensors())}
