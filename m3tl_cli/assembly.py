"""From a config to the parts of a run: every part is made here, in the order of the data flow."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from m3tl_cli.backbone.base import Backbone
from m3tl_cli.balancing.base import Balancer
from m3tl_cli.config.narrowing import NETWORK, narrow
from m3tl_cli.core.contracts import ModalityInfo, Signature, Task, TaskName, stable_seed
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.core.members import members, with_members
from m3tl_cli.data.base import Data
from m3tl_cli.encoder.base import Encoder
from m3tl_cli.fusion.base import Fusion
from m3tl_cli.heads.base import Head
from m3tl_cli.inner.base import InnerLoop
from m3tl_cli.model import MultiTaskModel
from m3tl_cli.optimizer.base import OptimizerBuilder
from m3tl_cli.paradigm.base import Lengths, Paradigm, Stage
from m3tl_cli.scheduler.base import Scheduler
from m3tl_cli.sharing.base import Sharing
from m3tl_cli.target.protocol import Protocol
from m3tl_cli.task.base import TaskKind
from m3tl_cli.trainer import checkpoint
from m3tl_cli.trainer.loop import BEST, Loop
from m3tl_cli.transfer.base import Source

Part = TypeVar("Part")


@dataclass
class Experiment:
    """Every part of a run, made from a config but for what needs prepared data.

    `tasks` are trained at the source, `new` are met at the target; `with_target` new tasks are trained, too, and are in both. They are
    without their further members, which `trained` has, too.
    `cfg` has the widths of the networks as they are, and `notes` say how they came about.
    """

    cfg: DictConfig
    data: Data
    tasks: dict[TaskName, Task]
    new: dict[TaskName, Task]
    kinds: dict[TaskName, TaskKind]
    model: MultiTaskModel
    balancer: Balancer
    paradigm: Paradigm
    inner: InnerLoop
    source: Source
    optimizer: OptimizerBuilder
    scheduler: Scheduler
    loop: Loop
    protocol: Protocol
    notes: tuple[str, ...]

    @staticmethod
    def from_config(cfg: DictConfig, prepare: Callable[[Data], object] = lambda _: None) -> Experiment:
        """Make the parts.

        Args:
            cfg: Composed and validated.
            prepare: Called with the data before its tasks are read: makes the store, or leaves it out where only shapes are wanted.

        Raises:
            ConfigError: If parts do not fit together.
        """
        data = make(cfg.data, Data)
        prepare(data)
        if cfg.start and cfg.with_target:
            raise ConfigError(
                "`with_target` must be false where a finished run is started from; found true: nothing is left to adapt.",
                hint="start from a run of paradigm=mtl_handover or mtl_transfer",
                place="with_target",
            )
        before = about_run(cfg.start) if cfg.start else None
        if before:
            cfg = OmegaConf.create({**cfg, "task": {**before["config"]["task"], **cfg.task}})
            learnt = [Task.from_json(entry["task"]) for entry in before["ledger"]["grown"] if not entry["task"].get("member_of")]
            tasks = {t.name: replace(t, at=data.tasks[t.name].at if t.name in data.tasks else ()) for t in learnt}
        else:
            tasks = {name: task_named(data, name) for name in cfg.tasks or [n for n in cfg.task if "source" in task_named(data, n).at]}
        only_later = [n for n in cfg.task if "source" not in task_named(data, n).at and n not in tasks]
        new = {name: task_named(data, name) for name in (only_later if cfg.new_tasks is None else cfg.new_tasks)}
        if cfg.with_target:
            tasks |= new
        paradigm = Paradigm(**cfg.paradigm)
        cfg, notes = _as_wide_as_members_may_be(cfg, data, paradigm, tuple(tasks.values()))
        model = new_model(cfg, data, paradigm)
        if before:
            model.replay(before["ledger"])
            if model.tasks.keys() != {t.name for t in with_members(tasks.values(), cfg.members)}:
                number = max(len(names) for names in members(model.tasks.values()).values())
                raise ConfigError(
                    f"`members` must be that of the run that is started from, {number}; found {cfg.members}.",
                    hint=f"members={number}",
                    place="members",
                )
        else:
            model.start(with_members(tasks.values(), cfg.members))
        return Experiment(
            cfg=cfg,
            data=data,
            tasks=tasks,
            new=new,
            kinds={name: kind_of(cfg, task) for name, task in tasks.items()},
            model=model,
            balancer=new_balancer(cfg, paradigm),
            paradigm=paradigm,
            inner=make(cfg.inner, InnerLoop),
            source=make(cfg.transfer.source, Source),
            optimizer=make(cfg.optimizer, OptimizerBuilder),
            scheduler=make(cfg.scheduler, Scheduler),
            loop=make(cfg.trainer, Loop),
            protocol=make(cfg.target, Protocol),
            notes=notes,
        )

    @property
    def trained(self) -> dict[TaskName, Task]:
        """Tasks and their members, as the model holds them."""
        return {t.name: t for t in with_members(self.tasks.values(), self.cfg.members)}

    @property
    def trained_kinds(self) -> dict[TaskName, TaskKind]:
        """Kinds of `trained`."""
        return {name: kind_of(self.cfg, task) for name, task in self.trained.items()}

    @property
    def stages(self) -> dict[str, Stage]:
        """Stages by name, in order."""
        loop = self.loop
        warm_up = round(loop.warm_up * loop.updates)
        adapt = 0 if self.cfg.with_target else self.protocol.steps[-1]
        lengths = Lengths(self.source.updates, warm_up, loop.updates, adapt)
        new = tuple(n for n in self.new if n not in self.tasks)
        found = self.paradigm.stages(tuple(self.tasks), new, self.data.blocks, lengths)
        return {stage.name: stage for stage in found}


def make(node: Any, kind: type[Part], **runtime: Any) -> Part:
    """Make the part that a config node names.

    Args:
        node: `_target_` and hyper-parameters.
        kind: What it must be.
        **runtime: Given where the constructor asks for it: what is known only while a run is put together.

    Raises:
        ConfigError: If the node names something else.
    """
    found = get_class(node["_target_"])
    if not issubclass(found, kind):
        raise ConfigError(f"must name a {kind.__name__}; found {found.__name__}", place=str(node["_target_"]))
    accepted = inspect.signature(found).parameters
    # Partial, then called: Hydra would turn runtime objects such as a Task into configs.
    factory = instantiate(node, _partial_=True, _convert_="all")
    part: Part = factory(**{name: value for name, value in runtime.items() if name in accepted})
    return part


def about_run(run: str) -> dict[str, Any]:
    """What a finished run said of itself: its config, and the ledger of its tasks."""
    path = Path(run) / BEST
    if not path.is_file():
        raise ConfigError(f"must be the folder of a finished run; found no {BEST} in it", place="start")
    return checkpoint.about(path)


def task_named(data: Data, name: TaskName) -> Task:
    """A task of the data; ConfigError where it has none of that name."""
    if name not in data.tasks:
        raise ConfigError(f"must be among the data's tasks ({', '.join(data.tasks)}); found `{name}`", place="tasks")
    return data.tasks[name]


def new_model(cfg: DictConfig, data: Data, paradigm: Paradigm, seed: int | None = None) -> MultiTaskModel:
    """A model without tasks."""
    sharing = paradigm.fixed_parts().get("sharing", cfg.sharing)
    return MultiTaskModel(
        encoders={m: _encoder(cfg.encoder, info) for m, info in data.modalities.items()},
        fusion=lambda inputs: make(cfg.fusion, Fusion, inputs=inputs),
        backbone=lambda inputs: make(cfg.backbone, Backbone, inputs=inputs),
        sharing=lambda num_stages: make(sharing, Sharing, num_stages=num_stages),
        head=lambda task, inputs: _head(cfg.heads, task, inputs),
        seed=own_seed(cfg) if seed is None else seed,
    )


def own_seed(cfg: DictConfig) -> int:
    """Seed of what a run may draw for itself: initialisation and the order of data. Splits, episodes and pretraining go by `cfg.seed`."""
    return stable_seed(cfg.seed, "arm", cfg.arm_seed) if cfg.arm_seed else int(cfg.seed)


def kind_of(cfg: DictConfig, task: Task) -> TaskKind:
    """The kind of a task, with the statistics that the task carries."""
    return make(cfg.task[task.original], TaskKind, task=task)


def new_balancer(cfg: DictConfig, paradigm: Paradigm) -> Balancer:
    """A balancer without a past: the config's, or the one that the switches fix."""
    return make(paradigm.fixed_parts().get("balancing", cfg.balancing), Balancer, seed=own_seed(cfg))


