"""Constructors with every kind of annotation. Importing this file fails: configs are checked from its source."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt
from nowhere import Pool, Task, nn

Kind_ = Literal["plain", "dilated"]


class Plain(nn.Module):
    def __init__(self, *, inputs: Pool) -> None: ...


class Base:
    def __init__(self, *, seed: int, shuffle: bool) -> None: ...


class Sum(nn.Module):
    pass


class PCGrad(Base):
    pass


class Sampler:
    def __init__(self, *, batch_size: Annotated[int, Ge(1)], pool: Pool, tasks: list[Task], seed: int) -> None: ...


class Toy:
    def __init__(self, *, num: Annotated[int, Ge(1)]) -> None: ...


class Kind:
    def __init__(self, *, task: Task) -> None: ...


class Conv:
    def __init__(self, *, width: Annotated[int, Ge(1)], kind: Kind_, modality: Task) -> None: ...


class AdamW:
    def __init__(
        self, *, lr: Annotated[float, Gt(0)], betas: tuple[Annotated[float, Ge(0), Lt(1)], Annotated[float, Ge(0), Lt(1)]]
    ) -> None: ...


class Loop:
    def __init__(
        self,
        *,
        device: str,
        updates: Annotated[int, Ge(0)],
        clip: Annotated[float, Gt(0)] | None,
        patience: Annotated[int, Ge(1)] | None,
        step_seconds: Annotated[float, Ge(0)],
        extra: dict[str, Any] | None = None,
    ) -> None: ...
