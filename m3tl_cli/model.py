"""The one model: encoders -> fusion -> backbone under a sharing -> heads; functional, and grown task by task."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from m3tl_cli.backbone.base import Backbone
from m3tl_cli.core.contracts import Batch, Modality, Name, Params, Signature, Task, TaskName, stable_seed
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.encoder.base import Encoder
from m3tl_cli.fusion.base import Fusion
from m3tl_cli.heads.base import Head
from m3tl_cli.sharing.base import Column, Sharing

Part = TypeVar("Part", bound=nn.Module)


class MultiTaskModel(nn.Module):
    """Hold one copy of each network per column that the sharing asks for, and a head per task.

    Names of parameters: `encoder.<column>.<modality>. ...`, `fusion.<column>. ...`, `backbone.<column>.stages.<i>. ...`,
    `sharing. ...`, `head.<task>. ...` (`head.<column>. ...` where a sharing pools heads). Every part starts from a seed made of
    (seed, its name), not of the order in which parts are made, so that a network alone and the same network among others start alike.

    Args:
        encoders: Per modality, what makes an encoder. fusion, backbone, head, sharing: the same, from the signature of what feeds
            them; `sharing` from the number of backbone stages.
        seed: Redraws the initialisation.
    """

    def __init__(
        self,
        *,
        encoders: Mapping[Modality, Callable[[], Encoder]],
        fusion: Callable[[Mapping[Modality, Signature]], Fusion],
        backbone: Callable[[Signature], Backbone],
        head: Callable[[Task, Signature], Head],
        sharing: Callable[[int], Sharing],
        seed: int,
    ) -> None:
        super().__init__()
        self._make_encoder, self._make_fusion, self._make_backbone, self._make_head = encoders, fusion, backbone, head
        self._seed = seed
        # Thrown away: only what flows between parts is wanted here, before any column exists.
        for name in encoders:
            _check_name(name, "modality", "data.modalities")
        self._signatures = {name: self._seeded("", make).signature for name, make in encoders.items()}
        self._fused = self._seeded("", lambda: fusion(self._signatures)).signature
        template = self._seeded("", lambda: backbone(self._fused))
        self._out, self._num_stages = template.signature, len(template.stages)
        self.sharing = self._seeded("sharing", lambda: sharing(self._num_stages))
        self.encoder, self.fusion, self.backbone, self.head = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        self._tasks: dict[TaskName, Task] = {}
        self._started: tuple[TaskName, ...] = ()
        self._likes: list[TaskName | None] = []
        self._phi: dict[Name, Tensor] = {}
        self._reads: dict[TaskName, frozenset[Name]] = {}

    @property
    def tasks(self) -> Mapping[TaskName, Task]:
        """Tasks by name, in the order of growth."""
        return self._tasks

    def start(self, tasks: Sequence[Task]) -> None:
        """Grow the tasks that a run starts with; they may share with one another from the first step.

        Raises:
            ConfigError: As `add_task` does.
        """
        self._started = tuple(t.name for t in tasks)
        self.sharing.start(self._started)
        for task in tasks:
            self.add_task(task)

    def add_task(self, task: Task, like: TaskName | None = None) -> frozenset[Name]:
        """Grow a head, and the columns that the sharing asks for. Adds names, never reshapes one.

        Args:
            task: Its name must be free.
            like: A task whose columns, and place in the sharing, the new one's start as a copy of.

        Returns:
            The new names.

        Raises:
            ConfigError: If the name is taken, or is not one that a module can have.
        """
        if task.name in self.tasks:
            raise ConfigError(f"task names must differ; found `{task.name}` twice", place="tasks")
        _check_name(task.name, "task", "tasks")
        before = set(self._phi)
        beside = next(iter(self._phi.values()), torch.empty(()))
        column, start = self.sharing.backbone_column(task.name), self.sharing.input_column(task.name)
        # A copy of the modules, not of their values: a hand-over may have wrapped them.
        if start not in self.fusion:
            if like is not None:
                source = self.sharing.input_column(like)
                self.encoder[start], self.fusion[start] = copy.deepcopy(self.encoder[source]), copy.deepcopy(self.fusion[source])
            else:
                self.encoder[start] = nn.ModuleDict(
                    {m: self._seeded(f"encoder.{start}.{m}", make) for m, make in self._make_encoder.items()},
                )
                self.fusion[start] = self._seeded(f"fusion.{start}", lambda: self._make_fusion(self._signatures))
        if column not in self.backbone:
            if like is not None:
                self.backbone[column] = copy.deepcopy(self.backbone[self.sharing.backbone_column(like)])
            else:
                self.backbone[column] = self._seeded(f"backbone.{column}", lambda: self._make_backbone(self._fused))
        self.sharing.grow(task.name, like)
        head = self.sharing.head_column(task.name)
        if head not in self.head:
            self.head[head] = self._seeded(f"head.{head}", lambda: self._make_head(task, self._out))
        else:
            self._refuse_unlike(task, next(t for t in self._tasks.values() if self.sharing.head_column(t.name) == head))
        self._tasks[task.name] = task
        self._likes.append(like)
        self.to(beside.device, beside.dtype)
        self.refresh()
        return frozenset(set(self._phi) - before)

    def params(self) -> dict[Name, Tensor]:
        """Phi: the leaves, by name. The same object until the model grows."""
        return self._phi

    def outputs(self, params: Params, batch: Batch, tasks: Sequence[TaskName]) -> dict[TaskName, Tensor]:
        """Output per task with `params` in place of the model's own; names that are not the model's are ignored."""
        if params is self._phi:
            return self(batch, tasks)
        return functional_call(self, {n: p for n, p in params.items() if n in self._phi}, (batch, tasks))

    def head_features(self, params: Params, batch: Batch, task: TaskName) -> Tensor:
        """Rows [N, D] that the last layer of the task's head reads with `params`: one per sample, or per cell of a dense task's map."""
        own = {n: p for n, p in params.items() if n in self._phi}
        return functional_call(self, own, (batch, (task,)), {"last": False})[task]

    def forward(self, batch: Batch, tasks: Sequence[TaskName], *, last: bool = True) -> dict[TaskName, Tensor]:
        """Run only what `tasks` need.

        Args:
            batch: Samples.
            tasks: Whose outputs are wanted.
            last: Whether the last layers of the heads run; without, their inputs are returned.
        """
        everything = tuple(self.tasks)
        needed = tuple(dict.fromkeys(t for task in tasks for t in self.sharing.needs(task, everything)))
        starts = {self.sharing.backbone_column(t): self.sharing.input_column(t) for t in needed}
        fused = {start: self._fuse(start, batch) for start in dict.fromkeys(starts.values())}
        features: Mapping[Column, Tensor] = {column: fused[start] for column, start in starts.items()}
        for i in range(self._num_stages):
            features = self.sharing.mix(i, {column: self._stage(column, i)(x) for column, x in features.items()})
        heads = {t: cast(Head, self.head[self.sharing.head_column(t)]) for t in tasks}
        inputs = {t: features[self.sharing.backbone_column(t)] for t in tasks}
        return {t: head(inputs[t]) if last else head.features(inputs[t]) for t, head in heads.items()}

    def reads(self, task: TaskName) -> frozenset[Name]:
        """Names that the task's output depends on."""
        if task not in self._reads:
            everything = tuple(self.tasks)
            prefixes = [f"head.{self.sharing.head_column(task)}."]
            for t in self.sharing.needs(task, everything):
                start = self.sharing.input_column(t)
                prefixes += [f"encoder.{start}.", f"fusion.{start}.", f"backbone.{self.sharing.backbone_column(t)}."]
            own = {f"sharing.{name}" for name in self.sharing.reads(task, everything)}
            self._reads[task] = frozenset(n for n in self._phi if n in own or n.startswith(tuple(prefixes)))
        return self._reads[task]

    def refresh(self) -> None:
        """Read the parameters' names again, after modules were wrapped or added."""
        self._phi = dict(self.named_parameters())
        self._reads = {}

    def encoders(self, modality: Modality) -> dict[Column, Encoder]:
        """The encoder of a modality in every input column."""
        nets = cast(Mapping[Column, Mapping[Modality, Encoder]], self.encoder)
        return {column: nets[column][modality] for column in self.encoder}

    def columns(self, task: TaskName, source: TaskName) -> dict[Name, Name]:
        """Names of the task's own columns, to those of the source task's; empty where both read the same network."""
        pairs = {
            f"backbone.{self.sharing.backbone_column(task)}.": f"backbone.{self.sharing.backbone_column(source)}.",
            f"fusion.{self.sharing.input_column(task)}.": f"fusion.{self.sharing.input_column(source)}.",
            f"encoder.{self.sharing.input_column(task)}.": f"encoder.{self.sharing.input_column(source)}.",
        }
        return {n: like + n.removeprefix(own) for own, like in pairs.items() if own != like for n in self._phi if n.startswith(own)}

    def ledger(self) -> dict[str, Any]:
        """Tasks in the order of growth; JSON types. `replay` on a model without tasks makes the same names."""
        grown = [{"task": task.to_json(), "like": like} for task, like in zip(self.tasks.values(), self._likes, strict=True)]
        return {"started": list(self._started), "grown": grown}

    def replay(self, ledger: Mapping[str, Any]) -> None:
        """Grow what the ledger lists."""
        self._started = tuple(ledger["started"])
        self.sharing.start(self._started)
        for entry in ledger["grown"]:
            self.add_task(Task.from_json(entry["task"]), entry["like"])

    def _fuse(self, column: Column, batch: Batch) -> Tensor:
        features = {}
        for m, encode in cast(nn.ModuleDict, self.encoder[column]).items():
            if m in batch.features:
                features[m] = batch.features[m]
            else:
                # What stands in the place of an absent input may be NaN, which would reach the encoder's gradients.
                x = batch.inputs[m]
                features[m] = encode(torch.where(batch.present[m].view(-1, *[1] * (x.dim() - 1)), x, x.new_zeros(())))
        return self.fusion[column](features, batch.present, batch.geometry)

    @staticmethod
    def _refuse_unlike(task: Task, owner: Task) -> None:
        if replace(task, name=owner.name, at=owner.at, role=owner.role) != owner:
            raise ConfigError(
                f"tasks that share one head must be alike in kind, classes and unit; found `{owner.name}` and `{task.name}`.",
                hint="sharing=hard gives every task a head of its own",
                place="sharing",
            )

    def _stage(self, column: Column, i: int) -> nn.Module:
        return cast(Backbone, self.backbone[column]).stages[i]

    def _seeded(self, name: str, make: Callable[[], Part]) -> Part:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stable_seed(self._seed, name))
            return make()


def _check_name(name: str, what: str, place: str) -> None:
    if not re.fullmatch(r"[A-Za-z_]\w*", name) or hasattr(nn.ModuleDict, name):
        raise ConfigError(f"the name of a {what} must be an identifier that torch does not use itself; found `{name}`", place=place)
