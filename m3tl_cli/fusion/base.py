"""Contract of fusions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

from m3tl_cli.core.contracts import Modality, Signature


class Fusion(nn.Module, ABC):
    """Merge the features of all modalities of the run.

    A subclass takes its hyper-parameters and `inputs: Mapping[Modality, Signature]` as keywords and sets `signature`.
    """

    signature: Signature

    @abstractmethod
    def forward(self, features: Mapping[Modality, Tensor], present: Mapping[Modality, Tensor], geometry: Mapping[str, Tensor]) -> Tensor:
        """Merge.

        Args:
            features: Per modality, shaped as its `inputs` signature says.
            present: [B] bool per modality; what an absent modality holds never reaches the output.
            geometry: Calibration, see `Batch.geometry`.

        Returns:
            As `signature` says: a map where any input is a map or has a place in an image, else a vector.
        """
