"""Every test starts from the same seed, offline, with a cache and outputs of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Before torch is loaded. On some 2-core machines a second thread made a step 40 times as slow, by threads that spin for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    import torch

    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _gpu(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the tests of a module share of prepared data and pretrained encoders, with `own_cache`."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `cache` the cache of the test."""
    monkeypatch.setenv("M3TL_CACHE", str(cache))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves curves out of the pages of runs: half the time of a run that trains for a moment. The tests of the report draw them."""
    from m3tl_cli.report import adaptation, plots

    for module in (adaptation, plots):
        monkeypatch.setattr(module, "draw", lambda *_: "<svg></svg>")


@pytest.fixture
def shared_data() -> Path:
    """Real data beside the project; the test skips where it is absent."""
    folder = Path(os.environ.get("M3TL_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set M3TL_SHARED_DATA")
    return folder
