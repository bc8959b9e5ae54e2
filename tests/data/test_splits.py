"""Splits: whole, disjoint, of the right size, and never through a group."""

from __future__ import annotations

import pytest
import torch

from m3tl_cli.core.errors import ConfigError, DataError
from m3tl_cli.data.splits import check_fractions, split_groups, split_samples

FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}


def _together(splits: dict[str, torch.Tensor]) -> list[int]:
    return sorted(torch.cat(list(splits.values())).tolist())


@pytest.mark.parametrize(("total", "sizes"), [(10, [7, 1, 2]), (3, [1, 1, 1]), (4, [2, 1, 1]), (74, [52, 7, 15]), (100, [70, 10, 20])])
def test_every_sample_is_in_one_split_of_the_right_size(total: int, sizes: list[int]) -> None:
    splits = split_samples(range(total), FRACTIONS, seed=0)
    assert _together(splits) == list(range(total))
    assert [len(s) for s in splits.values()] == sizes


def test_the_seed_decides_and_the_order_of_the_data_does_not() -> None:
    keys = [f"sample {i}" for i in range(50)]
    one, again, other = (split_samples(keys, FRACTIONS, seed=s)["train"].tolist() for s in (0, 0, 1))
    assert one == again != other
    backwards = split_samples(keys[::-1], FRACTIONS, seed=0)["train"]
    assert {keys[i] for i in one} == {keys[::-1][i] for i in backwards.tolist()}


def test_added_samples_move_few_of_the_old_ones() -> None:
    old, new = (split_samples(range(n), FRACTIONS, seed=0) for n in (1000, 1100))
    moved = sum(len(set(old[name].tolist()) - set(new[name].tolist())) for name in FRACTIONS)
    assert moved < 50


def test_no_group_is_in_two_splits() -> None:
    groups = [f"patient {i % 23}" for i in range(400)]
    splits = split_groups(groups, FRACTIONS, seed=3)
    assert _together(splits) == list(range(400))
    seen = {name: {groups[i] for i in s.tolist()} for name, s in splits.items()}
    assert not seen["train"] & seen["val"]
    assert not seen["train"] & seen["test"]
    assert not seen["val"] & seen["test"]
    assert abs(len(splits["train"]) / 400 - 0.7) < 0.05


def test_as_many_groups_as_splits_leave_none_empty() -> None:
    splits = split_groups(["a"] * 90 + ["b"] * 5 + ["c"] * 5, FRACTIONS, seed=0)
    assert all(len(s) for s in splits.values())


def test_too_few_groups_or_samples_are_refused() -> None:
    with pytest.raises(DataError, match=r"number of groups must be at least 3.*found 2"):
        split_groups(["a", "a", "b", "b"], FRACTIONS, seed=0)
    with pytest.raises(DataError, match=r"number of samples must be at least 3.*found 2"):
        split_samples(range(2), FRACTIONS, seed=0)


@pytest.mark.parametrize("wrong", [{"train": 1.0}, {"train": 0.5, "val": 0.1, "test": 0.1}, {"train": 1.0, "val": 0.0, "test": 0.0}])
def test_fractions_that_are_no_shares_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="`fractions` must"):
        check_fractions(wrong)
