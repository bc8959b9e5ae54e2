"""Ridge regression in closed form: what the head initialisations share."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def penalty(features_ND: Tensor, ridge: float, *, bias: bool = True) -> Tensor:
    """Lambda, scalar: `ridge` times the mean squared length of a row, from the rows' mean where there is a bias.

    So the fit does not depend on the unit of the features, and `ridge` is the variance of the noise over that of the signal, were the
    weights drawn at random. A floor in the order of the rounding errors keeps rows that are all alike, or a single one, solvable.
    """
    moved_ND = features_ND - features_ND.mean(0) if bias else features_ND
    floor = torch.finfo(features_ND.dtype).eps * features_ND.square().sum(1).mean() + torch.finfo(features_ND.dtype).tiny
    return ridge * moved_ND.square().sum(1).mean() + floor


def fit(features_ND: Tensor, targets_NO: Tensor, penalty: Tensor, *, bias: bool = True) -> tuple[Tensor, Tensor]:
    """The weight [O, D] and bias [O] of the least |Z W' + b - Y|^2 + penalty |W|^2; the bias is not penalised.

    W' = (Z'Z + lambda I)^-1 Z'Y = Z'(ZZ' + lambda I)^-1 Y of what is left when the means are taken off, whichever system is smaller:
    O(N D min(N, D)) operations. Differentiable twice.

    Args:
        features_ND: Z; N of 1 or more.
        targets_NO: Y.
        penalty: Lambda, above 0.
        bias: Whether there is a b; without, it is 0.
    """
    mean_D = features_ND.mean(0) if bias else features_ND.new_zeros(features_ND.shape[1])
    mean_O = targets_NO.mean(0) if bias else targets_NO.new_zeros(targets_NO.shape[1])
    z_ND, y_NO = features_ND - mean_D, targets_NO - mean_O
    if len(z_ND) > z_ND.shape[1]:
        weight_DO = torch.linalg.solve(_plus(z_ND.T @ z_ND, penalty), z_ND.T @ y_NO)
    else:
        weight_DO = z_ND.T @ torch.linalg.solve(_plus(z_ND @ z_ND.T, penalty), y_NO)
    return weight_DO.T, mean_O - mean_D @ weight_DO


def leverage(features_ND: Tensor, penalty: Tensor) -> Tensor:
    """The share of its own target in each row's fitted value, [N] in [0, 1]: the diagonal of the hat matrix of `fit` with a bias."""
    z_ND = features_ND - features_ND.mean(0)
    if len(z_ND) > z_ND.shape[1]:
        share_N = (z_ND * torch.linalg.solve(_plus(z_ND.T @ z_ND, penalty), z_ND.T).T).sum(1)
    else:
        gram_NN = z_ND @ z_ND.T
        share_N = torch.linalg.solve(_plus(gram_NN, penalty), gram_NN).diagonal()
    return share_N + 1 / len(z_ND)


def leave_one_out(features_ND: Tensor, targets_NO: Tensor, penalty: Tensor) -> Tensor:
    """What each row is missed by when it is left out of a fit with a bias, [N, O]: exact for this lambda, without refitting.

    The residual over 1 - leverage (the PRESS residual: Allen, "The Relationship between Variable Selection and Data Augmentation and a
    Method for Prediction", Technometrics 1974). A single row says nothing and gives 0.
    """
    weight_OD, bias_O = fit(features_ND, targets_NO, penalty)
    residual_NO = targets_NO - features_ND @ weight_OD.T - bias_O
    return residual_NO / (1 - leverage(features_ND, penalty)).clamp(min=1e-6)[:, None]


def by_known_rows(known_NO: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Group the outputs that are known at the same rows: indices of these rows, and of the outputs; none for those never known.

    Waits for the device once.
    """
    if not len(known_NO):
        return
    here = known_NO.cpu()
    patterns, group_O = here.unique(dim=1, return_inverse=True)
    for g in range(patterns.shape[1]):
        rows = patterns[:, g].nonzero()[:, 0]
        if len(rows):
            yield rows.to(known_NO.device), (group_O == g).nonzero()[:, 0].to(known_NO.device)


def _plus(gram: Tensor, penalty: Tensor) -> Tensor:
    return gram + penalty * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
