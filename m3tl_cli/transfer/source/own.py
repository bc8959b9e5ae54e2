"""Encoders that bring weights of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from m3tl_cli.core.contracts import Name
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.core.weights import Loaded
from m3tl_cli.transfer.base import Source


class Own(Source):
    """Keep what encoders loaded when they were made (`encoder/image=timm encoder.image.weights=hub`); at least one of them must have.

    An encoder that did says so by an attribute `loaded`, the table of its weights file. What it added to that network, such as a
    projection to another width, counts as new; so does an encoder that starts at random beside it.
    """

    def load(self, model: nn.Module, trained: Mapping[Name, Tensor] | None = None) -> Loaded:  # noqa: ARG002
        """Say what the encoders of the model brought.

        Raises:
            ConfigError: If none brought anything.
        """
        loaded: list[Name] = []
        new: list[Name] = []
        sources: dict[str, None] = {}
        encoders = {path: m for path, m in model.named_modules() if path.startswith("encoder.") and path.count(".") == 2}
        for path, encoder in encoders.items():
            table = getattr(encoder, "loaded", None)
            brought = frozenset(table.loaded) if isinstance(table, Loaded) else frozenset()
            if isinstance(table, Loaded):
                sources[table.source] = None
            for name in encoder.state_dict():
                # The network lies one level below the encoder, under whatever name that gives it.
                came = name in brought or name.partition(".")[2] in brought
                (loaded if came else new).append(f"{path}.{name}")
        if not loaded:
            modalities = ", ".join(dict.fromkeys(path.rpartition(".")[2] for path in encoders)) or "none"
            raise ConfigError(
                f"an encoder must load weights itself with transfer/source=own; found none that does (modalities: {modalities}).",
                hint="encoder/image=timm encoder.image.weights=hub, or transfer/source=pretrained_here",
                place="transfer.source",
            )
        return Loaded(", ".join(sources), tuple(loaded), tuple(new), {})

    def identity(self) -> Mapping[str, Any]:
        """Nothing beyond the encoders' own config, which is the caller's to name."""
        return {}
