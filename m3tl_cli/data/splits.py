"""Who learns, who chooses, who judges: deterministic splits by fractions, of samples or of whole groups.

Samples are ordered by a hash of (seed, key), never by where they stand, so that a split does not follow the order of the data, and
samples added later move only few of the old ones to another split.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor

from m3tl_cli.core.contracts import stable_seed
from m3tl_cli.core.errors import ConfigError, DataError


def check_fractions(fractions: Mapping[str, float], names: Sequence[str] = ("train", "val", "test")) -> None:
    """Refuse fractions that are not of `names`, are not above 0, or do not sum to 1."""
    if set(fractions) != set(names):
        raise ConfigError(
            f"`fractions` must name {', '.join(names)}; found {', '.join(map(str, fractions)) or 'nothing'}.",
            hint="data.fractions={train: 0.7, val: 0.1, test: 0.2}",
            place="data.fractions",
        )
    if any(not f > 0 for f in fractions.values()) or abs(sum(fractions.values()) - 1.0) > 1e-6:
        raise ConfigError(
            f"`fractions` must be above 0 and sum to 1; found {dict(fractions)}.",
            hint="data.fractions={train: 0.7, val: 0.1, test: 0.2}",
            place="data.fractions",
        )


def split_samples(keys: Sequence[Hashable], fractions: Mapping[str, float], seed: int) -> dict[str, Tensor]:
    """Split samples.

    Args:
        keys: One per sample, unique, with a stable `str`.
        fractions: Share of each split, in (0, 1), summing to 1.
        seed: Another seed is another split.

    Returns:
        Positions in `keys`, ascending, per split; each sample in exactly one; sizes as the fractions say, rounded, none empty.

    Raises:
        DataError: There are fewer samples than splits.
    """
    if len(keys) < len(fractions):
        raise DataError(
            f"the number of samples must be at least {len(fractions)}, one for each of {', '.join(fractions)}; found {len(keys)}.",
            hint="add samples",
        )
    order = sorted(range(len(keys)), key=lambda i: stable_seed(seed, "split", keys[i]))
    sizes = _sizes(len(keys), fractions)
    result, start = {}, 0
    for name, size in sizes.items():
        result[name] = torch.tensor(sorted(order[start : start + size]), dtype=torch.int64)
        start += size
    return result


def split_groups(groups: Sequence[Hashable], fractions: Mapping[str, float], seed: int) -> dict[str, Tensor]:
    """Split samples so that no group (patient, speaker, school) is in two splits.

    Groups, in hashed order, go one by one to the split that lacks most samples; the last ones to splits that are still empty.

    Args:
        groups: The group of each sample.
        fractions: Share of the samples that each split should get, in (0, 1), summing to 1.
        seed: Another seed is another split.

    Returns:
        Positions in `groups`, ascending, per split; none empty.

    Raises:
        DataError: There are fewer groups than splits.
    """
    members: dict[Hashable, list[int]] = {}
    for position, group in enumerate(groups):
        members.setdefault(group, []).append(position)
    if len(members) < len(fractions):
        raise DataError(
            f"the number of groups must be at least {len(fractions)}, one for each of {', '.join(fractions)}; found {len(members)}.",
            hint="group by another column, or split without groups",
        )
    order = sorted(members, key=lambda g: stable_seed(seed, "split", g))
    result: dict[str, list[int]] = {name: [] for name in fractions}
    for done, group in enumerate(order):
        empty = [name for name in result if not result[name]]
        open_to = empty if len(order) - done <= len(empty) else list(result)
        lacking = max(open_to, key=lambda name: fractions[name] * len(groups) - len(result[name]))
        result[lacking] += members[group]
    return {name: torch.tensor(sorted(positions), dtype=torch.int64) for name, positions in result.items()}


def _sizes(total: int, fractions: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers near `total` times each fraction that sum to it, none 0: largest remainders, then a loan from the largest."""
    sizes = {name: int(total * f) for name, f in fractions.items()}
    by_remainder = sorted(fractions, key=lambda name: sizes[name] - total * fractions[name])
    for name in by_remainder[: total - sum(sizes.values())]:
        sizes[name] += 1
    for name in fractions:
        if sizes[name] == 0:
            sizes[max(sizes, key=lambda other: sizes[other])] -= 1
            sizes[name] = 1
    return sizes
