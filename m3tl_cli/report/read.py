"""Read what a run left. Every part of a run folder may be absent: a killed run has only what it got to.

Imports no torch, so that a report or a comparison starts at once.
"""

from __future__ import annotations

import json
import shlex
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import yaml

from m3tl_cli.core.errors import DataError
from m3tl_cli.core.results import Results
from m3tl_cli.tracking.status import Status, read_status

Picture = npt.NDArray[np.uint8]
"""[H, W, 3]."""


class Series(NamedTuple):
    """One metric over the run: optimiser steps, strictly rising, and a value for each."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Cell:
    """What stands under one column: a picture or words, one of them."""

    picture: Picture | None = None
    text: str = ""


@dataclass(frozen=True)
class Row:
    """One sample. A column that it lacks is empty."""

    caption: str
    cells: Mapping[str, Cell]


@dataclass(frozen=True)
class Samples:
    """Samples with inputs, labels and predictions."""

    columns: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True)
class RunFolder:
    """A finished, failed, killed or running run, read when asked.

    Args:
        path: The run folder.
    """

    path: Path

    @staticmethod
    def open(path: Path) -> RunFolder:
        """Point at a run folder.

        Raises:
            DataError: If there is no run at `path`.
        """
        run = RunFolder(path.absolute())
        if not any((path / name).exists() for name in ("config.yaml", "status.json", "metrics.jsonl", "results.json")):
            found = "a folder without them" if path.is_dir() else "nothing"
            raise DataError(
                f"`{path}` must be a run folder with a config.yaml, status.json, metrics.jsonl or results.json; found {found}.",
                hint="give a folder below outputs/, such as outputs/train/<time>-<paradigm>-s<seed>-<hash>",
                place=str(path),
            )
        return run

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @cached_property
    def status(self) -> Status:
        """How the run stands. One that has its results is finished, though its process still writes this very report."""
        status = read_status(self.path)
        if status.state == "RUNNING" and self.results is not None:
            cost = self.results.cost
            return replace(status, state="FINISHED", seconds=cost.seconds + cost.seconds_prepare)
        return status

    @cached_property
    def results(self) -> Results | None:
        """Test results; None where the run did not get there."""
        try:
            return Results.read(self.path / "results.json")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise _damaged(self.path / "results.json", error) from error

    @cached_property
    def config_text(self) -> str:
        """The resolved config as it was written; empty where there is none."""
        return _text(self.path / "config.yaml")

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The resolved config as plain types; empty where there is none."""
        config = _yaml(self.path / "config.yaml")
        return config if isinstance(config, dict) else {}

    @cached_property
    def overrides(self) -> tuple[str, ...]:
        """What was typed behind the command, in order."""
        overrides = _yaml(self.path / "overrides.yaml")
        return tuple(map(str, overrides)) if isinstance(overrides, list) else ()

    @cached_property
    def environment(self) -> Mapping[str, Any]:
        """Versions, git state, hardware, command; empty where there is none."""
        try:
            environment = json.loads(_text(self.path / "environment.json") or "{}")
        except ValueError as error:
            raise _damaged(self.path / "environment.json", error) from error
        return environment if isinstance(environment, dict) else {}

    @cached_property
    def command(self) -> str:
        """What to type to repeat the run, quoted for a shell; empty where that is not known."""
        command = self.environment.get("command")
        if isinstance(command, str) and command:
            return command
        if isinstance(command, list) and command:
            return shlex.join(map(str, command))
        return "" if "overrides.yaml" in self.missing else shlex.join(("m3tl", "train", *self.overrides))

    @cached_property
    def history(self) -> Mapping[str, Series]:
        """Every logged metric, in the order of first appearance. Where a resumed run logged a step again, the later line holds."""
        found: dict[str, dict[int, float]] = {}
        for line in _text(self.path / "metrics.jsonl").splitlines():
            # The line that a killed run was writing is torn, and what a resumed run wrote first may be glued to it.
            try:
                raw = json.loads(line)
                step, values = int(raw["step"]), {str(k): float(v) for k, v in raw["values"].items()}
            except (ValueError, TypeError, KeyError, AttributeError):
                continue
            for key, value in values.items():
                found.setdefault(key, {})[step] = value
        return {key: Series(tuple(sorted(by_step)), tuple(by_step[s] for s in sorted(by_step))) for key, by_step in found.items()}

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """Names of the trained tasks: from the results, else from what was logged."""
        if self.results is not None:
            return self.results.tasks
        keys = [key.split("/") for key in self.history]
        return tuple(dict.fromkeys(k[1] for k in keys if len(k) == 3 and (k[0] == "val" or (k[0], k[2]) == ("train", "loss"))))

    @cached_property
    def last_step(self) -> int:
        """The last step that was logged; 0 where none was."""
        return max((s.steps[-1] for s in self.history.values() if s.steps), default=0)

    @cached_property
    def samples(self) -> Samples | None:
        """Drawn predictions; None where there are none."""
        try:
            raw = json.loads((self.path / "samples.json").read_text())
            pictures: dict[str, Picture] = {}
            if (self.path / "samples.npz").exists():
                with np.load(self.path / "samples.npz", allow_pickle=False) as file:
                    pictures = {key: _picture(file[key]) for key in file.files}
            return samples_from(raw["columns"], raw["rows"], pictures)
        except FileNotFoundError:
            return None
        except (OSError, EOFError, ValueError, TypeError, KeyError, AttributeError, zipfile.BadZipFile) as error:
            raise _damaged(self.path / "samples.json", error) from error

    @cached_property
    def checkpoints(self) -> tuple[str, ...]:
        """Names below checkpoints/, sorted."""
        folder = self.path / "checkpoints"
        return tuple(sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))) if folder.is_dir() else ()

    @cached_property
    def missing(self) -> tuple[str, ...]:
        """Files that a finished run has and this one lacks."""
        names = ("config.yaml", "overrides.yaml", "environment.json", "status.json", "metrics.jsonl", "results.json", "samples.json")
        return tuple(name for name in names if not (self.path / name).exists())


def samples_from(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], pictures: Mapping[str, Picture]) -> Samples:
    """Samples from the plain types of `samples.json` and the pictures that it names.

    Args:
        columns: Names, in order.
        rows: Each `{"caption": str, "cells": {column: {"picture": key} | {"text": str}}}`.
        pictures: uint8 [H, W, 3] by key.
    """
    made = []
    for row in rows:
        cells = {}
        for column, cell in row["cells"].items():
            picture = pictures.get(cell["picture"]) if "picture" in cell else None
            cells[str(column)] = Cell(picture, str(cell.get("text", "picture is missing" if picture is None else "")))
        made.append(Row(str(row["caption"]), cells))
    return Samples(tuple(map(str, columns)), tuple(made))


def _picture(array: npt.NDArray[Any]) -> Picture:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"a picture must be uint8 [H, W, 3]; found {array.dtype} {list(array.shape)}")
    return array


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(_text(path))
    except yaml.YAMLError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DataError:
    text = " ".join(str(error).split())[:200]
    return DataError(f"`{path.name}` must be as the run wrote it; found {text or type(error).__name__}.", place=str(path))
