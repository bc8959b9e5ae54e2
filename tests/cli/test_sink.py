"""What the terminal is told while a run goes on."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from m3tl_cli.cli import sink as sink_module
from m3tl_cli.cli.sink import Pace, Sink, duration, numbers, staged
from m3tl_cli.core.events import Advanced, Measured, Said, StageStarted, Wrote


def test_durations_are_words() -> None:
    assert [duration(s) for s in (0.4, 59.4, 60, 200, 3600, 7500)] == [
        "0 s",
        "59 s",
        "1 min 00 s",
        "3 min 20 s",
        "1 h 00 min",
        "2 h 05 min",
    ]


def test_pace_is_of_this_process_and_not_of_what_was_resumed() -> None:
    pace = Pace("train", start=500, began=10.0)
    assert pace.words(Advanced("train", 600, 1000), now=20.0) == "10 steps/s · 40 s left"
    assert pace.words(Advanced("train", 501, 503), now=14.0) == "4 s/step · 8 s left"
    assert pace.words(Advanced("train", 500, 1000), now=20.0) == ""


def test_only_a_few_numbers_are_shown() -> None:
    assert numbers({"a": 1.23456, "b": 2.0, "c": 3.0, "d": 4.0}) == "a 1.23 b 2 c 3"


def test_a_skipped_stage_says_why() -> None:
    assert staged(StageStarted("pretrain", 0, (), "the switch is off")) == "stage pretrain: skipped, the switch is off"
    assert staged(StageStarted("train", 10, ("a", "b"))) == "stage train: a, b, 10 updates"


def test_without_a_terminal_lines_come_no_more_often_than_asked(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "m3tl")
    with Sink(live=False, every=3600) as sink:
        for done in range(101):
            sink(Advanced("train", done, 100))
    assert caplog.messages == []
    with Sink(live=False, every=0) as sink:
        for done in range(1, 4):
            sink(Advanced("train", done, 10, info={"loss": 0.5}))
    assert len(caplog.messages) == 3
    assert caplog.messages[-1].startswith("train 3/10 · ")
    assert caplog.messages[-1].endswith("left · loss 0.5")


def test_work_that_is_interrupted_by_other_work_keeps_its_pace(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(sink_module, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    caplog.set_level(logging.INFO, "m3tl")
    sink = Sink(live=False, every=3600)
    for what, done in (("train", 0), ("train", 5), ("validate", 0), ("validate", 10), ("train", 10)):
        sink(Advanced(what, done, 10, "update"))
    assert caplog.messages == ["validate: 10 updates in 10 s", "train: 10 updates in 40 s"]


def test_words_are_logged_and_numbers_for_the_record_are_not(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "m3tl")
    sink = Sink(live=False)
    for event in (Said("a"), Said("b", "warning"), Measured(1, {"x": 1.0}), Wrote(Path("x")), StageStarted("train", 1, ("t",))):
        sink(event)
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("INFO", "a"),
        ("WARNING", "b"),
        ("INFO", "stage train: t, 1 updates"),
    ]


def test_the_live_display_is_closed_even_when_the_run_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    sink = Sink(live=True)

    def breaks() -> None:
        with sink:
            sink(Advanced("train", 1, 10))
            assert sink._bar is not None
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        breaks()
    assert sink._bar is None
    assert sys.stderr is screen
