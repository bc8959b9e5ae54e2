from __future__ import annotations

import re
from dataclasses import replace
from html import unescape

from m3tl_cli.report.target import sections, stage_table
from tests.report import _cube, _folder


def words(html: str) -> str:
    """What a reader sees, a bar between cells."""
    text = re.sub(r"<wbr>|</?b>", "", html)
    return " ".join(unescape(re.sub(r"(?:<[^>]*>)+", " | ", text)).replace("\u00a0", " ").split())


def test_a_run_without_a_target_has_no_sections() -> None:
    assert sections(_folder.results(), {}) == {}
    assert stage_table(()) == ""


def test_gains_stand_before_and_after_adaptation_with_their_mean() -> None:
    text = words(sections(_cube.results(), {})["New tasks in target domains"])
    assert "| task | 1 shot | 5 shots | 10 shots | 20 shots | edges | 7 % \u2192 | 20 % |" in text
    assert "| mean | 6 % | 23 % | 27 % | 30 % |" in text
    assert "| average_precision | 0.2968 | trivial 0.121 |" in text
    assert "| mae | 1.48 m | trivial 1.51 |" in text


def test_forgetting_compares_with_the_seen_tasks_before_growth() -> None:
    text = words(sections(_cube.results(), {})["Forgetting"])
    assert "| segmentation | 32 % \u2192 | 27 % | 49 % \u2192 | 44 % |" in text


def test_what_was_not_measured_is_empty() -> None:
    whole = _cube.results()
    blocks = dict(whole.blocks)
    blocks["c@5"] = {task: result for task, result in blocks["c@5"].items() if task != "edges"}
    del blocks["b@5"], blocks["d@20"]
    shown = sections(replace(whole, blocks=blocks), {})
    edges = re.search(r"<tr><th scope='row'>edges</th>(.*?)</tr>", shown["New tasks in target domains"])
    assert edges is not None
    assert edges[1].count("<td></td>") == 1
    assert "n/a" in words(shown["Seen and new"])
    assert "| segmentation | 32 % \u2192 | 27 % | 44 % |" in words(shown["Forgetting"])


def test_the_square_and_the_baselines_are_means() -> None:
    text = words(sections(_cube.results(), {})["Seen and new"])
    assert "| 20 shots | seen tasks | 43 % | 33 % | new tasks | 38 % | 30 % |" in text
    assert "| m3tl | 10 % | 26 % | 30 % | 33 % | 6 % | 23 % | 27 % | 30 % |" in text
    assert "| ridge head | \u22122 % | 14 % |" in text


def test_choices_say_what_won_and_what_else_was_tried() -> None:
    text = words(sections(_cube.results(), {})["Choices"])
    assert "| Seen tasks in target domains | 1 shot | adamw 0.003, 50 steps: 31 % | adamw 0.001 27 %, inner SGD 23 % |" in text


def test_the_best_source_is_bold() -> None:
    html = sections(_cube.results(), {})["Sources"]
    assert re.search(r"edges</th><td><b>0\.3</b></td><td>0\.25</td>", html)
    assert html.count("<b>") == len(_cube.NEW)
    lacking = replace(_cube.results(), sources={"edges": {"depth": 0.1}, "height": {"depth": 0.2, "light": 0.3}})
    assert "<td><b>0.1</b></td><td></td><td>0.1</td>" in sections(lacking, {})["Sources"]


def test_stages_have_their_share_of_the_time() -> None:
    text = words(stage_table(_cube.results().stages))
    assert "| pretrain (cached) | 500 | 8,000 | 500 | 500 | 31 s | 12 % |" in text
    assert "| train | 500 | 48,000 | 2,500 | 2,500 | 2 min 18 s | 53 % |" in text
    assert "the numbers are what it cost then" in text
    assert "Cached" not in words(stage_table(_cube.results().stages[1:]))


def test_stages_say_their_operations_where_they_were_counted() -> None:
    pretrain, *others = _cube.results().stages
    text = words(stage_table([pretrain, replace(others[0], flops=3.52e10)]))
    assert "| warm_up | 35 G | 500 |" in text
    assert "35 G" not in words(stage_table([pretrain, *others]))


def test_an_unknown_block_has_a_section_of_its_own() -> None:
    whole = _cube.results()
    assert "Block mine" in sections(replace(whole, blocks={"mine@3": whole.blocks["b@1"]}), {})
