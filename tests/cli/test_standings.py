from __future__ import annotations

import csv
import io
import math
from dataclasses import replace

import pytest
from rich.console import Console
from rich.table import Table

from m3tl_cli.cli import standings
from m3tl_cli.comparison.cells import SETTINGS
from m3tl_cli.comparison.compare import compare
from m3tl_cli.comparison.plan import plan_for
from m3tl_cli.comparison.statistics import Estimate
from m3tl_cli.comparison.tables import Comparison
from tests.comparison._cells import ablation, cell, noise

SEEDS = tuple(range(1, 9))


def additive(setting: str, seed: int, key: str, task: str) -> float:
    """Joint training adds .2; seeds differ."""
    return 0.3 + 0.2 * SETTINGS[setting][1] + noise("", seed, key, scale=0.05) + noise(setting, seed, key, task, scale=0.005)


@pytest.fixture(scope="module")
def found() -> Comparison:
    plan = plan_for(list(SETTINGS), axes={}, seeds=SEEDS, block="c", num_shots=5, margin=0.05)
    longer = ablation(additive, SEEDS, [s for s in SETTINGS if s != "stl"], updates=900)
    return compare([*ablation(additive, SEEDS, validation={"mtl_meta": 0.5}), *longer], plan)


def printed(found: Comparison, width: int = 80, *, tables: bool = False) -> list[str]:
    screen = io.StringIO()
    console = Console(file=screen, width=width)
    for part in standings.terminal(found):
        if isinstance(part, Table) or not tables:
            console.print(part)
    return [line.rstrip() for line in screen.getvalue().splitlines()]


def test_the_verdict_stands_first_and_everything_fits_80_columns(found: Comparison) -> None:
    lines = printed(found)
    assert lines[0].startswith("On new tasks in target domains, 5 shots, ")
    assert len(lines) < 150
    tables = printed(found, width=200, tables=True)
    assert len(tables) > 60
    assert max(map(len, tables)) <= 80, "no table is wider than it was made for"


def test_settings_are_rows_in_their_order_and_the_outcome_stands_first(found: Comparison) -> None:
    lines = printed(found)
    start = next(i for i, line in enumerate(lines) if line.startswith("New tasks in target domains, 5 shots under equal_flops"))
    header = next(i for i in range(start, start + 4) if lines[i].startswith("setting"))
    assert [line.split()[0] for line in lines[header + 1 : header + 11]] == list(SETTINGS)
    blocks = standings.shown_blocks(found)
    assert blocks == ["c@5", "a", "b@5"]


def test_a_row_holds_the_numbers_of_the_comparison(found: Comparison) -> None:
    grid = next(g for g in standings.grids(found) if g.title == "New tasks in target domains, 5 shots under equal_flops")
    row = next(r for r in found.summary if r.budget == "equal_flops" and r.block == "c@5" and r.arm == "m3tl")
    words = dict(zip(grid.columns, next(r for r in grid.rows if r[0] == "m3tl"), strict=True))
    half = (row.difference.high - row.difference.low) / 2
    assert words["minus stl"] == f"{row.difference.mean:+.3f} ± {half:.3f}"
    assert words["w/t/l"] == f"{row.wins}/{row.ties}/{row.losses}"
    assert math.isclose(row.difference.mean, 0.2, abs_tol=0.02)
    single = next(r for r in grid.rows if r[0] == "stl")
    assert single[2:4] == ("", ""), "nothing is compared with itself"


def test_a_contrast_shows_its_answer_and_an_exploratory_one_no_p() -> None:
    few = compare(ablation(additive, (1, 2, 3), ("stl", "mtl")))
    grid = standings.grids(few)[0]
    assert grid.title == "Contrasts"
    assert grid.rows[0][2:] == ("", "exploratory")
    assert "No plan from before the runs" in " ".join(printed(few))


def test_long_labels_go_on_below_and_numbers_stay_whole() -> None:
    axes = {"optimizer.weight_decay": "0.0001", "fusion": "gated"}
    found = compare([cell(s, seed, additive, axes=axes) for s in ("stl", "mtl_transfer") for seed in (1, 2)])
    lines = printed(found, width=200, tables=True)
    assert any(line.startswith("mtl_transfer,") for line in lines)
    rows = [line for line in lines if "±" in line]
    assert len(rows) == 7, "a contrast, and two arms in each of three blocks"
    assert all("…" not in line.rpartition("±")[0] for line in rows)
    assert max(map(len, lines)) <= 80


def test_what_a_reader_must_know_stands_below(found: Comparison) -> None:
    doubtful = replace(found, flags=tuple(f"doubt {i}" for i in range(standings.FLAGS + 3)))
    lines = printed(doubtful)
    assert "! doubt 0" in lines
    assert lines[-1] == "and 3 more of these in comparison.json"


