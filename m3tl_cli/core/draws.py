"""Draw the support and the query of an episode, and read every drawn sample once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from m3tl_cli.core.contracts import Batch, Episode, Part, Pool, Task, TaskName, generator
from m3tl_cli.core.errors import DataError

CHUNK = 256  # samples read at a time where only their classes are wanted


def draw_episode(
    support: Pool,
    query: Pool,
    *,
    domain: int | None,
    tasks: Sequence[Task],
    num_shots: int,
    num_query: int,
    per_class: bool,
    seed_parts: tuple[object, ...],
    uid: int,
    top_up: bool = False,
) -> Episode:
    """Draw one episode: shots that every task labels for itself, and a query that shares no sample with them.

    Of one random order of the domain's samples each task takes the first ones that it labels. So the draw for n shots contains that for
    fewer, the query does not depend on the number of shots, tasks that label the same samples get the same ones, and what a task gets
    does not depend on which tasks are beside it, but where `support` is `query` and nearly used up.

    Args:
        support: Where the shots come from.
        query: Where the query comes from. The same object as `support`: the query is drawn first, and its samples are no shots of any
            task. Two objects must hold different samples.
        domain: Index of the domain that both come from; None: any.
        tasks: At least one.
        num_shots: Support samples of each task, at least 1; under `per_class` of each class of a vector task with classes.
        num_query: Query samples of each task, as they come whatever their class; fewer where the domain labels fewer, at least 1.
        per_class: Whether shots are counted by class.
        seed_parts: What the draw follows from, without the numbers of shots and query.
        uid: Of the episode.
        top_up: Shots that the domain lacks for a task come from the pool's other domains, as does the query of a task that the domain
            does not label at all.

    Returns:
        An episode of weight 1 without fresh tasks; see `read_parts` for its parts.

    Raises:
        DataError: If a task has too few labelled samples there.
    """
    names = tuple(t.name for t in tasks)
    query_order = _shuffled(query, domain, (*seed_parts, "query"))
    query_rows = first_labelled(query_order, query.labelled, names, num_query)
    if top_up and (lacking := tuple(t for t in names if len(query_rows[t]) == 0)):
        query_rows |= first_labelled(_shuffled(query, None, (*seed_parts, "query")), query.labelled, lacking, num_query)
    if support is query:
        # From the other end, so that which samples are left is the same for most tasks, whichever are beside it.
        taken = torch.cat(list(query_rows.values()))
        support_order = query_order.flip(0)
        support_order = support_order[~torch.isin(support_order, taken)]
    else:
        support_order = _shuffled(support, domain, (*seed_parts, "support"), top_up)
    support_rows = {}
    for task in tasks:
        by_class = per_class and bool(task.classes) and not task.dense
        if by_class:
            support_rows[task.name] = _of_every_class(support, support_order, task, num_shots)
        else:
            support_rows[task.name] = first_labelled(support_order, support.labelled, (task.name,), num_shots)[task.name]
        found = len(support_rows[task.name])
        if not by_class and found < num_shots:
            left = " beside the query" if support is query else ""
            raise DataError(
                f"`num_shots` must be at most the labelled samples of `{task.name}` in {_place(domain)}{left}; "
                f"found {num_shots} for {found}.",
                hint=f"ask for {found} shots or fewer" if found else f"leave `{task.name}` out, or label some samples",
                place="num_shots",
            )
        if len(query_rows[task.name]) == 0:
            raise DataError(
                f"`{task.name}` must have a labelled query sample in {_place(domain)}; found none.",
                hint=f"leave `{task.name}` out, or label some samples",
                place="num_query",
            )
    return Episode(uid=uid, support=read_parts(support, support_rows), query=read_parts(query, query_rows), tasks=tuple(tasks))


def first_labelled(order: Tensor, labelled: Mapping[TaskName, Tensor], tasks: Sequence[TaskName], number: int) -> dict[TaskName, Tensor]:
    """The first rows that each task labels.

    Args:
        order: [L] positions in the pool.
        labelled: [N] bool per task, of the pool.
        tasks: Whose rows are wanted.
        number: How many of each.

    Returns:
        [number] positions per task; fewer where `order` holds no more.

    Raises:
        DataError: If the pool does not know a task.
    """
    for task in tasks:
        if task not in labelled:
            raise DataError(
                f"`{task}` must be a task that this block of the data labels; found {', '.join(labelled) or 'none'}.",
                hint="leave it out with tasks=[...]",
                place="tasks",
            )
    return {task: order[labelled[task][order]][:number] for task in tasks}


def read_parts(pool: Pool, rows: Mapping[TaskName, Tensor]) -> tuple[Part, ...]:
    """Read what was drawn for each task, every sample once.

    Tasks whose rows overlap share a part, directly or through a third; a row counts as labelled for the tasks that it was drawn for
    only, so that each task has exactly the labels that it asked for. Tasks without a common row get a part each.

    Args:
        pool: Where to read.
        rows: [n] positions per task, none twice.

    Returns:
        Parts in the order of their first tasks.
    """
    names = tuple(rows)
    first = rows[names[0]]
    if all(torch.equal(first, rows[name]) for name in names[1:]):
        return (Part(pool.read(first, names), names),)
    union_U = torch.unique(torch.cat(list(rows.values())))
    member_TU = torch.stack([torch.isin(union_U, rows[name]) for name in names])
    group_T = torch.arange(len(names))
    for _ in names:  # the smallest index walks along the overlaps; T rounds reach everyone
        group_T = torch.where(_overlap(member_TU) > 0, group_T, len(names)).min(1).values.minimum(group_T)
    parts = []
    for group in group_T.unique().tolist():
        inside = (group_T == group).nonzero()[:, 0]
        tasks = tuple(names[i] for i in inside.tolist())
        read_U = member_TU[inside].any(0)
        member_TB = member_TU[inside][:, read_U]
        batch: Batch = pool.read(union_U[read_U], tasks)
        labelled = {t: batch.labelled[t] & member_TB[i].to(batch.labelled[t].device) for i, t in enumerate(tasks)}
        parts.append(Part(replace(batch, labelled=labelled), tasks))
    return tuple(parts)


def _overlap(member_TU: Tensor) -> Tensor:
    """How many rows two tasks have in common, [T, T]."""
    member = member_TU.float()
    return member @ member.T


def _shuffled(pool: Pool, domain: int | None, seed_parts: tuple[object, ...], top_up: bool = False) -> Tensor:
    """Rows in a random order, those of the domain first; without `top_up` those alone."""
    everything = torch.arange(len(pool))
    order = everything[torch.randperm(len(everything), generator=generator(*seed_parts))]
    if domain is None:
        return order
    inside = pool.domain[order] == domain
    return torch.cat((order[inside], order[~inside])) if top_up else order[inside]


def _of_every_class(pool: Pool, order: Tensor, task: Task, number: int) -> Tensor:
    """The first `number` rows of every class of a task, in the order given."""
    (order,) = first_labelled(order, pool.labelled, (task.name,), len(order)).values()
    classes = torch.arange(task.num_outputs)
    kept: list[Tensor] = []
    counts_C = torch.zeros(task.num_outputs, dtype=torch.int64)
    for rows in order.split(CHUNK):
        is_class_BC = pool.read(rows, (task.name,)).targets[task.name].cpu()[:, None] == classes
        rank_BC = counts_C + is_class_BC.cumsum(0)
        kept.append(rows[(is_class_BC & (rank_BC <= number)).any(1)])
        counts_C += is_class_BC.sum(0)
        if int(counts_C.min()) >= number:
            break
    rare = int(counts_C.argmin())
    if int(counts_C[rare]) < number:
        found = int(counts_C[rare])
        raise DataError(
            f"`num_shots` must be at most the samples of every class of `{task.name}`; found {number} for {found} of class "
            f"`{task.classes[rare]}`.",
            hint=f"ask for {found} shots or fewer" if found else "draw shots without regard to class",
            place="num_shots",
        )
    return torch.cat(kept)


def _place(domain: int | None) -> str:
    return "the pool" if domain is None else f"domain {domain}"
