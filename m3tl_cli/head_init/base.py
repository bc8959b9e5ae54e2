"""Contract of head initialisations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True)
class Support:
    """What the last layer of a new head can learn from before its first step.

    Args:
        prior_O: The constant that fits best without looking at the input, at least one label being known.
        features_ND: Rows that the last layer reads, under the hidden layers that the head starts with: a row per sample of a vector
            task, a row per cell of the map of a dense one. Attached to the graph of the parameters that made them. Float32 or float64.
            No rows (N = 0) for a head initialisation that needs no features.
        ideal_NO: What the last layer should put out at each row; +-1 for classes and for yes or no, finite where unknown.
        known_NO: Bool. Every row has a known entry; an output may have none. N may be 0 where a head that resizes loses the few labels.
        activation: What turns outputs into predictions: `softmax` over C classes, `sigmoid` of each output, or `identity`. Of classes
            the O outputs are C blocks, one a class, of one output for each pixel of a cell, the order of a pixel shuffle.
        num_classes: C for `softmax`; else the number of outputs of the task.
    """

    prior_O: Tensor
    features_ND: Tensor
    ideal_NO: Tensor
    known_NO: Tensor
    activation: Literal["identity", "softmax", "sigmoid"]
    num_classes: int


class HeadInit(ABC):
    """Say how the head of a new task starts: with whose hidden layers, and with which last layer.

    It knows tensors; neither a model nor a task: `paradigm/heads.py` brings the support and puts the answer in place. A subclass takes
    its hyper-parameters as keywords.

    Attributes:
        needs_features: Whether `out` reads the support's rows, which cost a pass through the network; without, it sees the prior alone.
        donor: Whose hidden layers the head starts with: `none`: its own, as constructed; `family`: those of a trained task of the same
            kind, else of one with the same class of head; `similar`: those of the trained task of the least `misfit`. Only a task
            whose hidden layers have the same names and shapes can be a donor.
    """

    needs_features: bool
    donor: Literal["none", "family", "similar"] = "none"

    @abstractmethod
    def out(self, weight_OD: Tensor, bias_O: Tensor | None, support: Support) -> tuple[Tensor, Tensor | None]:
        """Weight [O, D] and bias [O] of the last layer, differentiable, also twice, in the support's features.

        Args:
            weight_OD: As constructed.
            bias_O: As constructed; None where the layer has none, and then None is returned.
            support: Of the new task.
        """

    def misfit(self, support: Support) -> float:
        """How badly a linear layer on these features would serve the new task, 0 or more; asked for each donor where it is `similar`."""
        raise NotImplementedError(f"{type(self).__name__} compares no donors")
