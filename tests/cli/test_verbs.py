"""The other verbs: list, show, doctor, selftest, data show, version."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from m3tl_cli.cli import doctor
from m3tl_cli.cli.main import app
from tests.cli.conftest import Run

runner = CliRunner()


def call(*words: str) -> Any:
    return runner.invoke(app, list(words), env={"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"})


@pytest.mark.usefixtures("tree")
class TestList:
    def test_every_group_is_listed_with_its_options(self) -> None:
        out = call("list").stdout
        assert re.search(r"balancing=\s+pcgrad \| sum", out)
        assert re.search(r"encoder/image=\s+conv \| wide", out)

    def test_one_group_says_what_each_option_is_nested_groups_included(self) -> None:
        out = call("list", "encoder").stdout
        assert re.search(r"wide\s+convolutions, twice as wide", out)
        assert re.search(r"small\s+small networks", out)

    def test_a_misspelt_group_is_guessed(self) -> None:
        done = call("list", "balancng")
        assert done.exit_code == 2
        assert "did you mean balancing?" in done.stderr

    def test_an_unknown_folder_is_refused(self) -> None:
        assert call("list", "--config-dir", "no").exit_code == 2
        assert call("train", "--config-dir", "no", "--help").exit_code in (0, 2)


def test_help_lists_verbs_and_groups() -> None:
    assert all(verb in call("--help").stdout for verb in ("train", "list", "show", "doctor", "selftest", "data"))
    assert "balancing=" in call("train", "--help").stdout


def test_the_version_is_printed() -> None:
    assert re.fullmatch(r"m3tl \d+\.\d+\.\d+.*\n", call("--version").stdout)


def test_show_marks_what_differs_and_says_what_is_shared(m3tl: Run, tmp_path: Path) -> None:
    done = m3tl("show", "trainer.updates=7", "balancing=pcgrad")
    assert done.returncode == 0, done.stderr
    assert "● updates: 7  (default 20)" in done.stdout
    assert "● balancing  PCGrad" in done.stdout
    assert "● shuffle: true" in done.stdout
    assert "● device" not in done.stdout
    assert re.search(r"backbone\s+900\s+shared: all 2 tasks", done.stdout)
    assert re.search(r"heads.depth\s+100\s+depth", done.stdout)
    assert list(tmp_path.iterdir()) == []
    assert "modules" not in m3tl("show", "--config").stdout
    assert m3tl("show", "seed=two").returncode == 2


class TestDoctor:
    def test_every_line_has_a_state_and_json_is_for_machines(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("M3TL_CACHE", str(tmp_path / "cache"))
        done = call("doctor", "--json")
        found = json.loads(done.stdout)
        assert [f["name"] for f in found][:3] == ["python", "libraries", "torch"]
        assert all(f["state"] in ("ok", "warn", "bad") for f in found)
        assert all(f["todo"] for f in found if f["state"] != "ok")
        assert done.exit_code == (1 if any(f["state"] == "bad" for f in found) else 0)
        assert not (tmp_path / "outputs").exists()

    def test_something_bad_makes_the_exit_code_1(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "findings", lambda: iter([doctor.Finding("disk", "bad", "full", "free some")]))
        done = call("doctor")
        assert done.exit_code == 1
        assert "→ free some" in done.stdout

    def test_a_check_that_breaks_is_a_finding_and_the_others_go_on(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def broken() -> doctor.Finding:
            raise OSError("no such thing")

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(doctor, "memory", broken)
        found = {f.name: f for f in doctor.findings()}
        assert found["broken"].state == "bad"
        assert "disk" in found

    def test_collapsing_threads_are_noticed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        torch.set_num_threads(2)
        times = iter([1.0, 0.01])
        monkeypatch.setattr(doctor, "_fastest", lambda work: next(times))
        finding = doctor.contention()
        assert finding.state == "warn"
        assert "OMP_NUM_THREADS=1" in finding.todo
        assert torch.get_num_threads() == 2

    def test_a_dead_tracking_server_is_noticed_within_seconds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "_tracking_uri", lambda: "http://127.0.0.1:9")
        assert doctor.tracking().state == "warn"

    def test_a_folder_that_cannot_be_written_is_bad(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor.os, "access", lambda *_: False)
        finding = doctor._writable("outputs", tmp_path / "a" / "b", "elsewhere")
        assert (finding.state, finding.todo) == ("bad", "elsewhere")


class TestSelftest:
    def checks(self, *passed: bool) -> tuple[Any, ...]:
        def make(index: int, right: bool) -> Any:
            outcome = SimpleNamespace(expected="1", found="1" if right else "2", passed=right)
            return SimpleNamespace(name=f"check {index}", about="about", source="source", run=lambda: outcome)

        return tuple(make(i, p) for i, p in enumerate(passed))

    def test_all_right_is_0_and_one_wrong_is_1(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import m3tl_cli.selftest as known

        monkeypatch.setattr(known, "CHECKS", self.checks(True, True))
        done = call("selftest")
        assert done.exit_code == 0
        assert "all 2 known answers found" in done.stdout
        monkeypatch.setattr(known, "CHECKS", self.checks(True, False))
        done = call("selftest")
        assert done.exit_code == 1
        assert "1 of 2 known answers missed" in done.stdout

    def test_a_check_that_breaks_is_a_miss(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import m3tl_cli.selftest as known

        def broken() -> None:
            raise ValueError("no")

        monkeypatch.setattr(known, "CHECKS", (SimpleNamespace(name="a", about="b", source="c", run=broken), *self.checks(True)))
        done = call("selftest", "--json")
        assert done.exit_code == 1
        assert [row["passed"] for row in json.loads(done.stdout)] == [False, True]

    def test_no_checks_at_all_is_not_a_success(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import m3tl_cli.selftest as known

        monkeypatch.setattr(known, "CHECKS", ())
        assert call("selftest").exit_code == 1
