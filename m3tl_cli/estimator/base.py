"""Contract of estimators."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

Rows = npt.NDArray[np.float64]
"""[N, D] a row per sample, the columns of all tables side by side; NaN where a cell is missing."""


@dataclass(frozen=True)
class Labels:
    """What one task says of N rows.

    Args:
        ideal_NO: What a head should put out; +-1 for classes and for yes or no, standardised values else, finite where unknown.
        known_NO: Bool.
        prior_O: The constant output that fits them best: logarithms of frequencies or of odds, or the mean.
        activation: What turns outputs into predictions: `softmax` over classes, `sigmoid` of yes or no, or `identity`.
    """

    ideal_NO: Tensor
    known_NO: Tensor
    prior_O: Tensor
    activation: Literal["identity", "softmax", "sigmoid"]


class Fitted(ABC):
    """One fitted task. It is built up in rounds, so that a validation can say how many of them to use.

    Attributes:
        num_rounds: Rounds that were fitted; 0 where the labels leave nothing to fit, and every output is the prior.
    """

    num_rounds: int

    @abstractmethod
    def outputs(self, x: Rows, rounds: Sequence[int]) -> list[Tensor]:
        """What a head would put out, [B, O] float32 on the CPU, after each of these numbers of rounds.

        Args:
            x: [B, D], the columns that were fitted.
            rounds: 0 is the prior; more than `num_rounds` are `num_rounds`.
        """

    @abstractmethod
    def num_parameters(self, rounds: int) -> int:
        """Fitted numbers that outputs are made of after so many rounds; 0 for the prior."""


class Estimator(ABC):
    """Fit one task at a time to rows of numbers, some of which may be missing. It shares nothing between tasks and knows no network.

    A subclass takes its hyper-parameters as keywords, and `seed`.
    """

    @abstractmethod
    def fit(self, x: Rows, labels: Labels) -> Fitted:
        """Fit rows [N, D], N at least 1, to their labels."""
