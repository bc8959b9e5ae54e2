"""LogME: how well a frozen network's features suit a task, without training on it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from m3tl_cli.core.errors import DataError

ITERATIONS = 1000  # most steps of the fixed point; tens are usual
TOLERANCE = 1e-10  # relative change of alpha / beta at which it has settled
NOISE = 1e-12  # least variance of the noise, over that of the target: without noise the evidence has no maximum
RATIO = (1e-12, 1e12)  # of alpha / beta, over the mean squared singular value: beyond, the evidence has long been flat


def logme(features_ND: Tensor, targets: Tensor) -> float:
    """Log evidence per sample of a Bayesian linear regression from features to targets, at its best noise and prior.

    y = F w + noise, w ~ N(0, 1 / alpha), noise ~ N(0, 1 / beta); alpha and beta maximise p(y | F) by MacKay's fixed point.
    Larger is better; only differences between sources of the same targets mean something.

    Source: "LogME: Practical Assessment of Pre-trained Models for Transfer Learning" (You et al., ICML 2021), algorithms 1 and 2,
    https://arxiv.org/abs/2102.11005.
    Differs from the paper's code: iterated until it settles instead of eleven times; no 1e-5 is added to the denominators; classes that no
    sample has are left out.

    Cost: one singular value decomposition of the features, on the CPU in float64.

    Args:
        features_ND: What a source makes of the N samples.
        targets: Classes [N], integers (mean over one-vs-rest targets in {0, 1}); or numbers [N] or [N, O] (mean over outputs).

    Returns:
        Nats per sample; any finite number.

    Raises:
        DataError: If there are fewer than two samples or classes, sizes differ, something is not finite, or an output is always 0.
    """
    features, values = features_ND.detach().cpu(), targets.detach().cpu()
    if features.dim() != 2 or len(features) != len(values) or len(features) < 2:
        raise DataError(
            f"LogME must have features [N, D] and N targets, N at least 2; found features {tuple(features.shape)} and targets "
            f"{tuple(values.shape)}."
        )
    features = features.double()
    if values.is_floating_point():
        outputs_NO = values.double().reshape(len(values), -1)
    else:
        classes = values.unique()
        if len(classes) < 2:
            raise DataError(f"LogME must have samples of at least two classes; found {len(classes)}.")
        outputs_NO = (values.reshape(-1, 1) == classes).double()
    if not (features.isfinite().all() and outputs_NO.isfinite().all()):
        raise DataError("LogME must have finite features and targets; found NaN or infinity.")
    if not outputs_NO.any(0).all():
        raise DataError("LogME must have targets that vary; found an output that is 0 for every sample.")
    left_NK, singular_K, _ = torch.linalg.svd(features, full_matrices=False)
    return sum(_evidence(left_NK, singular_K.square(), y_N) for y_N in outputs_NO.unbind(1)) / outputs_NO.shape[1]


def _evidence(left_NK: Tensor, squares_K: Tensor, y_N: Tensor) -> float:
    """Maximal log evidence per sample of one target, from the left singular vectors and squared singular values of the features."""
    count, total = len(y_N), float(y_N.square().sum())
    x_K = (left_NK.T @ y_N).square()
    outside = max(0.0, total - float(x_K.sum()))  # of the target, beyond what any weights can reach
    scale, least = float(squares_K.mean()), NOISE * total

    def evidence(spread_K: Tensor) -> float:
        # y ~ N(0, (I + F F' / ratio) / beta), ratio = alpha / beta; for a given ratio the best beta has a closed form.
        variance = max(float((x_K / spread_K).sum()) + outside, least) / count
        return -0.5 * (math.log(2 * math.pi * variance) + float(spread_K.log().sum()) / count + 1)

    if scale == 0:
        return evidence(torch.ones_like(squares_K))
    ratio = scale
    for _ in range(ITERATIONS):
        share_K = squares_K / (squares_K + ratio)
        used, spare = float(share_K.sum()), count - len(x_K) + float((1 - share_K).sum())
        weight = float((share_K / (squares_K + ratio) * x_K).sum())  # squared length of the mean weights
        error = float(((1 - share_K).square() * x_K).sum()) + outside
        found = used * max(error, least) / max(spare * weight, math.ulp(0.0))
        found = min(max(found, RATIO[0] * scale), RATIO[1] * scale)
        settled = abs(found - ratio) <= TOLERANCE * ratio
        ratio = found
        if settled:
            break
    return evidence(1 + squares_K / ratio)
