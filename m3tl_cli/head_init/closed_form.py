"""A last layer that is solved for."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Gt
from torch import Tensor

from m3tl_cli.core.errors import ConfigError
from m3tl_cli.head_init import ridge as closed
from m3tl_cli.head_init.base import HeadInit, Support


class ClosedForm(HeadInit):
    """Solve for the last layer on the support, with the network below as it is.

    Numbers: ridge regression onto the standardised targets. Classes, and yes or no, with `classification=ridge`: ridge regression onto
    +-1, times what makes logits of it; with `classification=prototypes`: W_c = 2 mu_c and b_c = -|mu_c|^2, mu_c the mean row of class c,
    so that the logits are, up to a constant of the row, minus the squared distances to the prototypes. A closed form inside an episode
    of zero inner steps is R2-D2 with the one and ProtoNet with the other; with inner steps the other is Proto-MAML.

    * Lambda is `ridge` times the mean squared distance of a row from the mean row; the bias is not penalised.
    * A score f of a ridge on +-1 estimates 2 p - 1. To first order around even odds the log-odds of p are 2 f, and the log-probabilities
      of C classes C f / 2 up to a constant: `scale` multiplies these. It is a constant: no fit, one less thing to be wrong with few shots.
    * Outputs that are known at different rows get a system each: nothing is imputed. Of the pixels of a cell each is an output of its
      own, so with prototypes every pixel of a cell has its own.
    * An output without any label predicts the prior. A class without a sample among others gets a constant score of -1 of the ridge, and
      of the prototypes the mean logit of the others, which is never the highest.

    Source: ridge: "Meta-learning with differentiable closed-form solvers" (R2-D2; Bertinetto et al., ICLR 2019),
    https://arxiv.org/abs/1805.08136; prototypes: "Prototypical Networks for Few-shot Learning" (Snell et al., NeurIPS 2017), equation 8,
    https://arxiv.org/abs/1703.05175, and "Meta-Dataset" (Proto-MAML; Triantafillou et al., ICLR 2020), https://arxiv.org/abs/1903.03096.
    Differs from R2-D2: a bias, a penalty in units of the features, and numbers that are fixed instead of meta-learned.

    Cost: O(N D min(N, D)) beside one pass through the network.

    Args:
        ridge: Lambda over the mean squared distance of a row from the mean row, above 0.
        classification: How classes, and yes or no, are solved.
        scale: Factor of the first-order logits of a ridge, above 0; neither numbers nor prototypes read it.
    """

    needs_features = True

    def __init__(
        self, *, ridge: Annotated[float, Gt(0)], classification: Literal["ridge", "prototypes"], scale: Annotated[float, Gt(0)]
    ) -> None:
        self.ridge = ridge
        self.classification = classification
        self.scale = scale

    def out(self, weight_OD: Tensor, bias_O: Tensor | None, support: Support) -> tuple[Tensor, Tensor | None]:  # noqa: ARG002
        """The solution; see the class.

        Raises:
            ConfigError: If prototypes are wanted for a layer that has no bias.
        """
        if support.activation == "identity" or self.classification == "ridge":
            return self._ridge(bias_O is not None, support)
        if bias_O is None:
            raise ConfigError(
                "`classification` must be ridge for a head whose last layer has no bias; found prototypes.",
                place="head_init.classification",
                hint="head_init.classification=ridge",
            )
        return _prototypes(support) if support.activation == "softmax" else _two_prototypes(support)

    def _ridge(self, bias: bool, support: Support) -> tuple[Tensor, Tensor | None]:
        first_order = {"identity": 1.0, "sigmoid": 2.0, "softmax": support.num_classes / 2}[support.activation]
        factor = first_order * (1.0 if support.activation == "identity" else self.scale)
        z_ND, y_NO = support.features_ND, support.ideal_NO
        weight_OD, bias_O = z_ND.new_zeros(y_NO.shape[1], z_ND.shape[1]), support.prior_O.to(z_ND.dtype)
        for rows, outputs in closed.by_known_rows(support.known_NO):
            z, y = z_ND[rows], y_NO[rows][:, outputs]
            weight, offset = closed.fit(z, y, closed.penalty(z, self.ridge, bias=bias), bias=bias)
            weight_OD = weight_OD.index_copy(0, outputs, factor * weight)
            bias_O = bias_O.index_copy(0, outputs, factor * offset)
        return weight_OD, bias_O if bias else None


def _prototypes(support: Support) -> tuple[Tensor, Tensor]:
    """W = 2 mu and b = -|mu|^2 of every class at every pixel of a cell."""
    mu_OD, present_O = _means(support, support.known_NO & (support.ideal_NO > 0))
    classes = support.num_classes
    weight_CRD, bias_CR = 2 * mu_OD.unflatten(0, (classes, -1)), -mu_OD.square().sum(1).unflatten(0, (classes, -1))
    present_CR = present_O.unflatten(0, (classes, -1))
    count_R = present_CR.sum(0).clamp(min=1)
    mean_RD = torch.where(present_CR[..., None], weight_CRD, 0.0).sum(0) / count_R[:, None]
    mean_R = torch.where(present_CR, bias_CR, 0.0).sum(0) / count_R
    weight_CRD = torch.where(present_CR[..., None], weight_CRD, mean_RD)
    prior_CR = support.prior_O.to(bias_CR.dtype).unflatten(0, (classes, -1))
    bias_CR = torch.where(present_CR.any(0), torch.where(present_CR, bias_CR, mean_R), prior_CR)
    return weight_CRD.flatten(0, 1), bias_CR.flatten()


def _two_prototypes(support: Support) -> tuple[Tensor, Tensor]:
    """Squared distance to the prototype of no minus that to the prototype of yes; the prior where there is only one of them."""
    yes_OD, any_yes_O = _means(support, support.known_NO & (support.ideal_NO > 0))
    no_OD, any_no_O = _means(support, support.known_NO & (support.ideal_NO <= 0))
    both_O = any_yes_O & any_no_O
    weight_OD = torch.where(both_O[:, None], 2 * (yes_OD - no_OD), 0.0)
    bias_O = torch.where(both_O, no_OD.square().sum(1) - yes_OD.square().sum(1), support.prior_O.to(no_OD.dtype))
    return weight_OD, bias_O


def _means(support: Support, member_NO: Tensor) -> tuple[Tensor, Tensor]:
    """Mean row of the members of each output, [O, D], 0 where there is none; and where there is one, [O]."""
    count_O = member_NO.sum(0)
    return member_NO.to(support.features_ND.dtype).T @ support.features_ND / count_O.clamp(min=1)[:, None], count_O > 0
