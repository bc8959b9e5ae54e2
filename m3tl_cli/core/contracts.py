"""The nouns of the program, in the order of the data flow, and the few functions that follow from them.

Shape letters, the same in every file: B batch, T tasks, M modalities, N points or tokens, D features, C classes or channels,
H, W rows and columns of a map, P shared parameters, K inner steps. A suffix on a name gives its shape: `rows_TP`, `losses_T`.

A parameter's dotted name is the only key of everything below; parameters are ALWAYS an argument, never read off a module.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

TaskName = str
Modality = str
Name = str
Params = Mapping[Name, Tensor]


@dataclass(frozen=True)
class ModalityInfo:
    """What one modality looks like.

    Args:
        name: For example `rgb`.
        kind: Chooses the encoder: `encoder/<kind>`.
        channels: image: colour channels; points: columns of a point, of which the first three are x, y, z in metres in the
            sensor's frame and the last is 1 where the ray returned and 0 where it did not; table: columns; text: 2.
        size: image: rows and columns in pixels; points: the same of the image that the calibration projects them on;
            table, text: empty.
        length: points: how many a sample has; text: tokens of the longest; else 0.
    """

    name: Modality
    kind: Literal["image", "points", "table", "text"]
    channels: int
    size: tuple[int, ...] = ()
    length: int = 0


@dataclass(frozen=True)
class Signature:
    """What flows from encoder to fusion to backbone to head.

    Args:
        kind: `vector` [B, D], `tokens` [B, N, D] or `map` [B, D, H, W].
        dim: D.
        grid: H and W of a map; of tokens with a place in an image, the map that they would fill; (1, 1) for a vector.
    """

    kind: Literal["vector", "tokens", "map"]
    dim: int
    grid: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Task:
    """One thing to predict. Data only: it hashes, pickles and goes into the model's ledger.

    Args:
        name: An identifier.
        kind: File stem in `task/`: what is done with its outputs.
        num_outputs: Channels that its head puts out.
        dense: Whether it has one output per pixel.
        size: Rows and columns of a dense label; empty for a vector task.
        classes: Names of the classes, in the order of the labels; empty for regression.
        unit: Unit of the target, for people ("m", "deg").
        mean: Mean of the target over the labelled training samples, one number per output; empty for classes.
        std: Its standard deviation, the same way; never 0.
        role: An auxiliary task is trained and not reported as a result.
        at: The stages in which it has labels.
        member_of: The task whose labels it learns from, and with whose predictions its own are averaged; empty for a task itself.
    """

    name: TaskName
    kind: str
    num_outputs: int
    dense: bool
    size: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()
    unit: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    role: Literal["main", "auxiliary"] = "main"
    at: tuple[str, ...] = ("source", "target")
    member_of: TaskName = ""

    @property
    def original(self) -> TaskName:
        """Name of the task whose labels it learns from: its own, but for members of another."""
        return self.member_of or self.name

    def to_json(self) -> dict[str, Any]:
        """Plain types only; `from_json` gives an equal task back."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Task:
        """Inverse of `to_json`; a field that is not there, as it did not exist yet, has its default."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return Task(**fields)


@dataclass(frozen=True)
class Batch:
    """B samples.

    Args:
        inputs: Raw input per modality; may lack one whose `features` are there. Images are float in [0, 1], [B, C, H, W];
            points [B, N, C]; tables [B, C]; texts int64 [B, N, 2]: id of a token, and 1 where there is one.
        features: Stored output of a frozen encoder.
        present: [B] bool per modality.
        geometry: Calibration, which must survive when inputs are replaced by features. For points modality m: `m.position`
            [B, N, 3] metres in the sensor's frame, `m.valid` [B, N] bool, `m.extrinsics` [B, 3, 4] sensor to camera;
            and `intrinsics` [B, 3, 3] of the camera in units of the image's width and height: u, v in [0, 1] are inside.
            Camera axes: x right, y down, z forward.
        targets: [B, ...] per task; whatever stands where `labelled` is False is never read.
        labelled: [B] bool per task.
        index: [B] row in the store. domain: [B] index into the data's domains.
    """

    inputs: Mapping[Modality, Tensor]
    features: Mapping[Modality, Tensor]
    present: Mapping[Modality, Tensor]
    geometry: Mapping[str, Tensor]
    targets: Mapping[TaskName, Tensor]
    labelled: Mapping[TaskName, Tensor]
    index: Tensor
    domain: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`; itself where it is there already."""
        if self.index.device == device:
            return self

        def move(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {k: v.to(device, non_blocking=True) for k, v in tensors.items()}

        return Batch(
            inputs=move(self.inputs),
            features=move(self.features),
            present=move(self.present),
            geometry=move(self.geometry),
            targets=move(self.targets),
            labelled=move(self.labelled),
            index=self.index.to(device),
            domain=self.domain.to(device),
        )

    def take(self, index: Tensor) -> Batch:
        """Samples at `index` [B'], in that order."""

        def pick(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {k: v[index] for k, v in tensors.items()}

        return Batch(
            inputs=pick(self.inputs),
            features=pick(self.features),
            present=pick(self.present),
            geometry=pick(self.geometry),
            targets=pick(self.targets),
            labelled=pick(self.labelled),
            index=self.index[index],
            domain=self.domain[index],
        )


class Pool(Protocol):
    """Samples that a stage may draw from, without reading them."""

    domain: Tensor  # [N] index into the data's domains
    labelled: Mapping[TaskName, Tensor]  # [N] bool

    def __len__(self) -> int: ...

    def read(self, index: Tensor, tasks: Sequence[TaskName] | None = None) -> Batch:
        """One indexed read of rows [B] (positions in this pool), with the targets of `tasks` (all by default)."""
        ...


@dataclass(frozen=True)
class Part:
    """A batch and the tasks that read it. A shared batch: one Part, many tasks. A batch per task: many Parts, one task each."""

    batch: Batch
    tasks: tuple[TaskName, ...]


@dataclass(frozen=True)
class Episode:
    """Support, on which the inner loop adapts, and query, on which the outcome is judged.

    An ordinary mini-batch is an episode without support.

    Args:
        uid: Unique within a run; seeds whatever is random inside the episode.
        tasks: Its tasks; N-way episodes hold tasks that exist for one episode only.
        fresh: Tasks whose head is built inside this episode, from its support.
        weight: Factor of its query losses in the outer objective.
    """

    uid: int
    support: tuple[Part, ...]
    query: tuple[Part, ...]
    tasks: tuple[Task, ...]
    fresh: frozenset[TaskName] = frozenset()
    weight: float = 1.0

    def to(self, device: torch.device) -> Episode:
        """The same episode on `device`."""
        move = lambda parts: tuple(replace(p, batch=p.batch.to(device)) for p in parts)  # noqa: E731
        return replace(self, support=move(self.support), query=move(self.query))


class Reader(Protocol):
    """Parameters, and which task reads which."""

    def params(self) -> dict[Name, Tensor]:
        """Phi: the leaves, by name."""
        ...

    def reads(self, task: TaskName) -> frozenset[Name]:
        """Names that the task's output depends on."""
        ...


class Model(Reader, Protocol):
    """Encoders, fusion, backbone under a sharing, heads. Everything takes `params`."""

    @property
    def tasks(self) -> Mapping[TaskName, Task]:
        """Tasks by name, in the order of growth."""
        ...

    def outputs(self, params: Params, batch: Batch, tasks: Sequence[TaskName]) -> dict[TaskName, Tensor]:
        """Output per task, computed with `params`; foreign names in `params` are ignored."""
        ...


def shared(model: Reader, tasks: Sequence[TaskName], coupled: bool = False) -> frozenset[Name]:
    """Names that two of `tasks` read: the P of [T, P]; empty for separate networks.

    Args:
        model: Says what each task reads.
        tasks: The tasks of the step.
        coupled: Second order with inner steps: through the joint inner step the query loss of one task depends on the HEAD of
            another, so everything that two or more tasks of an episode read together is shared.
    """
    if coupled and len(tasks) > 1:
        return frozenset().union(*(model.reads(t) for t in tasks))
    seen: set[Name] = set()
    twice: set[Name] = set()
    for task in tasks:
        twice |= seen & model.reads(task)
        seen |= model.reads(task)
    return frozenset(twice)


def components(model: Reader, tasks: Sequence[TaskName]) -> list[tuple[TaskName, ...]]:
    """Group tasks that are linked by what they read, in the order of `tasks`.

    Clip, early stopping, guards and best checkpoints work per component, so that T separate networks in one process are T runs.
    """
    groups: list[set[TaskName]] = []
    for task in tasks:
        near = [g for g in groups if any(model.reads(task) & model.reads(u) for u in g)]
        groups = [g for g in groups if g not in near] + [set().union({task}, *near)]
    ordered = sorted(groups, key=lambda g: min(tasks.index(t) for t in g))
    return [tuple(t for t in tasks if t in g) for g in ordered]


@dataclass
class Signal:
    """What a step knows before balancing; the only thing that is averaged over ranks.

    Args:
        losses: Detached scalar per task that was present.
        rows: d loss / d name per task, over shared and private names. Empty where the balancer needs nothing.
        common: Gradients that are already weighted and summed.
    """

    losses: dict[TaskName, Tensor] = field(default_factory=dict)
    rows: dict[TaskName, dict[Name, Tensor]] = field(default_factory=dict)
    common: dict[Name, Tensor] = field(default_factory=dict)


class Stateful(Protocol):
    """Whatever resumes: `load_state_dict(state_dict())` continues bit for bit. States hold tensors and JSON types only."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes while training."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        ...


class Sampler(Stateful, Protocol):
    """What a stage draws its episodes from. Pure in (seed, step) and in what `update` was told."""

    def draw(self, step: int) -> Sequence[Episode]:
        """Episodes of draw `step`, counted from 0."""
        ...

    @property
    def samples_per_step(self) -> int:
        """Training samples that a draw reads."""
        ...

    def update(self, losses: Mapping[TaskName, float]) -> None:
        """Learn from the losses of the last step."""
        ...


Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much is done and how much there is in all."""


def quiet(what: str, done: int, total: int) -> None:
    """A `Progress` that shows nothing."""


def stable_seed(*parts: object) -> int:
    """A seed in [0, 2^63) from anything with a stable repr, equal on every machine and in every process."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*parts: object) -> torch.Generator:
    """A CPU generator seeded by `stable_seed`."""
    return torch.Generator().manual_seed(stable_seed(*parts))
