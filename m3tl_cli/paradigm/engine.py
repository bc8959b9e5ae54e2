"""From episodes to one gradient: where model, task kinds, inner loop and balancer meet.

Every paradigm passes through here. A mini-batch is an episode without support; K = 0 inner steps leave phi's own tensors in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from m3tl_cli.balancing.base import Balancer
from m3tl_cli.core.contracts import Episode, Model, Name, Params, Part, Signal, TaskName, components, shared
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.inner.base import InnerLoop
from m3tl_cli.task.base import TaskKind


@dataclass
class Passes:
    """Passes through a network since the start: one per batch and connected component of tasks."""

    forward: int = 0
    backward: int = 0


class Engine:
    """Turn the episodes of an update into a gradient of the parameters.

    How gradients are made (after the measurements in scripts/balancing_cost.py):

    * the balancer needs nothing: one backward pass a part, its graph freed before the next part;
    * it needs losses: the same, where one shared batch is all there is; else rows;
    * it needs rows: `torch.autograd.grad` per task. With a batch per task each is a graph of its own, walked once; a shared batch has
      its trunk walked once per task.

    Args:
        model: Model.
        kinds: What to do with the outputs of each task.
        balancer: Weighs tasks.
        trainable: Names that an update may change.
        inner: Inner loop; None where no episode has support.
        inner_steps: K.
        scope: First components of the names that the inner loop adapts (`backbone`, `head` ...).
        autocast: Makes a context in which losses are computed.

    Raises:
        ConfigError: If the inner loop has no gradient per task and the balancer needs one.
    """

    def __init__(
        self,
        *,
        model: Model,
        kinds: Mapping[TaskName, TaskKind],
        balancer: Balancer,
        trainable: frozenset[Name],
        inner: InnerLoop | None = None,
        inner_steps: int = 0,
        scope: frozenset[str] = frozenset(),
        autocast: Callable[[], torch.autocast] | None = None,
    ) -> None:
        if inner is not None and inner_steps and not inner.row_per_task and balancer.needs != "nothing":
            raise ConfigError(
                f"balancing must be one that needs no gradient per task with {type(inner).__name__}, whose outer gradient cannot be "
                f"split by task; found {type(balancer).__name__}",
                hint="balancing=sum",
                place="balancing",
            )
        self.model, self.kinds, self.balancer, self.trainable = model, kinds, balancer, trainable
        self.inner, self.inner_steps, self.scope = inner, inner_steps, scope
        self.autocast = autocast or (lambda: torch.autocast("cpu", enabled=False))
        self.passes = Passes()
        self.weights: dict[TaskName, Tensor] = {}  # what each task counted for in the last update, for the log
        self._networks: dict[tuple[TaskName, ...], int] = {}
        self._shared: dict[tuple[tuple[TaskName, ...], bool], tuple[Name, ...]] = {}

    @property
    def coupled(self) -> bool:
        """Whether the query loss of one task depends on the head of another: second order through joint inner steps."""
        return self.inner is not None and self.inner.second_order and self.inner_steps > 0

    def signal(self, episodes: Sequence[Episode]) -> Signal:
        """Losses and gradients of the episodes of one update.

        Losses of a task are averaged over the parts that hold it; gradients are weighted by the episodes' weights and summed.
        """
        signal = Signal()
        seen: dict[TaskName, list[Tensor]] = {}
        one_graph = len(episodes) == 1 and len(episodes[0].query) == 1
        for episode in episodes:
            phi = self.model.params()
            theta = self._adapt(phi, episode)
            parts = episode.query
            if self.inner is not None and self.inner_steps and not self.inner.needs_query:
                self._add(signal.common, self._outer(phi, theta, None, self.trainable), episode.weight)
                parts = ()
                for part in episode.support:
                    with torch.no_grad():
                        for task, loss in self.losses(theta, part).items():
                            seen.setdefault(task, []).append(loss)
            for part in parts:
                losses = self.losses(theta, part)
                tasks = tuple(losses)
                for task, loss in losses.items():
                    seen.setdefault(task, []).append(loss.detach())
                if not tasks:
                    continue
                if self.balancer.needs == "nothing" or (self.balancer.needs == "losses" and one_graph):
                    losses_T = torch.stack([losses[t] for t in tasks])
                    weights_T = self.balancer.weights(losses_T.detach(), tasks)
                    self.weights.update(zip(tasks, weights_T, strict=True))
                    objective = (weights_T.to(losses_T) * losses_T).sum()
                    self._add(signal.common, self._outer(phi, theta, objective, self._wrt(tasks)), episode.weight)
                    self.passes.backward += self._num_networks(tasks)
                else:
                    for i, task in enumerate(tasks):
                        wrt = self._wrt(tasks if self.coupled else (task,))
                        row = self._outer(phi, theta, losses[task], wrt, keep=i + 1 < len(tasks))
                        self._add(signal.rows.setdefault(task, {}), row, episode.weight)
                        self.passes.backward += 1
        signal.losses = {task: torch.stack(found).mean() for task, found in seen.items()}
        return signal

    def gradient(self, signal: Signal) -> dict[Name, Tensor]:
        """Balance the rows; what was already summed is added. Changes the balancer's state: call it once per update."""
        gradient = dict(signal.common)
        tasks = tuple(signal.rows)
        if not tasks:
            return gradient
        losses_T = torch.stack([signal.losses[t] for t in tasks])
        if self.balancer.needs == "losses":
            weights_T = self.balancer.weights(losses_T, tasks)
            self.weights.update(zip(tasks, weights_T, strict=True))
            for i, task in enumerate(tasks):
                self._add(gradient, signal.rows[task], weights_T[i])
            return gradient
        names = self._shared_names(tasks)
        sizes = [self.model.params()[n].numel() for n in names]
        rows_TP = losses_T.new_zeros(len(tasks), sum(sizes))
        for i, task in enumerate(tasks):
            for name, place in zip(names, rows_TP[i].split(sizes), strict=True):
                if name in signal.rows[task]:
                    place.copy_(signal.rows[task][name].reshape(-1))
        balanced = self.balancer.combine(rows_TP, losses_T, tasks)
        self.weights.update(zip(tasks, balanced.shown_T, strict=True))
        for name, flat in zip(names, balanced.gradient_P.split(sizes), strict=True):
            self._add(gradient, {name: flat.view_as(self.model.params()[name])}, 1.0)
        shared_names = set(names)
        for i, task in enumerate(tasks):
            private = {n: g for n, g in signal.rows[task].items() if n not in shared_names}
            self._add(gradient, private, balanced.weights_T[i])
        return gradient

    def losses(self, params: Params, part: Part) -> dict[TaskName, Tensor]:
        """Loss per task of a part, for the tasks that it labels at all."""
        tasks = labelled_tasks(part)
        if not tasks:
            return {}
        self.passes.forward += self._num_networks(tasks)
        with self.autocast():
            outputs = self.model.outputs(params, part.batch, tasks)
        return {t: self.kinds[t].loss(outputs[t], part.batch.targets[t], part.batch.labelled[t]) for t in tasks}

    def _adapt(self, phi: Params, episode: Episode) -> Params:
        if self.inner is None or not self.inner_steps or not episode.support:
            return phi
        reached = self._wrt([t.name for t in episode.tasks])
        names = frozenset(n for n in reached if n.partition(".")[0] in self.scope)

        def objective(params: Params) -> Tensor:
            losses: list[Tensor] = []
            for part in episode.support:
                found = self.losses(params, part)
                losses += found.values()
                self.passes.backward += self._num_networks(tuple(found))
            return torch.stack(losses).mean()

        return self.inner.adapt(objective, phi, lambda _step: names, steps=self.inner_steps, differentiable=True)

    def _outer(self, phi: Params, theta: Params, loss: Tensor | None, wrt: Iterable[Name], *, keep: bool = False) -> Mapping[Name, Tensor]:
        wanted = frozenset(wrt)
        names = [n for n in phi if n in wanted]
        if theta is not phi and self.inner is not None:
            return self.inner.outer(phi, theta, loss, names, keep=keep)
        if loss is None:
            return {}
        found = torch.autograd.grad(loss, [phi[n] for n in names], retain_graph=keep, allow_unused=True)
        return {n: g for n, g in zip(names, found, strict=True) if g is not None}

    def _wrt(self, tasks: Sequence[TaskName]) -> frozenset[Name]:
        return self.trainable & frozenset().union(*(self.model.reads(t) for t in tasks))

    def _num_networks(self, tasks: tuple[TaskName, ...]) -> int:
        if tasks not in self._networks:
            self._networks[tasks] = len(components(self.model, tasks))
        return self._networks[tasks]

    def _shared_names(self, tasks: tuple[TaskName, ...]) -> tuple[Name, ...]:
        key = (tasks, self.coupled)
        if key not in self._shared:
            names = shared(self.model, tasks, self.coupled) & self.trainable
            self._shared[key] = tuple(n for n in self.model.params() if n in names)
        return self._shared[key]

    @staticmethod
    def _add(total: dict[Name, Tensor], more: Mapping[Name, Tensor], factor: float | Tensor) -> None:
        plain = isinstance(factor, float) and factor == 1.0
        for name, gradient in more.items():
            scaled = gradient if plain else gradient * factor
            total[name] = total[name] + scaled if name in total else scaled


def labelled_tasks(part: Part) -> tuple[TaskName, ...]:
    """Tasks of the part that label at least one of its samples."""
    if not part.tasks:
        return ()
    found = torch.stack([part.batch.labelled[t].any() for t in part.tasks]).tolist()  # one wait for the device, not one a task
    return tuple(t for t, any_labelled in zip(part.tasks, found, strict=True) if any_labelled)
