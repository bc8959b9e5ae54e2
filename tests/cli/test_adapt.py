"""`m3tl adapt RUN`: the run's own overrides, then those given; a new folder; nothing of the run is touched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from m3tl_cli.cli.resume import started_from
from m3tl_cli.cli.status import Status
from m3tl_cli.core.errors import ConfigError


def a_run(folder: Path, *overrides: str, state: str = "FINISHED", checkpoint: bool = True) -> Path:
    status = Status.begin(list(overrides))
    (status.end(state) if state != "RUNNING" else status).write(folder)  # type: ignore[arg-type]
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("".join(f"- {o}\n" for o in overrides))
    (folder / ".hydra" / "hydra.yaml").write_text("hydra:\n  runtime: {config_sources: []}\n  job: {config_name: train}\n")
    if checkpoint:
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "best.safetensors").write_bytes(b"")
    return folder


def test_the_runs_own_overrides_hold_and_those_given_win(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", "paradigm=mtl_handover", "seed=3", "name=first", "tasks=[depth,normals]")
    request = started_from(str(run), ("tasks=[edges]", "seed=4", "data.num_scenes=540"), debug=False)
    assert request.overrides == (
        "paradigm=mtl_handover",
        "tasks=[depth,normals]",
        "name=adapt",
        "new_tasks=[edges]",
        "seed=4",
        "data.num_scenes=540",
        f"start={run}",
    )
    assert not request.resumed, "a run of its own, in a folder of its own"
    named = started_from(str(run), ("name=second",), debug=True)
    assert [o for o in named.overrides if o.startswith("name=")] == ["name=second"]
    assert named.debug


@pytest.mark.parametrize(
    ("state", "checkpoint", "words"),
    [("RUNNING", True, "one that is running"), ("FAILED", True, "failed"), ("FINISHED", False, "best.safetensors")],
)
def test_only_a_finished_run_can_be_taken(state: str, checkpoint: bool, words: str, tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", state=state, checkpoint=checkpoint)
    with pytest.raises(ConfigError, match=words):
        started_from(str(run), (), debug=False)


def test_a_folder_without_a_run_is_a_panel_and_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "m3tl_cli", "adapt", str(tmp_path / "nothing")], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 2
    assert "no run there" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr + done.stdout
    assert list(tmp_path.iterdir()) == []
