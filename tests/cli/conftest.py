"""A small config tree beside the real one, and a command line over it whose experiment only counts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

TREE = Path(__file__).resolve().parent / "tree"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a child process: the small tree, 80 columns, no colours, and compiled files, for the session where none may be left behind."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONDONTWRITEBYTECODE", "FORCE_COLOR", "PYTHONPATH")}
    compiled = {"PYTHONPYCACHEPREFIX": str(tmp_path_factory.mktemp("pycache"))} if sys.dont_write_bytecode else {}
    return {
        **kept,
        **compiled,
        "PYTHONPATH": str(TREE / "code"),
        "COLUMNS": "80",
        "NO_COLOR": "1",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture
def m3tl(tmp_path: Path, environment: dict[str, str]) -> Run:
    """Call the program in an empty folder, over the small tree."""

    def run(*words: str, **changes: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "m3tl_cli", *words]
        return subprocess.run(command, cwd=tmp_path, env={**environment, **changes}, capture_output=True, text=True, timeout=120)

    return run


@pytest.fixture
def tree(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The small config tree in this process, and an empty working directory."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    from m3tl_cli.config import paths

    monkeypatch.setattr(paths, "conf_dir", lambda: TREE / "conf")
    monkeypatch.setattr(sys, "path", [*sys.path, str(TREE / "code")])
    monkeypatch.chdir(tmp_path)
    yield TREE / "conf"
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None
