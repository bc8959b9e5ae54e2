"""Target episodes as any data draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor

from m3tl_cli.core.contracts import Batch, Modality, ModalityInfo, Progress, Task, TaskName, quiet
from m3tl_cli.core.errors import DataError
from m3tl_cli.data.base import Block, Data, SplitName

LEVEL = Task("level", "regression", num_outputs=1, dense=False, at=("source", "target"))
COLOUR = Task("colour", "multiclass", num_outputs=2, dense=False, classes=("red", "blue"), at=("target",))
PER_DOMAIN = 20


class Rows:
    """Every sample is its own number; colour alternates and is known of every second pair."""

    def __init__(self, first: int, domains: Sequence[int]) -> None:
        self.number = first + torch.arange(PER_DOMAIN * len(domains))
        self.domain = torch.repeat_interleave(torch.tensor(domains), PER_DOMAIN)
        self.labelled: Mapping[TaskName, Tensor] = {
            "level": torch.ones(len(self.number), dtype=torch.bool),
            "colour": self.number % 4 < 2,
        }

    def __len__(self) -> int:
        return len(self.number)

    def read(self, index: Tensor, tasks: Sequence[TaskName] | None = None) -> Batch:
        wanted = tuple(self.labelled) if tasks is None else tuple(tasks)
        targets = {"level": self.number[index, None].float(), "colour": self.number[index] % 2}
        return Batch(
            inputs={},
            features={},
            present={},
            geometry={},
            targets={t: targets[t] for t in wanted},
            labelled={t: self.labelled[t][index] for t in wanted},
            index=self.number[index],
            domain=self.domain[index],
        )


class Numbers(Data):
    """Two source and three target domains; nothing for the other blocks."""

    def prepare(self, progress: Progress = quiet, *, pretrain: bool = False) -> bool:
        return False

    @property
    def modalities(self) -> Mapping[Modality, ModalityInfo]:
        return {}

    @property
    def tasks(self) -> Mapping[TaskName, Task]:
        return {"level": LEVEL, "colour": COLOUR}

    @property
    def domains(self) -> Sequence[str]:
        return ("a", "b", "c", "d", "e")

    @property
    def blocks(self) -> Mapping[Block, tuple[str, ...]]:
        return {"pretrain": (), "source": ("a", "c"), "validation": (), "target": ("b", "d", "e")}

    def pool(self, split: SplitName, at: Block = "source") -> Rows:
        here = [self.domains.index(name) for name in self.blocks[at]]
        return Rows(1000 * ("train", "val", "test").index(split), here)


def _drawn(**changed: object) -> list[tuple[list[int], list[int], int]]:
    """Support and query samples, and domain, of each episode of one task."""
    wanted = {"num_shots": 3, "num_query": 5, "number": 6, "per_class": False, "seed": 1, **changed}
    tasks = wanted.pop("tasks", (LEVEL,))
    found = []
    for episode in Numbers().episodes("target", tasks, **wanted):  # type: ignore[arg-type]
        support, query = episode.support[0].batch, episode.query[0].batch
        domains = torch.cat([support.domain, query.domain]).unique().tolist()
        assert len(domains) == 1
        found.append((support.index.tolist(), query.index.tolist(), domains[0]))
    return found


def test_support_comes_from_training_and_query_from_test_samples_of_one_domain() -> None:
    for support, query, _ in _drawn():
        assert len(set(support)) == 3
        assert len(set(query)) == 5
        assert max(support) < 1000
        assert min(query) >= 2000


def test_every_domain_of_the_block_comes_before_any_comes_again() -> None:
    domains = [domain for _, _, domain in _drawn(number=60)]
    assert all(sorted(domains[i : i + 3]) == [1, 3, 4] for i in range(0, 60, 3))
    assert len({tuple(domains[i : i + 3]) for i in range(0, 60, 3)}) > 3  # in another order each time
    few = [episode.support[0].batch.domain[0].item() for episode in _source(2)]
    assert sorted(few) == [0, 2]


def test_episodes_follow_from_the_seed_and_not_from_their_number() -> None:
    assert _drawn(number=6)[:4] == _drawn(number=4)
    assert _drawn(seed=1) != _drawn(seed=2)
    uids = [episode.uid for episode in _source(40)]
    assert len(set(uids)) == 40


def test_more_shots_contain_fewer_and_leave_the_query_as_it_is() -> None:
    for one, five in zip(_drawn(num_shots=1), _drawn(num_shots=5), strict=True):
        assert set(one[0]) < set(five[0])
        assert one[1:] == five[1:]


def test_shots_may_be_counted_by_class() -> None:
    for support, _, _ in _drawn(tasks=(COLOUR,), per_class=True, num_shots=2):
        assert sorted(number % 2 for number in support) == [0, 0, 1, 1]


def test_tasks_that_can_be_pretrained_on_are_those_labelled_there() -> None:
    assert Numbers().pretrain_tasks == ()
    assert not any("pretrain" in task.at for task in Numbers().tasks.values())


def test_what_a_domain_labels_too_rarely_comes_from_others_of_the_block() -> None:
    """Ten of twenty samples of a domain have a colour."""
    for episode in Numbers().episodes("target", (COLOUR,), num_shots=14, num_query=3, number=3, per_class=False, seed=1):
        support, query = episode.support[0].batch, episode.query[0].batch
        counts = torch.bincount(support.domain, minlength=5)
        assert counts.sum() == 14
        assert counts[query.domain[0]] == 10
        assert counts[[0, 2]].sum() == 0  # the source's


def test_more_shots_than_the_block_labels_are_refused() -> None:
    with pytest.raises(DataError, match="`num_shots` must be at most the labelled samples of `colour`"):
        _drawn(tasks=(COLOUR,), num_shots=31)


def _source(number: int) -> Sequence:  # type: ignore[type-arg]
    return Numbers().episodes("source", (LEVEL,), num_shots=1, num_query=1, number=number, per_class=False, seed=1)
