"""The door for notebooks."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import m3tl_cli
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.core.results import Results
from tests.test_options import TINY


def test_importing_the_package_is_light() -> None:
    code = "import sys, m3tl_cli; assert not {'torch', 'hydra', 'typer'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_it_trains_like_the_command_and_twice_in_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("M3TL_CACHE", str(tmp_path / "cache"))
    folders = set()
    for paradigm in ("stl", "mtl"):
        run = m3tl_cli.train([*TINY, f"paradigm={paradigm}", "tasks=[depth,normals]"])
        assert Results.read(run.folder / "results.json") == run.results
        assert run.results.paradigm == paradigm
        status = json.loads((run.folder / "status.json").read_text())
        assert status["state"] == "FINISHED"
        assert status["value"] == pytest.approx(sum(t.scores[t.primary].error_reduction for t in run.results.blocks["a"].values()) / 2)
        folders.add(run.folder)
    assert len(folders) == 2


def test_it_works_outside_the_main_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("M3TL_CACHE", str(tmp_path / "cache"))
    runs: list[m3tl_cli.Run] = []
    thread = threading.Thread(target=lambda: runs.append(m3tl_cli.train([*TINY, "tasks=[vehicle_count]"])))
    thread.start()
    thread.join()
    assert runs[0].results.tasks == ("vehicle_count",)


def test_a_wrong_config_raises_with_everything_and_creates_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"updtes.*|seed") as caught:
        m3tl_cli.train(["trainer.updtes=3", "seed=-1"])
    assert "trainer.updates" in str(caught.value)
    assert "seed" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
