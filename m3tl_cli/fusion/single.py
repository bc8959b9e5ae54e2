"""No fusion."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from m3tl_cli.core.contracts import Modality, Signature
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.fusion.base import Fusion


class Single(Fusion):
    """Hand the features of the run's only modality on as they are, zeros where it is absent.

    It has no parameters, so that an encoder of a paper can be followed by that paper's head with nothing between them.

    Args:
        inputs: One vector or one map.

    Raises:
        ConfigError: If there are several modalities, or the one is a set of tokens.
    """

    def __init__(self, *, inputs: Mapping[Modality, Signature]) -> None:
        super().__init__()
        if len(inputs) != 1:
            raise ConfigError(
                f"`modalities` must be one with this fusion, which merges nothing; found {', '.join(inputs) or 'none'}.",
                hint="fusion=gated, or keep one of data.modalities",
                place="fusion",
            )
        ((self.modality, signature),) = inputs.items()
        if signature.kind == "tokens":
            raise ConfigError(
                f"`{self.modality}` must be a vector or a map with this fusion, which pools nothing; found tokens.",
                hint="fusion=gated or concat",
                place="fusion",
            )
        self.signature = signature

    def forward(self, features: Mapping[Modality, Tensor], present: Mapping[Modality, Tensor], geometry: Mapping[str, Tensor]) -> Tensor:  # noqa: ARG002
        """The features, [B, D] or [B, D, h, w]; zeros where the modality is absent."""
        x = features[self.modality]
        return torch.where(present[self.modality].view(-1, *[1] * (x.dim() - 1)), x, x.new_zeros(()))
