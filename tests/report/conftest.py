from __future__ import annotations

from pathlib import Path

import pytest

from tests.report import _folder


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A finished run with five tasks."""
    return _folder.make(tmp_path / "run")
