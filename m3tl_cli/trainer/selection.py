"""Early stopping and the best parameters, per connected component of tasks.

With one stopper and one best checkpoint for all, T separate networks in one process would not be T separate runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from m3tl_cli.core.contracts import Name, Params, Reader, TaskName, components


class Component:
    """Tasks that are linked by parameters, and how they fare.

    Args:
        tasks: In the order of the stage.
        names: Parameters that they read.
    """

    def __init__(self, tasks: tuple[TaskName, ...], names: tuple[Name, ...]) -> None:
        self.tasks, self.names = tasks, names
        self.best_score, self.best_step, self.waited, self.stopped = float("-inf"), -1, 0, False


class Selection:
    """Keep the best parameters of each component and stop those that no longer improve.

    Args:
        model: Says who reads what: a model, or an engine, whose inner loop may have parameters of its own.
        tasks: Tasks of the stage.
        patience: Validations without improvement after which a component stops; None: never.
    """

    def __init__(self, model: Reader, tasks: Sequence[TaskName], patience: int | None) -> None:
        self.patience = patience
        self.best: dict[Name, Tensor] = {}
        self.components = []
        for group in components(model, tasks):
            read = frozenset().union(*(model.reads(t) for t in group))
            self.components.append(Component(group, tuple(n for n in model.params() if n in read)))

    @property
    def active(self) -> tuple[TaskName, ...]:
        """Tasks of the components that still train."""
        return tuple(t for c in self.components if not c.stopped for t in c.tasks)

    def judge(self, step: int, scores: Mapping[TaskName, float], params: Params) -> list[Component]:
        """Note a validation.

        Args:
            step: Updates done.
            scores: Score per active task, higher is better. A component's score is the mean of its tasks' that are
                finite (a task without validation labels has none).
            params: Copied where a component is at its best.

        Returns:
            Components that stop here.
        """
        stopping = []
        for component in self.components:
            if component.stopped:
                continue
            known = [scores[t] for t in component.tasks if math.isfinite(scores[t])]
            score = sum(known) / len(known) if known else float("-inf")
            if score > component.best_score:
                component.best_score, component.best_step, component.waited = score, step, 0
                with torch.no_grad():
                    self.best.update({n: params[n].detach().clone() for n in component.names})
            else:
                component.waited += 1
                if self.patience is not None and component.waited >= self.patience:
                    component.stopped = True
                    stopping.append(component)
        return stopping

    def restore_best(self, params: Params) -> None:
        """Copy the best parameters of every component back; a component that was never judged keeps what it has."""
        with torch.no_grad():
            for name, value in self.best.items():
                params[name].copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and JSON types."""
        kept = ("best_score", "best_step", "waited", "stopped")
        rows = [{"tasks": list(c.tasks), **{k: getattr(c, k) for k in kept if getattr(c, k) != float("-inf")}} for c in self.components]
        return {"best": self.best, "components": rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.best = dict(state["best"])
        for component, row in zip(self.components, state["components"], strict=True):
            for key, value in row.items():
                if key != "tasks":
                    setattr(component, key, value)
