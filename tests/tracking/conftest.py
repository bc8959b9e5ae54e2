"""One ready database for all tests: MLflow takes seconds to make its tables."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def fresh_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from m3tl_cli.tracking.store import connect

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        connect(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def outputs(fresh_database: Path, tmp_path: Path) -> Path:
    """An outputs folder whose store is there already."""
    folder = tmp_path / "out's"
    folder.mkdir()
    shutil.copy(fresh_database, folder / "mlflow.db")
    return folder
