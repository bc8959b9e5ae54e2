"""James-Stein: noisy effects of many tasks are better estimated together than each by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from m3tl_cli.comparison.statistics import Array
from m3tl_cli.core.errors import ConfigError


class Shrunk(NamedTuple):
    """Shrunk estimates [k], the point to which they were shrunk and the factor c that the distances to it were multiplied by."""

    values: Array
    centre: float
    factor: float


def to_point(
    values: Sequence[float] | Array, variance: float, *, point: float, degrees: int | None = None, positive_part: bool = True
) -> Shrunk:
    """Shrink k > 2 estimates to a point that was fixed without them.

    c = 1 - (k - 2) sigma^2 / sum (y_i - m)^2, and m + c (y_i - m).

    Source: "Estimation with Quadratic Loss" (James and Stein, 1961). At equal means at the point the risk is 2 sigma^2 whatever k is.

    Args:
        values: One estimate per task, independent and of equal variance.
        variance: sigma^2 of one estimate, 0 or more.
        point: m.
        degrees: Degrees of freedom of `variance` where it was estimated; it then counts n / (n + 2) of itself. None: it is known.
        positive_part: c is 0 at least, which lowers the risk further.

    Raises:
        ConfigError: If there are not more than 2 values or `variance` is negative.
    """
    return _shrink(values, variance, float(point), 2, degrees, positive_part)


def to_mean(values: Sequence[float] | Array, variance: float, *, degrees: int | None = None, positive_part: bool = True) -> Shrunk:
    """Shrink k > 3 estimates to their grand mean: k - 3 in place of k - 2, as the mean costs a degree of freedom.

    Source: "Data Analysis Using Stein's Estimator and its Generalizations" (Efron and Morris, 1975). At equal means the risk is
    3 sigma^2 whatever k is. Arguments and errors as in `to_point`, with more than 3 values.
    """
    return _shrink(values, variance, float(np.mean(values)) if len(values) else 0.0, 3, degrees, positive_part)


def _shrink(values: Sequence[float] | Array, variance: float, centre: float, lost: int, degrees: int | None, positive_part: bool) -> Shrunk:
    found = np.asarray(values, dtype=np.float64)
    if found.size <= lost:
        raise ConfigError(f"`values` must be more than {lost} to be shrunk; found {found.size}.")
    if not variance >= 0:
        raise ConfigError(f"`variance` must be 0 or more; found {variance}.")
    if degrees is not None:
        variance *= degrees / (degrees + 2)
    away = found - centre
    spread = float(away @ away)
    # Equal estimates stay where they are whatever the factor is.
    factor = 1.0 - (found.size - lost) * variance / spread if spread > 0 else 0.0
    factor = max(0.0, factor) if positive_part else factor
    return Shrunk(centre + factor * away, centre, factor)
