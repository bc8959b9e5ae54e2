"""Runs side by side: what one of them trained, another that would train the same to the bit takes from it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from m3tl_cli.core.results import StageCost, write_text

FILE = "source.json"
"""In a run folder whose source stage is over: its content key, and what it cost."""


def training_key(config: Mapping[str, Any], left_out: Collection[str], stores: Sequence[str], start: str) -> str:
    """Content key of a source stage: equal where training is the same to the bit.

    Everything in the config counts but what is left out by name: a key that nobody thought of costs a training, never a wrong network.

    Args:
        config: Of the run, plain types.
        left_out: Dotted keys of what the stage does not read.
        stores: Content keys of the samples that it reads.
        start: Hash of the tensors that it starts from: a file of weights may change and keep its name.
    """

    def kept(node: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        found = {}
        for key, value in node.items():
            if prefix + key not in left_out:
                found[key] = kept(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value
        return found

    text = json.dumps({"config": kept(config, ""), "stores": list(stores), "start": start}, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Trained:
    """A source stage that is over.

    Args:
        folder: Of its run.
        stages: What it cost.
        beside: What else it measured; JSON types.
    """

    folder: Path
    stages: tuple[StageCost, ...]
    beside: Mapping[str, Any]

    def measured(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Step and values of what the run's journal says of it: neither pretraining nor what came after."""
        for line in (self.folder / "metrics.jsonl").read_text().splitlines():
            entry = json.loads(line)
            values = {k: math.nan if v is None else v for k, v in entry["values"].items() if not k.startswith(("pretrain/", "test/"))}
            if values:
                yield entry["step"], values


class Siblings:
    """The runs whose folders lie beside a run's own.

    Args:
        folder: Of the run.
        key: Content key of its source stage.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder.absolute(), key

    @contextmanager
    def alone(self, waiting: Callable[[], None]) -> Iterator[None]:
        """While no other run beside this one trains the same.

        Args:
            waiting: Called once where one does.
        """
        lock = FileLock(self.folder.parent / f".{self.key}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waiting()
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def trained(self) -> Trained | None:
        """A sibling's source stage of the same key; None without one."""
        for path in sorted(self.folder.parent.glob(f"*/{FILE}")):
            if path.parent != self.folder and (told := json.loads(path.read_text()))["key"] == self.key:
                return Trained(path.parent, tuple(StageCost(**c) for c in told["stages"]), told["beside"])
        return None

    def leave(self, stages: Sequence[StageCost], beside: Mapping[str, Any]) -> None:
        """Say that this run's source stage is over."""
        write_text(self.folder / FILE, json.dumps({"key": self.key, "stages": [vars(c) for c in stages], "beside": beside}))
