from __future__ import annotations

import json
from pathlib import Path

import pytest

from m3tl_cli.comparison.tables import Comparison
from tests.cli.conftest import Run
from tests.cli.run_folders import run


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for setting in ("stl", "mtl"):
        for seed in (1, 2):
            run(tmp_path / "x-sweep", setting, seed)
    return tmp_path / "x-sweep"


def test_each_format_goes_into_the_folder_or_where_it_is_told(m3tl: Run, sweep: Path, tmp_path: Path) -> None:
    for form, name in (("md", "comparison.md"), ("latex", "comparison.tex"), ("json", "comparison.json"), ("csv", "tables/summary.csv")):
        done = m3tl("report", "x-sweep", "--format", form)
        assert done.returncode == 0, done.stderr
        assert (sweep / name).is_file()
        assert done.stdout.strip() == f"x-sweep/{name.split('/')[0]}"
    assert Comparison.read(sweep / "comparison.json").arms == ("stl", "mtl")
    assert m3tl("report", "x-sweep", "--format", "md", "--out", "made/own.md").returncode == 0
    assert (tmp_path / "made" / "own.md").read_text() == (sweep / "comparison.md").read_text()


def test_the_page_of_a_comparison_goes_where_it_is_told(m3tl: Run, sweep: Path, tmp_path: Path) -> None:
    assert m3tl("report", "x-sweep").stdout == "x-sweep/report.html\n"
    done = m3tl("report", "x-sweep", "--out", "made/page.html")
    assert done.returncode == 0, done.stderr
    assert "mtl" in (tmp_path / "made" / "page.html").read_text()


def test_a_minus_prints(m3tl: Run, sweep: Path) -> None:
    done = m3tl("report", "x-sweep", "--format", "json", "--out", "-")
    assert Comparison.from_json(json.loads(done.stdout)).seeds == (1, 2)
    assert m3tl("report", "x-sweep", "--format", "csv", "--out", "-").returncode == 2


@pytest.mark.slow
def test_a_run_has_its_page_again_and_its_numbers_in_every_format(m3tl: Run, tmp_path: Path) -> None:
    assert m3tl("train", "paradigm=mtl", "budget=smoke", "hydra.run.dir=here").returncode == 0
    assert not (tmp_path / "here" / "report.html").exists()
    done = m3tl("report", "here", "--out", "page.html")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "page.html\n"
    assert (tmp_path / "page.html").read_bytes() == (tmp_path / "here" / "report.html").read_bytes()
    assert "| mtl | 0.750 |" in m3tl("report", "here", "--format", "md", "--out", "-").stdout


def test_what_holds_no_run_is_exit_code_2(m3tl: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for words in (["nowhere"], ["empty"], ["empty", "--format", "md"]):
        done = m3tl("report", *words)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