def _as_wide_as_members_may_be(
    cfg: DictConfig, data: Data, paradigm: Paradigm, tasks: Sequence[Task]
) -> tuple[DictConfig, tuple[str, ...]]:
    """The config with networks of which all members are together no larger than one network a task; and what there is to say of it."""
    number = int(cfg.members)
    if number == 1:
        return cfg, ()
    if not paradigm.separate:
        raise ConfigError(
            f"`members` must be 1 where tasks share a network, or have an inner loop; found {number}.",
            hint="paradigm=stl, or members=1",
            place="members",
        )

    def size_of(nodes: Mapping[str, Any]) -> int:
        """Parameters of a network a task: those of one, as often as there are tasks, and every head."""
        together = Paradigm("one network", pretrain=False, joint=True, bilevel=False, handover=False)
        # Only shapes are wanted: nothing is read from a file. On torch's meta device transformers' networks cannot be made.
        encoders = {kind: {k: None if k == "weights" else v for k, v in node.items()} for kind, node in nodes["encoder"].items()}
        one = _replaced(cfg, {**nodes, "encoder": encoders, "sharing": {"_target_": "m3tl_cli.sharing.hard.Hard"}})
        model = new_model(one, data, together)
        model.start(tasks)
        return sum(p.numel() * (1 if n.startswith("head.") else len(tasks)) for n, p in model.params().items())

    nodes: dict[str, Any] = {key: OmegaConf.to_container(cfg[key], resolve=True) for key in NETWORK}
    most, found = size_of(nodes), narrow(nodes, number, size_of)
    if found is None:
        return cfg, (f"{number} networks a task have {number} times the parameters of one: no widths make them small enough",)
    told = f"{number * found.size:,} parameters, {number * found.size / most:.0%} of the {most:,} of one network a task"
    return _replaced(cfg, found.config), (f"{number} networks a task of {found.factor:.2f} times the widths: {told}",)


def _replaced(cfg: DictConfig, nodes: Mapping[str, Any]) -> DictConfig:
    whole: dict[Any, Any] = dict(cfg)
    return OmegaConf.create(whole | dict(nodes))


def encoder_node(nodes: DictConfig, info: ModalityInfo) -> Any:
    """The config node of a modality's encoder: one named after the modality wins over its kind's."""
    node = nodes.get(info.name) or nodes.get(info.kind)
    if node is None:
        raise ConfigError(f"must have a node for modality `{info.name}` or its kind `{info.kind}`; found {list(nodes)}", place="encoder")
    return node


def _encoder(nodes: DictConfig, info: ModalityInfo) -> Callable[[], Encoder]:
    node = encoder_node(nodes, info)
    return lambda: make(node, Encoder, modality=info)


def _head(nodes: DictConfig, task: Task, inputs: Signature) -> Head:
    node = nodes.get(task.original) or nodes.get("dense" if task.dense else "vector")
    if node is None:
        raise ConfigError(f"must have a node for task `{task.name}` or its kind of head; found {list(nodes)}", place="heads")
    return make(node, Head, task=task, inputs=inputs)
