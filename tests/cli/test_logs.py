"""The terminal's log follows sys.stderr and leaves tracebacks to the file."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from m3tl_cli.cli.logs import LiveHandler, OneLine


def test_records_go_to_whatever_standard_error_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = LiveHandler()
    handler.setFormatter(OneLine())
    screens = [io.StringIO(), io.StringIO()]
    for number, screen in enumerate(screens):
        monkeypatch.setattr(sys, "stderr", screen)
        handler.handle(logging.LogRecord("x", logging.INFO, "", 0, f"line {number}", (), None))
    assert [s.getvalue().split(" ", 1)[1] for s in screens] == ["line 0\n", "line 1\n"]


def test_a_traceback_is_shown_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        raise ValueError("inside")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "failed", (), sys.exc_info())
    assert logging.Formatter().format(record).count("\n") > 1  # the file's, which also caches it in the record
    assert OneLine().format(record).split(" ", 1)[1] == "error: failed"
    monkeypatch.setenv("M3TL_DEBUG", "1")
    assert "ValueError: inside" in OneLine().format(record)