def test_csv_has_every_digit_and_the_folders_behind_a_row(found: Comparison) -> None:
    files = standings.csv_files(found)
    rows = list(csv.DictReader(io.StringIO(files["summary.csv"])))
    assert len(rows) == len(found.summary)
    first = found.summary[0]
    assert float(rows[0]["gain"]) == first.gain.mean
    assert float(rows[0]["gain_low"]) == first.gain.low
    assert rows[0]["runs"].split(";") == list(found.folders(first.runs))
    assert {"contrasts.csv", "tasks.csv", "costs.csv", "runs.csv", "savings.csv"} <= set(files)
    assert "nan" not in files["tasks.csv"]
    savings = list(csv.DictReader(io.StringIO(files["savings.csv"])))
    assert [float(row["exponent"]) for row in savings] == [row.exponent.mean for row in found.savings]


def test_markdown_has_a_table_each_with_as_many_cells_in_every_line(found: Comparison) -> None:
    text = standings.markdown(found)
    assert found.verdict in text
    for block in text.split("\n\n"):
        table = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in table}) <= 1
    assert all(f"`{run.folder}`" in text for run in found.runs)


def test_latex_escapes_what_tex_would_read(found: Comparison) -> None:
    text = standings.latex(found)
    assert "mtl\\_transfer & " in text
    assert text.count("\\begin{tabular}") == text.count("\\end{tabular}") == len(standings.grids(found))
    body = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert not any("_" in line.replace("\\_", "") for line in body)
    assert not any("%" in line.replace("\\%", "") for line in body)


def test_numbers_that_do_not_exist_are_left_out() -> None:
    assert standings._signed(Estimate(math.nan, math.nan, math.nan, 0)) == ""
    assert standings._estimate(Estimate(0.5, math.nan, math.nan, 1)) == "0.500"
    assert [standings._large(v) for v in (9999, 98_000, 1_234_567, 2.5e9)] == ["9999", "98.0k", "1.2M", "2.5G"]


def many(setting: str, seed: int, key: str, task: str) -> float:
    """Task 7 loses by joint training, the others win, the more the higher their number."""
    number = int(task.rpartition("_")[2])
    helped = -0.3 if number == 7 else 0.01 * number
    return 0.3 + helped * SETTINGS[setting][1] + noise(setting, seed, key, task, scale=0.001)


@pytest.fixture(scope="module")
def of_many() -> Comparison:
    names = [f"school_{i:03d}" for i in range(1, 14)]
    plan = plan_for(["stl", "mtl"], axes={}, seeds=SEEDS, block="a", num_shots=None, margin=0.05)
    return compare(ablation(many, SEEDS, ["stl", "mtl"], tasks={"a": names, "b": names, "c": names}), plan)


def test_of_many_tasks_the_terminal_has_the_three_that_lose_and_the_three_that_gain_most(of_many: Comparison) -> None:
    lines = printed(of_many)
    head = next(line for line in lines if line.startswith("setting") and "schoo…" in line)
    assert head.split() == ["setting", *(f"schoo…{n:03d}" for n in (7, 1, 2, 11, 12, 13))]
    assert all(len(line) <= 80 for line in lines)
    assert any("of 13" in line for line in lines)
    assert any("tables/tasks.csv" in line for line in lines)


def test_a_document_has_all_of_many_tasks_as_rows_the_largest_loss_first(of_many: Comparison) -> None:
    text = standings.markdown(of_many)
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| school_")]
    assert rows == [f"school_{n:03d}" for n in (7, *range(1, 7), *range(8, 14))]
    assert text.count("## Task by task") == 1


@pytest.mark.parametrize(
    ("text", "length", "short"),
    [("school_001", 9, "schoo…001"), ("segmentation", 9, "segmenta…"), ("task_12", 9, "task_12"), ("a" * 9 + "1234567890", 8, "aaa…7890")],
)
def test_a_name_that_is_cut_keeps_the_number_at_its_end(text: str, length: int, short: str) -> None:
    assert standings._cut(text, length) == short


def test_arms_that_differ_at_the_end_of_a_long_label_are_told_apart() -> None:
    axis = "transfer/handover"
    cells = [
        c for value in ("extract", "fine_tune", "a_very_long_value_indeed") for c in ablation(additive, SEEDS, ["mtl"], axes={axis: value})
    ]
    lines = printed(compare(cells), tables=True)
    assert max(map(len, lines)) <= 80
    words = {line.split()[0] for line in lines if line.split()}
    assert {"transfer/handover=", "extract", "fine_tune", "a_very_long_value_in", "deed"} <= words
