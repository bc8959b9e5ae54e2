"""Of many tasks a few are drawn, all are told, and nothing goes missing without a word."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from m3tl_cli.comparison.tables import Comparison
from m3tl_cli.core.results import Results
from m3tl_cli.report import ablation, page
from m3tl_cli.report.many import MANY, is_many, left_out, picked, rising
from m3tl_cli.report.traces import Traces
from tests.report import _many

NUM = 23


def test_up_to_twelve_tasks_are_all_drawn_in_their_order() -> None:
    values = {f"t{i}": -float(i) for i in range(MANY)}
    assert picked(values) == tuple(values)
    assert not is_many(values)


def test_of_more_the_two_worst_the_median_and_the_two_best_are_drawn() -> None:
    values = {f"t{i}": float((7 * i) % 13) for i in range(13)}  # every number from 0 to 12 once
    assert [values[t] for t in picked(values)] == [0.0, 1.0, 6.0, 11.0, 12.0]


def test_a_task_without_a_number_is_not_drawn_but_stands_last() -> None:
    values = {**{f"t{i}": float(i) for i in range(13)}, "lost": math.nan}
    assert "lost" not in picked(values)
    assert rising(values)[-1] == "lost"
    assert rising(values)[:2] == ["t0", "t1"]


def test_without_any_number_some_are_still_drawn() -> None:
    assert picked({f"t{i}": math.nan for i in range(20)}) == ("t0", "t1", "t10", "t18", "t19")


def test_what_is_left_out_is_said_with_its_place() -> None:
    said = left_out(139, "gain", "<code>tables/tasks.csv</code>")
    assert "139" in said
    assert "tables/tasks.csv" in said
    assert "worst" in said
    assert "worst" not in left_out(139, "", "x")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, str, Path]:
    folder = tmp_path_factory.mktemp("many")
    found = _many.ablation(folder, NUM, ("stl", "mtl"), (1, 2, 3, 4, 5, 6))
    return found, ablation.write(found, folder).read_text(), folder


def test_the_page_of_an_ablation_draws_the_mean_and_five_tasks_a_block(made: tuple[Comparison, str, Path]) -> None:
    found, html, _ = made
    blocks = {r.block for r in found.steps}
    assert html.count("; at the last step:") == 6 * len(blocks)
    assert html.count("; at the most shots:") == 6


def test_every_task_stands_in_the_page_of_an_ablation_the_worst_first(made: tuple[Comparison, str, Path]) -> None:
    found, html, folder = made
    table = html.split(f"All {NUM} tasks, the worst first")[1].split("</table>")[0]
    rows = re.findall(r"<tr><th scope='row'>(.*?)</th>", table)
    ranks = Traces(found, folder).ranks[found.plan.key]
    assert [row.replace("<wbr>", "") for row in rows] == rising(ranks)
    assert {row.replace("<wbr>", "") for row in rows[:2]} == {"school_010", "school_020"}  # lose by construction
    assert rows[-1].replace("<wbr>", "") == "school_001"


def test_the_ends_and_the_counts_are_said(made: tuple[Comparison, str, Path]) -> None:
    found, html, _ = made
    differences = {r.task: r.gain_difference.mean for r in found.rows if (r.arm, r.block) == ("mtl", found.plan.key) and r.primary}
    above = sum(v > 0 for v in differences.values())
    dots = html.split("<div class='spread'")[1].split("<div class='scale'")[0]
    assert dots.count("<circle") == NUM
    assert f"{above} above 0" in dots
    assert f"{NUM - above} below" in dots


def test_every_link_inside_the_page_has_its_goal(made: tuple[Comparison, str, Path]) -> None:
    html = made[1]
    ids = re.findall(r" id='([^']+)'", html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"href='#([^']+)'", html)) <= set(ids)


def test_every_task_of_the_outcome_has_a_row_with_each_seeds_own_number(made: tuple[Comparison, str, Path]) -> None:
    found, html, folder = made
    traces = Traces(found, folder)
    for task in found.tasks:
        mark = traces.row(found.budget, found.plan.key, "mtl", task)
        row = html.split(f"<tr id='{mark}'>")[1].split("</tr>")[0]
        assert row.count("report.html") == len(found.seeds)


def test_a_task_without_a_row_of_its_own_leads_to_the_runs(made: tuple[Comparison, str, Path]) -> None:
    found, _, folder = made
    traces = Traces(found, folder)
    hidden = next(t for t in found.tasks if t not in traces.few("a"))
    assert traces.to("a", "mtl", hidden) == traces.to_runs("mtl")
    assert traces.to("a", "mtl", traces.few("a")[0]) == f"#{traces.row(found.budget, 'a', 'mtl', traces.few('a')[0])}"
    assert traces.to("a", "mtl", "no such task") == ""


def test_the_page_says_where_the_tasks_are_that_it_leaves_out(made: tuple[Comparison, str, Path]) -> None:
    html = made[1]
    for name in ("tasks.csv", "steps.csv", "savings.csv"):
        assert f"<code>tables/{name}</code>" in html


def test_few_tasks_are_shown_as_ever(tmp_path: Path) -> None:
    found = _many.ablation(tmp_path, MANY, ("stl", "mtl"), (1, 2))
    html = ablation.write(found, tmp_path).read_text()
    assert "class='spread'" not in html
    assert "class='soft few'" not in html
    assert html.count("; at the last step:") == (1 + MANY) * len({r.block for r in found.steps})


def test_the_page_of_a_run_draws_five_tasks_and_has_all_in_its_tables(tmp_path: Path) -> None:
    folder = _many.run(tmp_path / "run", NUM)
    html = page.write(folder).read_text()
    drawn = {path.name for path in (folder / "plots").glob("*-loss.svg")}
    shares = {task: result.scores["mse"].error_reduction for task, result in Results.read(folder / "results.json").blocks["a"].items()}
    assert drawn == {f"{task}-loss.svg" for task in picked(shares)}
    assert len(drawn) == 5
    assert html.count("training loss over steps") == 5
    assert html.count("over adaptation steps") == 5
    results = html.split("id='results'")[1].split("</section>")[0]
    every = results.split(f"All {NUM} tasks, the worst first")[1]
    assert every.count("<tr class='task'>") == NUM
    for name in ("blocks.csv", "history.csv"):
        assert f"<code>tables/{name}</code>" in html
        assert (folder / "tables" / name).read_text().count("school_002") > 1


def test_the_mean_below_a_few_tasks_is_that_of_all(tmp_path: Path) -> None:
    html = page.write(_many.run(tmp_path / "run", NUM)).read_text()
    below = re.findall(rf"mean of all {NUM}</th>(.*?)</tr>", html)
    whole = re.findall(r"<th scope='row'>mean</th>(.*?)</tr>", html)
    assert below
    assert below == whole


def test_a_run_that_did_not_finish_draws_a_few_and_says_so(tmp_path: Path) -> None:
    folder = _many.run(tmp_path / "run", NUM)
    (folder / "results.json").unlink()
    html = page.write(folder).read_text()
    assert "a few are shown" in html
    assert html.count("training loss over steps") == 5
    assert f"Last validation of {2 * NUM} metrics" in html
