"""All episodes of a step at once: differentiate each inside, vectorise outside.

Never the other way round. The batching rule of the fused backward of BatchNorm, InstanceNorm and LayerNorm drops the history of the saved
mean and deviation, so that a gradient of a `vmap` is silently wrong in second order (by .70 of 7.70 at K = 5; functorch #534, open since
2022). Here `vmap` is the outermost transform, and nothing is differentiated through it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from m3tl_cli.core.contracts import Batch, Episode, Name, Params, Part, TaskName
from m3tl_cli.inner.base import InnerSGD

Labelled = tuple[Part, tuple[TaskName, ...]]
"""A part, and those of its tasks that label one of its samples at least."""
Losses = Callable[[Params, Part, tuple[TaskName, ...]], Mapping[TaskName, Tensor]]
Support = Callable[[Params, Sequence[Labelled]], Mapping[TaskName, Tensor]]


@dataclass(frozen=True)
class Stacked:
    """What E episodes gave.

    Args:
        gradients: Gradient per cotangent, [E, R, ...] by name.
        losses_EQ: Query loss of every pair of part and task, weighted over the points reached.
        support_EK: Mean support loss before each inner step.
    """

    gradients: dict[Name, Tensor]
    losses_EQ: Tensor
    support_EK: Tensor


def why_not_stacked(episodes: Sequence[Episode]) -> str:
    """Why episodes cannot be computed at once; empty where they can."""
    if len(episodes) < 2:
        return "a step has one episode"
    if any(e.fresh for e in episodes):
        return "episodes build heads"
    first, *others = [_shape(e) for e in episodes]
    return "" if all(other == first for other in others) else "episodes differ in their tasks or in the shape of their batches"


def has_vectors_only(episode: Episode) -> bool:
    """Whether every input is a vector per sample and every target a number or a vector."""
    batches = [part.batch for part in (*episode.support, *episode.query)]
    return all(t.ndim <= 2 for b in batches for group in (b.inputs, b.features, b.targets) for t in group.values())


def differentiate(
    inner: InnerSGD,
    phi: Params,
    *,
    support: Sequence[Sequence[Labelled]],
    query: Sequence[Sequence[Labelled]],
    names: frozenset[Name],
    wrt: Sequence[Name],
    cotangents_ERQ: Tensor,
    support_losses: Support,
    query_losses: Losses,
) -> Stacked:
    """Adapt every episode and pull `cotangents` of its query losses back to phi.

    Args:
        inner: Its `trace` is differentiated; the caller asks `diverged` of the support losses that come back.
        phi: Leaves, learned rates among them.
        support: Parts of each episode, alike in everything but their numbers.
        query: The same.
        names: What the inner steps may change.
        wrt: Names whose gradients are wanted.
        cotangents_ERQ: Weights of the query losses of each gradient; Q runs over pairs of query part and task.
        support_losses: Support loss per task at given parameters.
        query_losses: Losses of one query part at given parameters.
    """
    chosen = {n: phi[n].detach() for n in wrt}
    rest = {n: t.detach() for n, t in phi.items() if n not in chosen}

    def one(support_tensors: Any, query_tensors: Any, cotangents_RQ: Tensor) -> tuple[dict[Name, Tensor], Tensor, Tensor]:
        here = [_rebuilt(labelled, tensors) for labelled, tensors in zip(support[0], support_tensors, strict=True)]
        there = [_rebuilt(labelled, tensors) for labelled, tensors in zip(query[0], query_tensors, strict=True)]

        def outcome(leaves: dict[Name, Tensor]) -> tuple[Tensor, Tensor]:
            ordered = {n: leaves.get(n, rest.get(n)) for n in phi}
            reached, support_K = inner.trace(
                lambda params: support_losses(params, here), cast("dict[Name, Tensor]", ordered), names, steps=inner.num_inner_steps
            )
            losses_Q: list[Tensor] = []
            for part, tasks in there:
                found = [torch.stack(list(query_losses(point.params, part, tasks).values())) * point.weight for point in reached]
                losses_Q.append(torch.stack(found).sum(0))
            return torch.cat(losses_Q), support_K

        losses_Q, pull, support_K = cast("tuple[Tensor, Any, Tensor]", torch.func.vjp(outcome, chosen, has_aux=True))
        rows = [pull(cotangent_Q)[0] for cotangent_Q in cotangents_RQ]
        return {n: torch.stack([row[n] for row in rows]) for n in chosen}, losses_Q, support_K

    stacked_support = [_stacked([e[i] for e in support]) for i in range(len(support[0]))]
    stacked_query = [_stacked([e[i] for e in query]) for i in range(len(query[0]))]
    # The only attention that can be differentiated twice, and that vmap need not take apart.
    with sdpa_kernel(SDPBackend.MATH):
        found = torch.func.vmap(one, randomness="different")(stacked_support, stacked_query, cotangents_ERQ)
    return Stacked(*found)


Tensors = dict[str, Any]
"""A batch as a tree of tensors, which `vmap` can take apart: a tensor, or a dictionary of them, by the name of its field."""


def _tensors(batch: Batch) -> Tensors:
    values = {f.name: getattr(batch, f.name) for f in fields(batch)}
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}


def _rebuilt(labelled: Labelled, tensors: Tensors) -> Labelled:
    part, tasks = labelled
    return Part(Batch(**tensors), part.tasks), tasks


def _stacked(parts: Sequence[Labelled]) -> Tensors:
    trees = [_tensors(part.batch) for part, _ in parts]
    return {
        name: {k: torch.stack([tree[name][k] for tree in trees]) for k in value}
        if isinstance(value, dict)
        else torch.stack([tree[name] for tree in trees])
        for name, value in trees[0].items()
    }


def _shape(episode: Episode) -> list[Any]:
    """All that must be the same in two episodes."""
    shapes: list[Any] = [episode.tasks]
    for parts in (episode.support, episode.query):
        for part in parts:
            tree = _tensors(part.batch)
            shapes.append(
                (part.tasks, {n: {k: t.shape for k, t in v.items()} if isinstance(v, dict) else v.shape for n, v in tree.items()})
            )
        shapes.append(len(parts))
    return shapes
