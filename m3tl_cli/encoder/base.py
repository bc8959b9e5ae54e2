"""Contract of encoders."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from m3tl_cli.core.contracts import Signature


class Encoder(nn.Module, ABC):
    """Turn one modality into a feature.

    A subclass takes its hyper-parameters and `modality: ModalityInfo` as keywords and sets `signature`.

    Attributes:
        signature: What comes out.
        notes: What the log should say of how it started: weights that were loaded, names that did not fit.
    """

    signature: Signature
    notes: tuple[str, ...] = ()

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Encode.

        Args:
            x: Image [B, C, H, W] in [0, 1]; points [B, N, C], the last column 1 where the ray returned; table [B, C];
                text [B, N, 2] of integers, token and 1 where there is one.

        Returns:
            As `signature` says: vector [B, D], tokens [B, N, D] in the order of the points, or map [B, D, h, w].
        """
