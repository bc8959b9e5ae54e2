from __future__ import annotations

from pathlib import Path

from m3tl_cli.tracking.base import RunInfo, Tracker
from m3tl_cli.tracking.off import Off


def test_it_is_a_tracker_that_leaves_no_trace(tmp_path: Path) -> None:
    off = Off()
    assert isinstance(off, Tracker)
    off.start(RunInfo(name="a", folder=tmp_path, experiment="e", params={}))
    off.metrics(1, {"train/a/loss": 1.0})
    off.artifact(tmp_path / "absent.txt")
    off.finish("FAILED")
    assert list(tmp_path.iterdir()) == []
    assert (off.trouble, off.where) == ("", "")
