"""Heads of new tasks: where model, task kinds and head initialisation meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from m3tl_cli.core.contracts import Batch, Model, Name, Params, Part, TaskName
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.head_init.base import HeadInit, Support
from m3tl_cli.heads.base import Head
from m3tl_cli.task.base import TaskKind


@runtime_checkable
class _WithHeads(Protocol):
    head: nn.ModuleDict

    def head_features(self, params: Params, batch: Batch, task: TaskName) -> Tensor: ...


def start_heads(
    model: Model,
    params: Params,
    kinds: Mapping[TaskName, TaskKind],
    head_init: HeadInit,
    parts: Sequence[Part],
    fresh: frozenset[TaskName],
    donors: Sequence[TaskName] = (),
) -> dict[Name, Tensor]:
    """Give every task of `fresh` a new head, made from its labelled support.

    First the hidden layers, from the donor if the initialisation has one; then the last layer, from features under these hidden layers.
    The result is differentiable in `params` where gradients are enabled: in the network below the head through a closed form, and in
    the donor's hidden layers, which are copied to tensors of their own. Call it under `torch.no_grad()` for a head that is to be a start
    only, and in the precision that the features shall have; the solve itself is in float32 or better.

    A task without any labelled pixel or sample in `parts` gets a last layer of zeros, bias included, whatever the initialisation.

    Args:
        model: Holds a head for each of the tasks, and their columns.
        params: Phi, or any parameters of the model.
        kinds: What to do with the outputs of each task.
        head_init: How heads start.
        parts: Support, on the parameters' device; parts that do not hold a task of `fresh` are not read.
        fresh: Tasks that get a new head.
        donors: Trained tasks that a head may take its hidden layers from, in order of preference; none: all other tasks of the model.

    Returns:
        `params` with new tensors under `head.<task>.` for the tasks of `fresh`; all others are the same objects.

    Raises:
        ConfigError: If a task of `fresh` is not of the model, or the last layer of its head is not linear.
    """
    chosen = chosen_donors(model, params, kinds, head_init, parts, fresh, donors)
    started = dict(params)
    for task in _ordered(model, fresh):
        if task in chosen:
            started |= {name: tensor.clone() for name, tensor in _taken(started, task, chosen[task]).items()}
        started |= _last_layer(model, started, kinds[task], head_init, parts)
    return started


def chosen_donors(
    model: Model,
    params: Params,
    kinds: Mapping[TaskName, TaskKind],
    head_init: HeadInit,
    parts: Sequence[Part],
    fresh: frozenset[TaskName],
    donors: Sequence[TaskName] = (),
) -> dict[TaskName, TaskName]:
    """Tasks of `fresh` that take their hidden layers from another, and from which one; arguments as for `start_heads`."""
    tasks = _ordered(model, fresh)
    if head_init.donor == "none":
        return {}
    chosen = {}
    for task in tasks:
        possible = [d for d in donors or model.tasks if d not in fresh and _can_give(model, params, d, task)]
        possible.sort(key=lambda donor: model.tasks[donor].kind != model.tasks[task].kind)  # stable
        if head_init.donor == "similar" and len(possible) > 1:
            with torch.no_grad():
                taken = [dict(params) | _taken(params, task, donor) for donor in possible]
                supports = [_support(model, there, kinds[task], parts, features=True) for there in taken]
            misfits = [0.0 if support is None else _misfit(head_init, support) for support in supports]
            possible = [possible[misfits.index(min(misfits))]]
        if possible:
            chosen[task] = possible[0]
    return chosen


def _ordered(model: Model, fresh: frozenset[TaskName]) -> list[TaskName]:
    if unknown := sorted(fresh - model.tasks.keys()):
        raise ConfigError(f"tasks with a new head must be of the model; found {', '.join(unknown)}", place="tasks")
    return [task for task in model.tasks if task in fresh]


def _misfit(head_init: HeadInit, support: Support) -> float:
    with torch.autocast(support.features_ND.device.type, enabled=False):
        return head_init.misfit(support)


def _hidden(params: Params, task: TaskName) -> dict[Name, Tensor]:
    """Hidden layers of a head, by the name within it."""
    prefix = f"head.{task}."
    return {n.removeprefix(prefix): p for n, p in params.items() if n.startswith(prefix) and not n.startswith(f"{prefix}out.")}


def _can_give(model: Model, params: Params, donor: TaskName, task: TaskName) -> bool:
    head = _with_heads(model).head
    theirs, own = ({n: p.shape for n, p in _hidden(params, t).items()} for t in (donor, task))
    return bool(own) and theirs == own and type(head[donor]) is type(head[task])


def _taken(params: Params, task: TaskName, donor: TaskName) -> dict[Name, Tensor]:
    return {f"head.{task}.{name}": tensor for name, tensor in _hidden(params, donor).items()}


def _last_layer(model: Model, params: Params, kind: TaskKind, head_init: HeadInit, parts: Sequence[Part]) -> dict[Name, Tensor]:
    names = (f"head.{kind.task.name}.out.weight", f"head.{kind.task.name}.out.bias")
    weight, bias = (params.get(name) for name in names)
    if weight is None or weight.shape[2:].numel() != 1:
        raise ConfigError("`out` of a head must be one linear layer; found another.", place=f"heads.{kind.task.name}")
    support = _support(model, params, kind, parts, features=head_init.needs_features)
    if support is None:
        found: tuple[Tensor, Tensor | None] = torch.zeros_like(weight), None if bias is None else torch.zeros_like(bias)
    else:
        with torch.autocast(weight.device.type, enabled=False):
            found = head_init.out(weight.flatten(1), bias, support)
    pairs = zip(names, found, (weight, bias), strict=True)
    return {name: new.to(old.dtype).reshape(old.shape) for name, new, old in pairs if new is not None and old is not None}


def _support(model: Model, params: Params, kind: TaskKind, parts: Sequence[Part], *, features: bool) -> Support | None:
    """What the last layer of a task's head can learn from; None where nothing is labelled."""
    task, there = kind.task, _with_heads(model)
    head = cast(Head, there.head[task.name])
    batches = [part.batch for part in parts if task.name in part.tasks]
    found = [kind.ideal_output(batch.targets[task.name], batch.labelled[task.name]) for batch in batches]
    if not any(bool(known.any()) for _, known in found):
        return None
    prior_C = kind.prior(torch.cat([b.targets[task.name] for b in batches]), torch.cat([b.labelled[task.name] for b in batches]))
    spread = prior_C.reshape(1, -1, *[1] * len(task.size)).expand(1, task.num_outputs, *task.size)
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    for batch, (ideal, known) in zip(batches, found, strict=True):
        share_NO = head.rows(known.to(ideal.dtype))  # 0 or 1; between where the head resizes and some of a pixel's sources are known
        ideal_NO = head.rows(torch.where(known, ideal, 0.0)) / torch.where(share_NO > 0, share_NO, 1.0)
        known_NO = share_NO > 0
        keep = known_NO.any(1) if features else torch.zeros_like(known_NO[:, 0])
        z_ND = there.head_features(params, batch, task.name) if features else ideal_NO.new_zeros(len(keep), 0)
        if len(z_ND) != len(keep):
            raise ConfigError(
                f"`features` of a head must be a row for each of the {len(keep)} rows of its labels; found {len(z_ND)}.",
                place=f"heads.{task.name}",
            )
        z_ND = z_ND if z_ND.dtype == torch.float64 else z_ND.float()
        rows.append((z_ND[keep], ideal_NO[keep].to(z_ND.dtype), known_NO[keep]))
    features_ND, ideal_NO, known_NO = (torch.cat(column) for column in zip(*rows, strict=True))
    return Support(head.rows(spread)[0], features_ND, ideal_NO, known_NO, kind.activation, task.num_outputs)


def _with_heads(model: Model) -> _WithHeads:
    if not isinstance(model, _WithHeads):
        raise ConfigError(f"a new head needs a model with heads; found {type(model).__name__}")
    return model
