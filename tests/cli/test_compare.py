from __future__ import annotations

from pathlib import Path

import pytest

from m3tl_cli.comparison.tables import Comparison
from tests.cli.conftest import Run
from tests.cli.run_folders import run


def test_finished_runs_are_compared_on_the_terminal_and_in_files(m3tl: Run, tmp_path: Path) -> None:
    for setting in ("stl", "mtl"):
        for seed in (1, 2, 3):
            run(tmp_path / "outputs", setting, seed)
    done = m3tl("compare", "outputs", "--out", "made")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Exploratory (3 seeds, no verdict below 6)")
    assert "mtl - stl" in done.stdout
    found = Comparison.read(tmp_path / "made" / "comparison.json")
    assert (found.planned, len(found.runs)) == (False, 6)
    assert (tmp_path / "made" / "tables" / "tasks.csv").is_file()


def test_runs_that_differ_are_refused_with_the_key_and_flagged_by_force(m3tl: Run, tmp_path: Path) -> None:
    run(tmp_path, "stl", 1)
    run(tmp_path, "mtl", 1, data__num_scenes=9)
    refused = m3tl("compare", "stl-s1", "mtl-s1")
    assert refused.returncode == 2
    assert "data.num_scenes" in refused.stderr
    assert "Traceback" not in refused.stderr
    forced = m3tl("compare", "stl-s1", "mtl-s1", "--force")
    assert forced.returncode == 0, forced.stderr
    assert "! forced: `data.num_scenes` differs between runs: 270, 9" in " ".join(forced.stdout.split())


def test_an_axis_on_which_runs_differ_on_purpose_is_named(m3tl: Run, tmp_path: Path) -> None:
    run(tmp_path, "mtl", 1, "few", data__num_scenes=9)
    run(tmp_path, "mtl", 1, "many")
    done = m3tl("compare", "few", "many", "axes=data.num_scenes", "margin=0.1")
    assert done.returncode == 0, done.stderr
    assert "mtl, data.num_scenes=9" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "there must be a run to compare"),
        (["nowhere"], "found none in nowhere"),
        (["stl-s1", "margin=much"], "`margin` must be a number"),
        (["--query", "attributes.status = 'FINISHED'"], "must name a store"),
        (["stl-s1", "axes=nope"], "nope"),
        (["stl-s1", "gain_reference=rigde"], "gain_reference=ridge"),
    ],
)
def test_what_cannot_be_is_exit_code_2(m3tl: Run, tmp_path: Path, words: list[str], told: str) -> None:
    run(tmp_path, "stl", 1)
    done = m3tl("compare", *words)
    assert done.returncode == 2, done.stderr
    assert told in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
