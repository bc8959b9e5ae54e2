"""Panels fit 80 columns and say where, what, and what to type."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from m3tl_cli.cli import panels
from m3tl_cli.cli.status import Status
from m3tl_cli.config.problem import Problem
from m3tl_cli.core.errors import DataError
from m3tl_cli.core.results import Cost, Results, Score, TaskResult


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")


def results(**changes: object) -> Results:
    scores = {"miou": Score(0.75, 0.5, 1.0, "higher"), "accuracy": Score(0.9, 0.5, 1.0, "higher")}
    blocks = {
        "a": {
            "segmentation": TaskResult("segmentation", "miou", scores),
            "depth": TaskResult("depth", "rmse", {"rmse": Score(3.0, 2.0, 0.0, "lower", "m")}),
        }
    }
    return Results("mtl", 1, ("segmentation", "depth"), blocks, Cost(123456, 123456, 1, 1000, 16000, 1000, 1000, 200.0, 30.0, 3 * 2**29))


def test_a_problem_names_the_word_that_it_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    panels.problems([Problem("trainer.updtes", "5", "a key of trainer", "did you mean trainer.updates?")], ["seed=1", "trainer.updtes=5"])
    found = capsys.readouterr()
    assert found.out == ""
    for word in (
        "1 thing in the config",
        "trainer.updtes  (trainer.updtes=5)",
        "found    5",
        "a key of trainer",
        "did you mean trainer.updates?",
    ):
        assert word in found.err
    assert max(map(len, found.err.splitlines())) <= 80


def test_a_problem_names_the_file_and_line_that_it_comes_from(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "loop.yaml").write_text("# loop\nupdates: 5\n")
    (tmp_path / "wrong.yaml").write_text("# wrong\ntrainer: {clip: 1, updates: two}\n")
    files = [(name, tmp_path / name) for name in ("loop.yaml", "wrong.yaml")]
    panels.problems([Problem("trainer.updates", "'two'", "an integer"), Problem("trainer.nowhere", "1", "a key")], [], files)
    err = capsys.readouterr().err
    assert "trainer.updates  (wrong.yaml:2)" in err
    assert "trainer.nowhere \n" in err.replace("│", "").replace("  ", " ") or "trainer.nowhere  (" not in err


def test_an_error_raised_on_purpose_shows_its_hint_and_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    panels.error(DataError("`path` must be a file; found none", hint="data.path=FILE", place="data.path"))
    err = capsys.readouterr().err
    assert "data.path" in err
    assert "→ data.path=FILE" in err
    assert "Traceback" not in err


def test_brackets_in_a_message_are_not_taken_for_markup(capsys: pytest.CaptureFixture[str]) -> None:
    panels.problems([Problem("tasks[0]", "[red]", "one of [depth]")])
    err = capsys.readouterr().err
    assert "tasks[0]" in err
    assert "[red]" in err
    assert "[depth]" in err


def test_results_show_values_with_units_against_trivial(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("")
    panels.results(results(), tmp_path, {"tracking": {"uri": None}}, ["tasks=[a,b]", "seed=4", "paradigm=mtl"])
    out = capsys.readouterr().out
    rows = {line.split()[1]: line.split()[2:-1] for line in out.splitlines() if line.startswith("│ ") and len(line.split()) > 4}
    assert rows["segmentation"] == ["↑", "miou", "0.750", "0.500", "50.0%"]
    assert rows["depth"] == ["↓", "rmse", "3.000", "m", "2.000", "-50.0%"]
    assert "123,456 parameters in 1 network · 1000 updates in 3 min 20 s (+ 30 s for the" in out
    assert "1.5 GB" in out
    assert f"report  {tmp_path / 'report.html'}\n" in out  # in one line, to be copied
    assert "mlflow ui --backend-store-uri sqlite:///outputs/mlflow.db\n" in out
    assert "m3tl train 'tasks=[a,b]' seed=4 paradigm=stl\n" in out  # brackets are quoted: zsh would expand them
    assert "m3tl train -m 'tasks=[a,b]' paradigm=mtl,stl seed=1,2,3\n" in out


def test_a_sweep_shows_what_its_jobs_do_not_share(capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [Status.begin(["budget=smoke", f"seed={n}"]) for n in (1, 2, 3)]
    jobs = [
        jobs[0].end("FINISHED", value=0.5),
        jobs[1].end("FAILED", error="ValueError: no"),
        jobs[2].end("KILLED", error="stopped by SIGTERM"),
    ]
    panels.sweep("outputs/x", jobs)
    out = capsys.readouterr().out
    assert "budget=smoke" not in out
    assert [line.split()[:2] for line in out.splitlines()[2:]] == [["seed=1", "FINISHED"], ["seed=2", "FAILED"], ["seed=3", "KILLED"]]
    assert "50.0%" in out
    assert "ValueError: no" in out


def test_a_job_that_died_without_a_word_is_not_shown_as_running(capsys: pytest.CaptureFixture[str]) -> None:
    from dataclasses import replace

    panels.sweep("outputs/x", [replace(Status.begin(["seed=1"]), process_start=1.0)])
    assert "KILLED" in capsys.readouterr().out


def test_after_a_baseline_the_next_commands_are_of_paradigms() -> None:
    from m3tl_cli.cli.panels import next_lines
    from tests.report import _cube

    found = replace(_cube.results(), paradigm="ensemble")
    assert next_lines(found, ["baseline=ensemble", "budget=smoke"]) == [
        "m3tl train budget=smoke paradigm=stl",
        "m3tl train -m budget=smoke paradigm=mtl,stl seed=1,2,3",
    ]
