from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from m3tl_cli.comparison.tables import Comparison
from m3tl_cli.report.traces import Traces
from tests.report import _ablation


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("traces") / "a folder"


@pytest.fixture(scope="module")
def found(folder: Path) -> Comparison:
    return _ablation.make(folder, ("stl", "m3tl"), (1, 2), pictures=False)


def test_a_run_is_found_by_budget_arm_and_seed(found: Comparison, folder: Path) -> None:
    traces = Traces(found, folder)
    run = traces.run("equal_updates", "m3tl", 2)
    assert run is not None
    assert (traces.ref(run).arm, traces.ref(run).seed) == ("m3tl", 2)
    assert traces.run("equal_updates", "m3tl", 3) is None
    assert traces.run("equal_flops", "m3tl", 2) is None


def test_links_are_relative_and_quoted(found: Comparison, folder: Path) -> None:
    run = Traces(found, folder).run("equal_updates", "m3tl", 2)
    assert run is not None
    assert Traces(found, folder).links[run] == "m3tl-s2-700/report.html"
    assert Traces(found, folder.parent).links[run] == "a%20folder/m3tl-s2-700/report.html"


def test_a_run_without_a_page_leads_to_its_results_and_one_that_is_gone_nowhere(tmp_path: Path) -> None:
    made = _ablation.make(tmp_path, ("stl", "m3tl"), (1,), pictures=False)
    (tmp_path / "stl-s1-700" / "report.html").unlink()
    for name in ("report.html", "results.json"):
        (tmp_path / "m3tl-s1-700" / name).unlink()
    traces = Traces(made, tmp_path)
    assert traces.links == ("stl-s1-700/results.json", "")
    assert math.isnan(traces.gain("equal_updates", 1, "c@5"))
    assert traces.score(1, "c@5", "edges") is None


def test_numbers_of_a_run_are_its_own(found: Comparison, folder: Path) -> None:
    traces = Traces(found, folder)
    run = traces.run("equal_updates", "m3tl", 2)
    assert run is not None
    score = traces.score(run, "c@5", "edges")
    assert score is not None
    assert (score.value - 0.2) / 0.8 == pytest.approx(_ablation.gain("m3tl", 2, "c@5", "edges"))
    gains = [_ablation.gain("m3tl", 2, "c@5", t) for t in ("edges", "height", "drivable", "count")]
    assert traces.gain("equal_updates", run, "c@5") == pytest.approx(sum(gains) / 4)


def test_a_row_that_the_page_lacks_is_not_linked(found: Comparison, folder: Path) -> None:
    traces = Traces(found, folder)
    assert traces.to("c@5", "m3tl") == "#" + traces.row("equal_updates", "c@5", "m3tl")
    assert traces.to("c@5", "m3tl", "segmentation") == "", "a seen task is not in that block"
    assert traces.to("c@5", "nobody") == traces.to("c@99", "m3tl") == traces.to_runs("nobody") == ""
    rows = {traces.row(r.budget, r.block, r.arm, r.task) for r in found.rows} | {
        traces.row(r.budget, r.block, r.arm) for r in found.summary
    }
    assert len(rows) == len({(r.block, r.arm, r.task) for r in found.rows}) + len(found.summary)


def test_a_run_with_a_score_that_is_no_number_has_no_mean(tmp_path: Path) -> None:
    made = _ablation.make(tmp_path, ("stl", "m3tl"), (1,), pictures=False)
    path = tmp_path / "m3tl-s1-700" / "results.json"
    raw = json.loads(path.read_text())
    raw["blocks"]["c@5"]["edges"]["scores"]["accuracy"]["value"] = math.nan
    path.write_text(json.dumps(raw))
    traces = Traces(made, tmp_path)
    assert math.isnan(traces.gain("equal_updates", 1, "c@5"))
    assert math.isfinite(traces.gain("equal_updates", 1, "c@20"))
