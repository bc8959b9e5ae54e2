"""Which domains can hold an episode of given tasks, and which of their samples it gets."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from m3tl_cli.core.contracts import Pool, TaskName
from m3tl_cli.core.draws import first_labelled
from m3tl_cli.core.errors import DataError

Rows = Mapping[TaskName, Tensor]


class DomainRows:
    """Draw support and query of any subset of the tasks from one domain, or from two.

    A domain suits a subset of tasks if it has `num_shots` + `num_query` samples that label all of them. Where it has fewer, each task
    draws its own samples, if they are enough to keep the support of every task apart from the query of every other: task i needs
    num_shots + num_query + the sum over other tasks j of min(num_query, samples that i and j both label). So tasks without a common
    labelled sample need num_shots + num_query each.

    Args:
        pool: Where the samples come from.
        tasks: Names; below, a task is an index into them.
        num_shots: Support samples.
        num_query: Query samples.
        cross_domain: Support and query come from two domains, which then need only samples for one of them each.

    Attributes:
        num_domains: D; below, a domain is an index into those that the pool holds, ascending.
        counts_TD: Labelled samples of a task in a domain.

    Raises:
        DataError: If a task has no labelled sample in the pool.
    """

    def __init__(self, *, pool: Pool, tasks: Sequence[TaskName], num_shots: int, num_query: int, cross_domain: bool) -> None:
        self.tasks, self.num_shots, self.num_query, self.cross_domain = tuple(tasks), num_shots, num_query, cross_domain
        for name in self.tasks:
            if name not in pool.labelled or not bool(pool.labelled[name].any()):
                raise DataError(
                    f"`{name}` must have at least one labelled training sample; found none among {len(pool)} samples.",
                    place="tasks",
                    hint="leave the task out with tasks=[...], or label some samples",
                )
        self._labelled = {name: pool.labelled[name].cpu() for name in self.tasks}
        labelled_TN = torch.stack(list(self._labelled.values()))
        place_N = torch.unique(pool.domain.cpu(), return_inverse=True)[1]
        sizes = torch.bincount(place_N).tolist()
        self.num_domains = len(sizes)
        self._rows_D = place_N.argsort(stable=True).split(sizes)
        # Tasks that label the same samples are one pattern: what suits one suits all, and they share their draws.
        patterns_PN, self._pattern_T = torch.unique(labelled_TN, dim=0, return_inverse=True)
        in_domain = [patterns_PN[:, rows].float() for rows in self._rows_D]
        self._overlap_DPP = torch.stack([p @ p.T for p in in_domain]).long()
        self._patterns_PN, self._place_N = patterns_PN, place_N
        self.counts_TD = self._overlap_DPP.diagonal(dim1=1, dim2=2).T[self._pattern_T]
        self._suited: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
        self._joint = functools.lru_cache(maxsize=256)(self._joint_rows)

    def domains(self, subset: Sequence[int]) -> Tensor:
        """Domains that can give the support of an episode of these tasks, ascending."""
        support, query = self._suiting(subset)
        if not self.cross_domain or len(query) > 1:
            return support
        return support[support != query] if len(query) else query

    def draw(self, subset: Sequence[int], random: torch.Generator, domain: int | None) -> tuple[Rows, Rows]:
        """Draw an episode's rows.

        Args:
            subset: Its tasks.
            random: Consumed.
            domain: Of the support; None: any that suits, all alike.

        Returns:
            Positions [num_shots] and [num_query] in the pool, for each task.
        """
        if domain is None:
            domain = _pick(self.domains(subset), random)
        if not self.cross_domain:
            return self._from(domain, subset, self.num_shots, self.num_query, random)
        others = self._suiting(subset)[1]
        support, _ = self._from(domain, subset, self.num_shots, 0, random)
        _, query = self._from(_pick(others[others != domain], random), subset, 0, self.num_query, random)
        return support, query

    def refuse(self, subset: Sequence[int]) -> DataError:
        """What the data lacks for an episode of these tasks."""
        names = ", ".join(f"`{self.tasks[i]}`" for i in subset)
        patterns = self._patterns(subset)
        together = int(torch.bincount(self._place_N[self._patterns_PN[list(patterns)].all(0)], minlength=self.num_domains).max())
        common = " in common" if len(subset) > 1 else ""
        if self.cross_domain:
            need = f"one domain must hold {self.num_shots} support samples and another {self.num_query} query samples"
        else:
            need = f"one domain must hold {self.num_shots} support and {self.num_query} query samples"
        of = f"any of {self.num_domains} domains" if self.num_domains > 1 else "the only domain"
        advice = "lower episodes.num_shots and episodes.num_query, or leave a task out with tasks=[...]"
        if self.cross_domain and self.num_domains < 2:
            advice = "episodes.cross_domain=false"
        elif together == 0:
            advice = "no domain labels them together: one task an episode (paradigm=meta), or leave one out with tasks=[...]"
        return DataError(f"{need} labelled for {names}{common}; found at most {together} in {of}.", place="episodes.num_shots", hint=advice)

    def _patterns(self, subset: Sequence[int]) -> tuple[int, ...]:
        return tuple(sorted({int(self._pattern_T[i]) for i in subset}))

    def _suiting(self, subset: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Domains for support and for query."""
        patterns = self._patterns(subset)
        if patterns not in self._suited:
            joint_D = torch.bincount(self._place_N[self._patterns_PN[list(patterns)].all(0)], minlength=self.num_domains)
            overlap_DSS = self._overlap_DPP[:, list(patterns)][:, :, list(patterns)]
            own_DS = overlap_DSS.diagonal(dim1=1, dim2=2)
            if self.cross_domain:
                needs = [(self.num_shots, own_DS * 0 + self.num_shots), (self.num_query, own_DS * 0 + self.num_query)]
            else:
                # min(num_query, overlap with itself) is num_query wherever the task has enough, so the sum may run over all tasks.
                needs = [(self.num_shots + self.num_query, self.num_shots + overlap_DSS.clamp(max=self.num_query).sum(2))]
            found = [((joint_D >= joint) | (own_DS >= own).all(1)).nonzero()[:, 0] for joint, own in needs]
            self._suited[patterns] = (found[0], found[-1])
        return self._suited[patterns]

    def _joint_rows(self, domain: int, patterns: tuple[int, ...]) -> Tensor:
        """Rows of a domain that label all tasks of these patterns."""
        rows = self._rows_D[domain]
        return rows[self._patterns_PN[list(patterns)][:, rows].all(0)]

    def _from(self, domain: int, subset: Sequence[int], num_shots: int, num_query: int, random: torch.Generator) -> tuple[Rows, Rows]:
        names = [self.tasks[i] for i in subset]
        rows = self._rows_D[domain]
        joint = self._joint(domain, self._patterns(subset))
        if len(joint) >= num_shots + num_query:
            drawn = joint[_distinct(len(joint), num_shots + num_query, random)]
            return dict.fromkeys(names, drawn[:num_shots]), dict.fromkeys(names, drawn[num_shots:])
        order = rows[torch.randperm(len(rows), generator=random)]
        query = first_labelled(order, self._labelled, names, num_query)
        left = order[~torch.isin(order, torch.cat(list(query.values())))]
        return first_labelled(left, self._labelled, names, num_shots), query


def _pick(domains: Tensor, random: torch.Generator) -> int:
    return int(domains[torch.randint(len(domains), (), generator=random)])


def _distinct(size: int, number: int, random: torch.Generator) -> Tensor:
    """`number` of `size` places, none twice, in random order."""
    if size < number**2:
        return torch.randperm(size, generator=random)[:number]
    # A permutation of a million places costs more than reading a batch. Here at most half of the tries have a place twice.
    while True:
        drawn = torch.randint(size, (number,), generator=random)
        if len(drawn.unique()) == number:
            return drawn
