"""The tables at the end of a run fit 80 columns and about 60 lines."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
from rich.console import Console, Group

from m3tl_cli.cli.scores import cost, outcome
from m3tl_cli.core.results import Results
from tests.report import _cube, _folder


def shown(results: Results, width: int = 76) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(Group(*outcome(results)))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def row(lines: list[str], start: str, after: str = "") -> list[str]:
    """Words of the first line that begins with `start`, below the line that begins with `after`."""
    first = next(i for i, line in enumerate(lines) if line.startswith(after))
    return next(line for line in lines[first + 1 :] if line.startswith(start)).split()


def test_a_whole_run_is_short_and_narrow() -> None:
    lines = shown(_cube.results())
    assert len(lines) <= 54  # and six around it
    assert max(map(len, lines)) <= 76
    assert not [line for line in lines if "\u2026" in line]


def test_seen_tasks_show_what_was_reached_from_what() -> None:
    lines = shown(_cube.results())
    assert row(lines, "segmentation", "Seen tasks") == [
        "segmentation",
        "11\u219232",
        "16\u219249",
        "18\u219253",
        "18\u219255",
        "\u2191",
        "miou",
        "0.639",
        "0.193",
    ]
    assert row(lines, "height", "New tasks") == [
        "height",
        "1\u21922",
        "6\u219219",
        "8\u219223",
        "8\u219225",
        "\u2193",
        "mae",
        "1.128",
        "m",
        "1.510",
    ]


def test_source_domains_show_the_start_of_the_inner_loop() -> None:
    assert row(shown(_cube.results()), "depth", "Held-out") == ["depth", "\u2193", "abs_rel", "0.127", "0.254", "50.0%", "30.0%"]


def test_the_square_forgetting_and_baselines_are_means() -> None:
    lines = shown(_cube.results())
    assert row(lines, "seen tasks", "Mean") == ["seen", "tasks", "42.5%", "32.8%"]
    assert row(lines, "new tasks", "Mean") == ["new", "tasks", "37.8%", "29.8%"]
    assert "32.8% \u2192 27.8%" in lines
    assert row(lines, " ", "Beside") == ["seen", "1", "5", "10", "20", "new", "1", "5", "10", "20"]
    assert row(lines, "m3tl", "Beside") == ["m3tl", "10", "26", "30", "33", "6", "23", "27", "30"]
    assert row(lines, "scratch", "Beside")[-1] == "10"


def test_stages_and_cost_stand_at_the_end() -> None:
    lines = shown(_cube.results())
    assert row(lines, "pretrain") == ["pretrain", "(cached)", "500", "8,000", "500", "500", "31", "s"]
    counted = [replace(s, flops=3.52e10) for s in _cube.results().stages]
    assert row(shown(replace(_cube.results(), stages=tuple(counted))), "train")[:4] == ["train", "35", "G", "500"]
    assert "38,400 labelled samples" in " ".join(lines)
    assert "labelled" not in cost(_folder.COST)


def test_a_run_without_a_target_has_one_table() -> None:
    lines = shown(_folder.results())
    assert lines[0].split() == ["task", "metric", "value", "trivial", "error", "reduction"]
    assert len(lines) == 9


def test_more_shots_than_fit_are_left_to_the_report() -> None:
    whole = _cube.results()
    blocks = {f"b@{n}": whole.blocks["b@1"] for n in range(1, 9)}
    baselines = {"a baseline with a name that is longer than its column can be": blocks}
    lines = shown(replace(whole, blocks=blocks, baselines=baselines))
    assert row(lines, "task", "Seen")[:5] == ["task", "n=1", "n=3", "n=6", "n=8"]
    assert max(map(len, lines)) <= 76


def test_what_is_missing_is_empty_and_what_is_no_number_is_said() -> None:
    whole = _cube.results()
    blocks = dict(whole.blocks)
    for key in ("d@1", "d@5", "d@10", "d@20"):
        del blocks[key]
    depth = blocks["b@20"]["depth"]
    blocks["b@20"] = {"depth": replace(depth, scores={"abs_rel": replace(depth.scores["abs_rel"], value=math.nan)})}
    lines = shown(replace(whole, blocks=blocks, curves=()))
    assert row(lines, "new tasks", "Mean") == ["new", "tasks", "29.8%"]
    assert row(lines, "depth", "Seen")[1:5] == ["23", "40", "44", "n/a"]
    assert row(lines, "light", "Seen") == ["light", "-13", "4", "8"]


@pytest.mark.parametrize(("num", "last"), [(4, "note: n3"), (5, "and 1 more note in the report"), (7, "and 3 more notes in the report")])
def test_notes_beyond_a_few_are_counted(num: int, last: str) -> None:
    assert shown(replace(_folder.results(), notes=tuple(f"n{i}" for i in range(num))))[-1].strip() == last


def test_of_many_tasks_a_few_are_listed_and_the_mean_over_all_is_said() -> None:
    whole = _cube.results()
    like = whole.blocks["a"]["segmentation"]
    score = like.scores[like.primary]
    values = [score.trivial + (score.perfect - score.trivial) * (0.01 + k / 20) for k in range(20)]
    many = {f"t{k}": replace(like, scores={like.primary: replace(score, value=v)}) for k, v in enumerate(values)}
    lines = shown(replace(whole, blocks={"a": many}, tasks=tuple(many)))
    assert [line.split()[0] for line in lines if line.startswith("t") and line.split()[0] in many] == ["t0", "t1", "t10", "t18", "t19"]
    [told] = [line for line in lines if "of 20 tasks" in line]
    assert told.endswith("of 20 tasks, all in tables/; mean 48 %")
