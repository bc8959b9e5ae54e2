"""The program works from a wheel, in a folder that has nothing to do with the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel holds."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def call(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    # -P: the repository cannot come in by the working directory; the path comes before that of an editable install.
    environment = {**os.environ, "PYTHONPATH": str(installed), "COLUMNS": "80", "NO_COLOR": "1"}
    command = [sys.executable, "-P", "-m", "m3tl_cli", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=120)


def test_the_wheel_holds_every_module_and_every_config(installed: Path) -> None:
    packaged = {p.relative_to(installed / "m3tl_cli" / "conf").as_posix() for p in (installed / "m3tl_cli" / "conf").rglob("*.yaml")}
    assert packaged == {p.relative_to(ROOT / "conf").as_posix() for p in (ROOT / "conf").rglob("*.yaml")}
    modules = {p.relative_to(installed).as_posix() for p in (installed / "m3tl_cli").rglob("*.py")} - {"m3tl_cli/conf/__init__.py"}
    assert modules == {p.relative_to(ROOT).as_posix() for p in (ROOT / "m3tl_cli").rglob("*.py")}
    assert not list(installed.glob("tests"))


def test_it_composes_lists_and_refuses_anywhere(installed: Path, tmp_path: Path) -> None:
    printed = call(installed, tmp_path, "train", "--info", "searchpath")
    assert str(installed / "m3tl_cli" / "conf") in printed.stdout.replace("\n", "")
    composed = call(installed, tmp_path, "train", "--cfg", "job")
    assert composed.returncode == 0, composed.stderr
    assert composed.stdout.startswith("seed: 1\n")
    listed = call(installed, tmp_path, "list", "balancing")
    assert "pcgrad" in listed.stdout
    refused = call(installed, tmp_path, "train", "balancing=pcgard")
    assert refused.returncode == 2
    assert "did you mean balancing=pcgrad?" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_users_own_configs_stand_beside_those_of_the_wheel(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "mine" / "balancing").mkdir(parents=True)
    (tmp_path / "mine" / "balancing" / "own.yaml").write_text("# own\n_target_: own_part.Own\nshare: 0.5\n")
    composed = call(installed, tmp_path, "train", "--config-dir", "mine", "balancing=own", "--cfg", "job", "-p", "balancing")
    assert "share: 0.5" in composed.stdout
