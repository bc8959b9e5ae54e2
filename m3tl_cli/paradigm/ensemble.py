"""What a task with several members predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from m3tl_cli.core.contracts import Batch, Model, Name, Params, Task, TaskName
from m3tl_cli.core.members import members
from m3tl_cli.task.base import TaskKind


class Ensemble:
    """A model whose tasks answer with the mean prediction of their members; the model's own answer, to the bit, where a task has one.

    Source: "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles" (Lakshminarayanan et al., NeurIPS 2017),
    https://arxiv.org/abs/1612.01474, section 2.4: class probabilities are averaged. Differs from the paper: no adversarial training,
    and no variance of regressions is learnt.

    Args:
        model: Holds the members.
        kinds: Of the tasks that may be asked for; they say what a mean prediction is.
    """

    def __init__(self, model: Model, kinds: Mapping[TaskName, TaskKind]) -> None:
        self.model, self.kinds = model, kinds
        self.members = members(model.tasks.values())

    @property
    def tasks(self) -> Mapping[TaskName, Task]:
        """Tasks that can be asked for, without their further members."""
        return {t: self.model.tasks[t] for t in self.members}

    def params(self) -> dict[Name, Tensor]:
        """The model's."""
        return self.model.params()

    def reads(self, task: TaskName) -> frozenset[Name]:
        """Names that any of its members depends on."""
        return frozenset().union(*(self.model.reads(t) for t in self.members[task]))

    def outputs(self, params: Params, batch: Batch, tasks: Sequence[TaskName]) -> dict[TaskName, Tensor]:
        """Combined output per task; see `Model.outputs`."""
        found = self.model.outputs(params, batch, tuple(m for t in tasks for m in self.members[t]))
        answers = {t: [found[m] for m in self.members[t]] for t in tasks}
        return {t: outputs[0] if len(outputs) == 1 else self.kinds[t].combine(outputs) for t, outputs in answers.items()}
