"""The root of a config. The nodes below it are checked against the constructors that they name, so no other schema exists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

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
        joint: One network for all tasks; off: a network per task.
    """

    name: Annotated[str, FolderName()]
    joint: bool


@dataclass(frozen=True)
class Train:
    """A whole config, in the order of the data flow.

    Args:
        seed: Of initialisation, data order and everything random that is not the data.
        name: Runs go to `outputs/<name>/`.
        tasks: Tasks to train, in order; None is all that the data labels at the source.
    """

    seed: Annotated[int, Ge(0)]
    name: Annotated[str, FolderName()]
    tasks: list[str] | None
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
    optimizer: Node
    scheduler: Node
    trainer: Node
    tracking: Node
