"""What a step on one task does to the losses of the others that share parameters with it, while they are trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from m3tl_cli.core.contracts import Episode, Params, TaskName, shared
from m3tl_cli.paradigm.engine import Engine, labelled_tasks

Matrix = dict[TaskName, dict[TaskName, float]]
"""Task whose gradient is followed, to task whose loss is looked at, to the share of that loss that is removed; below 0: added."""


class Transference:
    """Directed influence between tasks: Z(i -> j) = 1 - L_j(theta - eta grad L_i) / L_j(theta), averaged over training.

    The step is one of plain gradient descent on the parameters that tasks share; heads stay where they are. Both losses are of the
    same batch, with the same random numbers inside the network. Z(i -> i) says how large a step it was.

    Source: "Measuring and Harnessing Transference in Multi-Task Learning" (Fifty et al., 2020), equation 1.
    Differs from it in the step, which is plain descent whatever optimiser trains: influence, not the optimiser's state, is asked for.
    """

    def __init__(self) -> None:
        self._sums: dict[TaskName, dict[TaskName, list[float]]] = {}

    @property
    def matrix(self) -> Matrix:
        """Means over the measurements, of pairs that were measured; empty where no two tasks share a parameter."""
        return {i: {j: total / count for j, (total, count) in row.items()} for i, row in self._sums.items()}

    def state_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {"sums": self._sums}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self._sums = {i: {j: list(pair) for j, pair in row.items()} for i, row in state["sums"].items()}

    def measure(self, engine: Engine, episodes: Sequence[Episode], rate: float) -> None:
        """Add what a step of `rate` from here does, on the batches of the episodes' queries. Changes nothing else.

        Costs a backward pass a task, and a forward pass a task of what it shares with others; none of them is counted as training.
        """
        parts = [(part, labelled_tasks(part)) for episode in episodes for part in episode.query]
        phi = engine.params()

        def losses(params: Params, wanted: frozenset[TaskName]) -> dict[TaskName, Tensor]:
            torch.manual_seed(0)  # what is random in a network is the same before and after the step
            found: dict[TaskName, list[Tensor]] = {}
            for part, tasks in parts:
                for task, loss in engine.losses(params, part, tuple(t for t in tasks if t in wanted)).items():
                    found.setdefault(task, []).append(loss)
            return {task: torch.stack(each).mean() for task, each in found.items()}

        present = tuple(dict.fromkeys(t for _, tasks in parts for t in tasks))
        common = shared(engine, present) & engine.trainable
        if not common:
            return
        with engine.looking_on(), torch.random.fork_rng(devices=_devices(phi)):
            before = losses(phi, frozenset(present))
            for task in before:
                names = [n for n in phi if n in common and n in engine.reads(task)]
                readers = frozenset(t for t in before if not engine.reads(t).isdisjoint(names))
                if len(readers) < 2:
                    continue
                gradients = torch.autograd.grad(before[task], [phi[n] for n in names], retain_graph=True, allow_unused=True)
                with torch.no_grad():
                    moved = {n: phi[n] - rate * g for n, g in zip(names, gradients, strict=True) if g is not None}
                    after = losses({**phi, **moved}, readers)
                self._add(task, before, after)

    def _add(self, task: TaskName, before: Mapping[TaskName, Tensor], after: Mapping[TaskName, Tensor]) -> None:
        others = tuple(after)
        pairs = torch.stack([torch.stack([before[t].detach(), after[t]]) for t in others]).tolist()  # one wait for the device
        row = self._sums.setdefault(task, {})
        for other, (was, now) in zip(others, pairs, strict=True):
            # A loss of 0 or below has no share that could be removed.
            if was > 0 and math.isfinite(now):
                pair = row.setdefault(other, [0.0, 0])
                pair[0] += 1 - now / was
                pair[1] += 1


def _devices(params: Params) -> list[torch.device]:
    return list({p.device for p in params.values() if p.device.type == "cuda"})
