"""The root of a config. The nodes below it are checked against the constructors that they name, so no other schema exists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge


@dataclass(frozen=True)
class Runtime:
    """Names of plain-typed arguments that the program fills in, and that a config therefore must not hold.

    Arguments of any other type (a task, a pool, a signature) are recognised by their annotation.
    """

    names: tuple[str, ...]


@dataclass(frozen=True)
class FolderName:
    """A string that is safe as the name of a folder."""


class Node:
    """A mapping with `_target_`, checked against that class's constructor."""


@dataclass(frozen=True)
class Switches:
    """What makes a paradigm. Nothing else in the program knows a paradigm by name.

    Args:
        name: For tables and folders.
        pretrain: Encoders come pretrained. joint: tasks are trained together. bilevel: an inner loop on support, an outer one on query.
        handover: The target starts from what was learnt on the source.
    """

    name: Annotated[str, FolderName()]
    pretrain: bool
    joint: bool
    bilevel: bool
    handover: bool


@dataclass(frozen=True)
class Transfer:
    """Where pretrained encoders come from, and how what was learnt moves on.

    Args:
        source: Where from.
        handover: What stays frozen, what is tuned, what is added.
        source_task: Whose network a new task starts from where tasks have networks of their own: a task, or `auto`.
    """

    source: Annotated[Node, Runtime(("seed",))]
    handover: Node
    source_task: str


@dataclass(frozen=True)
class Train:
    """A whole config, in the order of the data flow.

    Args:
        seed: Of initialisation, data order and everything random that is not the data.
        arm_seed: Above 0: another initialisation and data order, with the splits and episodes of the same seed.
        name: Runs go to `outputs/<name>/`.
        tasks: Tasks to train, in order; None is all that the data labels at the source.
        new_tasks: Tasks that are added at the target; None is all that the data labels there alone.
        members: Networks a task, whose predictions are averaged; each narrower, so that all are no larger than one would be.
        with_target: Train on the target's training labels, too, those of new tasks among them; nothing is adapted then.
        start: Folder of a finished run whose network is taken instead of training one.
        reuse: Take the source networks of a run whose folder lies beside this one's, where its training was the same to the bit.
        compared_as: What a comparison makes of the run: one of its settings, a baseline beside them, or an upper bound.
        baselines: Options of the group `baseline` that `m3tl ablate` runs beside its settings.
        estimator: Fitted to the rows of tables instead of a network; None: a network is trained.
        probe: Builds the heads of baselines, and of the search for a source task.
    """

    seed: Annotated[int, Ge(0)]
    arm_seed: Annotated[int, Ge(0)]
    name: Annotated[str, FolderName()]
    tasks: list[str] | None
    new_tasks: list[str] | None
    members: Annotated[int, Ge(1)]
    with_target: bool
    start: str | None
    reuse: bool
    compared_as: Literal["setting", "baseline", "upper_bound"]
    baselines: list[str]
    estimator: Annotated[Node, Runtime(("seed",))] | None
    data: Node
    task: dict[str, Node]
    encoder: dict[str, Node]
    fusion: Node
    backbone: Node
    sharing: Annotated[Node, Runtime(("num_stages",))]
    heads: dict[str, Node]
    balancing: Annotated[Node, Runtime(("seed",))]
    paradigm: Switches
    sampler: Annotated[Node, Runtime(("seed",))]
    episodes: Annotated[Node, Runtime(("seed", "single"))]
    inner: Node
    head_init: Node
    probe: Node
    transfer: Transfer
    optimizer: Node
    scheduler: Node
    trainer: Node
    target: Node
    tracking: Node
