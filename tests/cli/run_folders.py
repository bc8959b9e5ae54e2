"""Folders of finished runs with planted scores, as `m3tl train` would leave them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from m3tl_cli.comparison.cells import Cell
from tests.comparison._cells import cell, noise


def gain(setting: str, seed: int, key: str, task: str) -> float:
    """`mtl` is .1 above the others; seeds differ."""
    return 0.3 + 0.1 * (setting == "mtl") + noise("", seed, key, scale=0.05) + noise(setting, seed, key, task, scale=0.01)


def put(folder: Path, made: Cell, overrides: tuple[str, ...] = ()) -> Path:
    """Write a cell's files."""
    folder.mkdir(parents=True)
    made.results.write(folder / "results.json")
    (folder / "config.yaml").write_text(yaml.safe_dump({**made.config, "seed": made.seed}))
    (folder / "overrides.yaml").write_text(yaml.safe_dump(list(overrides)))
    status = {"state": "FINISHED", "pid": 1, "host": "h", "process_start": 0.0, "overrides": list(overrides), "value": 0.5, "seconds": 3.0}
    (folder / "status.json").write_text(json.dumps(status))
    return folder


def run(root: Path, setting: str, seed: int, name: str = "", **changes: Any) -> Path:
    """A finished run in a folder of its own."""
    return put(root / (name or f"{setting}-s{seed}"), cell(setting, seed, gain, **changes))
