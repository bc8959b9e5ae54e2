"""LogME against direct maximisation of the evidence, and against planted orders."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import multivariate_normal, spearmanr
from torch import Tensor

from m3tl_cli.core.contracts import generator
from m3tl_cli.core.errors import DataError
from m3tl_cli.transfer.logme import logme


def draw(*shape: int, seed: object = 0) -> Tensor:
    return torch.randn(*shape, generator=generator("logme", seed), dtype=torch.float64)


def by_scipy(features: Tensor, y: Tensor) -> float:
    """Maximal log evidence per sample: the density of y under N(0, F F' / alpha + I / beta), over a grid of starts."""
    gram, target = (features @ features.T).numpy(), y.numpy()
    eye = np.eye(len(target))

    def negative(log: np.ndarray) -> float:
        return -float(multivariate_normal.logpdf(target, cov=np.exp(-log[0]) * gram + np.exp(-log[1]) * eye)) / len(target)

    starts = [(a, b) for a in (-2, 2) for b in (0, 3)]
    found = [minimize(negative, start, method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-13, "maxiter": 4000}) for start in starts]
    return -min(f.fun for f in found)


@pytest.mark.parametrize(("samples", "dim", "noise"), [(12, 3, 0.5), (30, 5, 0.1), (20, 8, 2.0), (8, 20, 0.5)])
def test_the_fixed_point_is_the_maximum_of_the_evidence(samples: int, dim: int, noise: float) -> None:
    features = draw(samples, dim, seed=(samples, dim))
    y = features @ draw(dim, seed=1) + noise * draw(samples, seed=2)
    assert logme(features, y) == pytest.approx(by_scipy(features, y), abs=1e-6)


def test_classes_are_the_mean_of_one_against_the_rest() -> None:
    features = draw(15, 3)
    classes = torch.arange(15) % 3
    expected = sum(by_scipy(features, (classes == c).double()) for c in range(3)) / 3
    assert logme(features, classes) == pytest.approx(expected, abs=1e-6)
    assert logme(features, classes * 7 + 5) == pytest.approx(expected, abs=1e-6), "labels are names"


def test_outputs_are_averaged() -> None:
    features, y = draw(20, 4), draw(20, 2, seed=3)
    assert logme(features, y) == pytest.approx((logme(features, y[:, 0]) + logme(features, y[:, 1])) / 2, abs=1e-12)


def test_the_evidence_does_not_depend_on_the_basis_or_scale_of_the_features() -> None:
    features, y = draw(30, 5), draw(30, seed=4)
    turned = 7.0 * features @ torch.linalg.qr(draw(5, 5, seed=5)).Q
    assert logme(turned, y) == pytest.approx(logme(features, y), abs=1e-9)
    shuffled = torch.randperm(30, generator=generator(6))
    assert logme(features[shuffled], y[shuffled]) == pytest.approx(logme(features, y), abs=1e-9)


def test_scaling_the_target_shifts_the_evidence_by_its_logarithm() -> None:
    features, y = draw(30, 5), draw(30, seed=4)
    assert logme(features, 10 * y) == pytest.approx(logme(features, y) - np.log(10), abs=1e-9)


@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_sources_are_ranked_by_the_noise_in_their_features(kind: str) -> None:
    signal = draw(120, 6)
    y = signal @ draw(6, seed=1)
    targets = (y > 0).long() if kind == "classes" else y
    noises = [0.0, 0.1, 0.3, 1.0, 3.0, 10.0]
    scores = [logme((signal + noise * draw(120, 6, seed=noise)).float(), targets) for noise in noises]
    assert scores == sorted(scores, reverse=True)
    assert spearmanr(scores, noises).statistic == -1


def test_features_that_say_nothing_leave_the_evidence_of_noise_alone() -> None:
    y = draw(40, seed=1)
    alone = -0.5 * (np.log(2 * np.pi * float(y.square().mean())) + 1)
    assert logme(torch.zeros(40, 3), y) == pytest.approx(alone, abs=1e-12)
    features = draw(40, 3)
    apart = features - torch.outer(y, y @ features) / y.square().sum()  # at right angles to the target
    assert logme(apart, y) == pytest.approx(alone, abs=1e-9)


def test_a_target_without_noise_has_a_large_and_finite_score() -> None:
    features = draw(30, 4)
    exact = logme(features, features[:, 0])
    assert np.isfinite(exact)
    assert exact > logme(features, features[:, 0] + 0.01 * draw(30, seed=2)) + 2


@pytest.mark.parametrize(
    ("features", "targets", "words"),
    [
        (torch.zeros(3, 2), torch.zeros(4), "N targets"),
        (torch.zeros(1, 2), torch.zeros(1), "at least 2"),
        (torch.zeros(3), torch.zeros(3), "\\[N, D\\]"),
        (torch.ones(3, 2), torch.zeros(3, dtype=torch.long), "at least two classes; found 1"),
        (torch.full((3, 2), float("nan")), torch.ones(3), "found NaN"),
        (torch.ones(3, 2), torch.zeros(3), "0 for every sample"),
    ],
)
def test_what_has_no_evidence_is_refused(features: Tensor, targets: Tensor, words: str) -> None:
    with pytest.raises(DataError, match=words):
        logme(features, targets)
