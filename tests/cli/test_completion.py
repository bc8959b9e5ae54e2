"""TAB: groups, options, keys, in a real bash and in the protocol of the others."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from m3tl_cli.cli import completion

pytestmark = pytest.mark.usefixtures("tree")


@pytest.fixture
def in_bash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_M3TL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "")


def test_groups_options_and_keys_are_offered() -> None:
    assert completion.suggestions([], "bal") == ["balancing.", "balancing="]
    assert completion.suggestions([], "balancing=") == ["balancing=pcgrad", "balancing=sum"]
    assert completion.suggestions([], "balancing=p") == ["balancing=pcgrad"]
    assert "trainer.updates=" in completion.suggestions([], "trainer.")
    assert completion.suggestions([], "encoder/image=") == ["encoder/image=conv", "encoder/image=wide"]


def test_keys_follow_the_options_that_were_chosen_before() -> None:
    assert completion.suggestions(["balancing=pcgrad"], "balancing.") == ["balancing._target_=", "balancing.shuffle="]


def test_a_users_own_options_are_offered(tmp_path: Path) -> None:
    (tmp_path / "balancing").mkdir()
    (tmp_path / "balancing" / "mine.yaml").write_text("")
    assert "balancing=mine" in completion.suggestions([], "balancing=", str(tmp_path))


@pytest.mark.usefixtures("in_bash")
def test_bash_breaks_words_at_the_equals_sign() -> None:
    assert completion.suggestions(["balancing", "="], "p") == ["pcgrad"]
    assert completion.suggestions(["balancing", "=", "pcgrad"], "trainer.up") == ["trainer.updates="]


@pytest.mark.usefixtures("in_bash")
def test_bash_drops_a_lone_equals_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_WORDS", "m3tl\ntrain\nbalancing\n=")
    assert completion.suggestions(["balancing"], "") == ["pcgrad", "sum"]


def test_an_error_never_reaches_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> list[str]:
        raise RuntimeError("no")

    monkeypatch.setattr(completion, "suggestions", broken)

    class Context:
        params: dict[str, object] = {}  # noqa: RUF012

    assert completion.complete_override(Context(), [], "x") == []  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_a_real_bash_completes_verbs_groups_and_options(environment: dict[str, str], tmp_path: Path) -> None:
    pexpect = pytest.importorskip("pexpect")
    program = tmp_path / "bin" / "m3tl"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nfrom m3tl_cli.cli.main import run\nrun()\n")
    program.chmod(0o755)
    child_environment = {**environment, "PATH": f"{program.parent}:{os.environ['PATH']}", "PS1": "$ ", "TERM": "dumb"}
    bash = pexpect.spawn("bash", ["--norc", "--noprofile"], env=child_environment, encoding="utf-8", timeout=60, dimensions=(40, 200))
    bash.sendline("bind 'set enable-bracketed-paste off'; eval \"$(_M3TL_COMPLETE=source_bash m3tl)\"; echo rea''dy")
    bash.expect("ready")
    bash.send("m3tl tra\t")
    bash.expect("m3tl train ")
    bash.send("balancing=p\t")
    bash.expect("balancing=pcgrad")
    bash.send("budget=\t\t\t")  # completes the common letter, then lists
    bash.expect("smoke +standard")
    bash.sendcontrol("c")
    bash.close(force=True)
