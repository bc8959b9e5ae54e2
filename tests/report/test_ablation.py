from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pytest

from m3tl_cli.comparison.cells import SETTINGS
from m3tl_cli.comparison.tables import Comparison
from m3tl_cli.report import ablation
from m3tl_cli.report.estimates import MINUS, fixed, signed
from m3tl_cli.report.formats import number
from tests.comparison import _cells
from tests.report import _ablation
from tests.report.test_page import Reader

SECTIONS = [
    "how-surely", "the-cube", "adaptation", "cost", "negative-transfer", "who-helps-whom", "block-by-block", "baselines",
    "table-1-of-the-survey", "predictions", "runs", "how-to-repeat-it",
]  # fmt: skip


class Rows(Reader):
    """Also keeps the cells of every table row, as text and as links, by the row's id."""

    def __init__(self, text: str) -> None:
        self.rows: dict[str, list[tuple[str, str]]] = {}
        self.row: str | None = None
        super().__init__(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        super().handle_starttag(tag, attrs)
        found = dict(attrs)
        if tag == "tr":
            self.row = found.get("id")
            if self.row:
                self.rows[self.row] = []
        elif tag in ("td", "th") and self.row:
            self.rows[self.row].append(("", ""))
        elif tag == "a" and self.row:
            self.rows[self.row][-1] = (self.rows[self.row][-1][0], found.get("href") or "")

    def handle_data(self, data: str) -> None:
        super().handle_data(data)
        if self.row and {"td", "th"} & set(self.open):
            text, link = self.rows[self.row][-1]
            self.rows[self.row][-1] = (text + data.replace("\u00a0", " "), link)


def read(found: Comparison, folder: Path) -> Rows:
    return Rows(ablation.write(found, folder).read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report") / "an ablation"


@pytest.fixture(scope="module")
def found(folder: Path) -> Comparison:
    """Ten settings and eight seeds, one run of which failed."""
    return _ablation.make(folder, failed=[("meta", 3)])


@pytest.fixture(scope="module")
def reader(found: Comparison, folder: Path) -> Rows:
    return read(found, folder)


def links(reader: Reader) -> list[str]:
    return [str(a["href"]) for t, a in reader.tags if t == "a"]


def test_the_page_opens_with_the_verdict_and_its_uncertainty(reader: Rows, found: Comparison) -> None:
    text = reader.text
    first, second = found.verdict.split(". ", 1)
    assert first in text
    assert second in text
    assert text.index(first) < text.index(second) < text.index("Before you believe a number") < text.index("How surely")
    assert "planned before the first run 79 runs of 10 settings, 8 seeds, decided under equal_updates" in text
    assert "meta-s3-700 is in no number: a run that is FAILED: loss of height is not finite at step 412." in text
    assert "equal_updates: no run of `meta` with seed 3" in text


def test_every_section_is_there_and_linked(reader: Rows) -> None:
    assert [a["id"] for t, a in reader.tags if t == "h2"] == SECTIONS
    assert links(reader)[: len(SECTIONS)] == [f"#{s}" for s in SECTIONS]


def test_the_page_asks_nothing_of_the_network_and_runs_nothing(reader: Rows, folder: Path) -> None:
    text = (folder / "report.html").read_text()
    assert text.isascii()
    assert len(text) < 5e6
    assert not re.search(r"https?://", text)
    assert "@import" not in text
    assert "url(" not in text
    assert "default-src 'none'" in text
    for tag, attributes in reader.tags:
        assert tag not in ("script", "link", "iframe", "object")
        assert str(attributes.get("src", "data:")).startswith("data:")


def test_every_link_leads_to_a_row_of_the_page_or_a_file_of_a_run(reader: Rows, folder: Path) -> None:
    ids = [str(a["id"]) for _, a in reader.tags if "id" in a]
    assert len(ids) == len(set(ids))
    inside = {link[1:] for link in links(reader) if link.startswith("#")}
    assert inside <= set(ids)
    outside = {link for link in links(reader) if not link.startswith("#")}
    assert all((folder / unquote(link)).is_file() for link in outside)
    assert len(outside) == 80  # 79 finished runs, and the failed one's page


def test_links_are_relative_to_where_the_page_lies(found: Comparison, folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "sent" / "page.html"
    assert ablation.write(found, folder, elsewhere) == elsewhere
    outside = {link for link in links(Reader(elsewhere.read_text())) if not link.startswith("#")}
    assert outside
    assert all((elsewhere.parent / unquote(link)).is_file() for link in outside)


def test_the_numbers_of_a_block_are_those_of_the_comparison_and_end_in_their_runs(reader: Rows, found: Comparison) -> None:
    for row in found.summary:
        cells = reader.rows[f"r.0.{found.blocks.index(row.block)}.{found.arms.index(row.arm)}"]
        assert cells[0][0] == row.arm
        assert cells[1][0].split(" ")[0] == fixed(row.gain.mean)
        if row.arm != "stl":
            assert [cells[i][0].split(" ")[0] for i in (2, 3, 4)] == [
                signed(e.mean) for e in (row.difference, row.delta_m_metrics, row.delta_m_tasks)
            ]
            assert cells[6][0] == f"{row.wins}/{row.ties}/{row.losses}"
        own = [float(text.replace(MINUS, "-")) for text, _ in cells[-8:] if text != "\u2013"]
        assert len(own) == row.gain.seeds
        assert math.fsum(own) / len(own) == pytest.approx(row.gain.mean, abs=5e-4)
        for seed, (text, link) in zip(found.seeds, cells[-8:], strict=True):
            assert link == ("" if (row.arm, seed) == ("meta", 3) else f"{row.arm}-s{seed}-700/report.html"), text


def test_the_numbers_of_a_task_are_those_of_the_comparison_and_of_its_runs(reader: Rows, found: Comparison) -> None:
    checked = 0
    for row in found.rows:
        if not row.primary:
            continue
        place = (found.blocks.index(row.block), found.arms.index(row.arm), found.tasks.index(row.task))
        cells = reader.rows["r.0.{}.{}.{}".format(*place)]
        assert cells[1][0].split(" ")[0] == number(row.value.mean)
        assert cells[2][0].split(" ")[0] == fixed(row.gain.mean)
        if row.arm != "stl":
            assert cells[3][0].split(" ")[0] == signed(row.gain_difference.mean)
        own = [float(text) for text, _ in cells[-8:] if text != "\u2013"]
        assert math.fsum(own) / len(own) == pytest.approx(row.value.mean, abs=5e-4)
        checked += 1
    assert checked == 10 * (2 + 3 * 2 + 3 * 4)


def test_a_baseline_as_the_one_of_the_gain_is_taken_from_the_run_of_the_reference(tmp_path: Path) -> None:
    _ablation.make(tmp_path / "a", ("stl", "mtl", "m3tl"), (1, 2, 3), pictures=False)
    from m3tl_cli.comparison.cells import read_cells
    from m3tl_cli.comparison.compare import compare
    from m3tl_cli.comparison.plan import plan_for

    plan = plan_for(("stl", "mtl", "m3tl"), axes={}, seeds=(1, 2, 3), block="c", num_shots=5, margin=0.02, gain_reference="stl ensemble")
    found = compare(read_cells(sorted((tmp_path / "a").glob("*-s*")))[0], plan)
    reader = read(found, tmp_path / "a")
    for row in found.summary:
        if row.block.startswith("c"):
            cells = reader.rows[f"r.0.{found.blocks.index(row.block)}.{found.arms.index(row.arm)}"]
            own = [float(text) for text, _ in cells[-3:]]
            assert math.fsum(own) / 3 == pytest.approx(row.gain.mean, abs=5e-4)
    assert "1 is the baseline stl ensemble" in reader.text


def test_contrasts_show_estimate_interval_p_and_each_seed(reader: Rows, found: Comparison) -> None:
    assert "Confirmatory: planned before the first run" in reader.text
    for i, verdict in enumerate(found.contrasts):
        texts = [text for text, _ in reader.rows[f"contrast.{i}"]]
        e = verdict.difference
        assert texts[:4] == [verdict.name, signed(e.mean), signed(e.low), signed(e.high)]
        assert texts[6] == f"{verdict.p_adjusted:.3g}"
        assert texts[8] == verdict.answer
        assert texts[9:-1] == [signed(v) for v in verdict.values]
        assert all(arm in texts[-1] for arm in verdict.weights)
        assert f"adjusted p {verdict.p_adjusted:.3g}, 7 seeds" in reader.text
    marked = [a for t, a in reader.tags if t == "li" and a.get("class") == "confirmatory"]
    assert len(marked) == len(found.contrasts) == 6


def test_the_failed_run_is_named_with_its_reason_and_leads_to_its_page(reader: Rows, found: Comparison) -> None:
    cells = reader.rows[f"runs.{found.arms.index('meta')}"]
    assert [text for text, _ in cells][3] == "failed"
    assert "meta-s3-700 a run that is FAILED: loss of height is not finite at step 412" in reader.text
    assert "meta-s3-700/report.html" in links(reader)
    assert "meta, seed 3 no run under" not in reader.text, "told once"


def test_the_cube_cost_baselines_and_savings_say_what_the_comparison_says(reader: Rows, found: Comparison) -> None:
    text = reader.text
    for term in ("pretrain \u00d7 joint", "pretrain \u00d7 joint \u00d7 bilevel"):
        assert term in text
    for row in found.effects:
        if row.block == found.plan.key:
            assert f"{signed(row.effect.mean)} {signed(row.effect.low)} to {signed(row.effect.high)}" in text
    for saved in found.savings:
        if not saved.task and math.isfinite(saved.saved):
            assert f"{saved.saved:.2f}\u00d7 {fixed(saved.exponent.mean)}" in text
    for base in found.baselines:
        assert f"{fixed(base.gain.mean)} \u00b1 {fixed((base.gain.high - base.gain.low) / 2)}" in text
    front = next(p.front for p in found.pareto if (p.column, p.stage) == ("seconds", "all"))
    alts = [a["aria-label"] for t, a in reader.tags if t == "svg" and a.get("class") == "chart"]
    assert f"Training time, evaluation included against the score; on the Pareto front: {', '.join(front)}" in alts


def test_table_one_has_every_statement_with_its_answer(reader: Rows, found: Comparison) -> None:
    answers = [a["class"] for t, a in reader.tags if t == "span" and str(a.get("class")).startswith("answer")][len(found.contrasts) :]
    assert answers == [f"answer {s.answer}" for s in found.table_one]
    assert len(answers) == 36
    assert all(s.hypothesis in reader.text and s.measured in reader.text for s in found.table_one)


def test_negative_transfer_is_a_matrix_of_tasks_and_settings(reader: Rows, found: Comparison) -> None:
    row = next(r for r in found.rows if (r.block, r.arm, r.task, r.primary) == ("c@5", "m3tl", "count", True))
    assert row.relative.high < 0, "planted"
    hurt = len({(r.arm, r.task) for r in found.rows if r.block == "c@5" and r.primary and r.relative.high < 0})
    assert f"New tasks in target domains, 5 shots: {hurt} of 36 surely worse" in reader.text
    assert fixed(100 * row.relative.mean, 1) in reader.text
    assert any(a.get("class") == "down sure" for t, a in reader.tags if t == "td")


def test_the_same_samples_stand_side_by_side_under_several_settings(reader: Rows) -> None:
    alts = [str(a["alt"]) for t, a in reader.tags if t == "img"]
    assert "segmentation: label of test sample 3" in alts
    assert [a for a in alts if a.startswith("segmentation: ") and a.endswith("test sample 3")] == [
        f"segmentation: {who} of test sample 3" for who in ("label", "stl", "mtl", "mtl_transfer", "mtl_meta", "m3tl")
    ]
    assert "time_of_day dusk dusk" in reader.text


def test_the_command_the_plan_and_the_environment_are_there(reader: Rows, found: Comparison) -> None:
    assert "The exact command: m3tl ablate seeds=8 'name=a b'" in reader.text
    assert found.plan.digest in reader.text
    assert "versions.torch 2.15.0" in reader.text
    assert "host node1 in 39 runs; node0 in 40 runs" in reader.text
    assert "# m3tl, seed 8 m3tl train paradigm=m3tl seed=8" in reader.text


def test_the_page_can_be_read_without_seeing_it(reader: Rows) -> None:
    tags = [t for t, _ in reader.tags]
    assert ("html", {"lang": "en"}) in reader.tags
    assert tags.count("table") == tags.count("caption")
    assert all("scope" in a for t, a in reader.tags if t == "th")
    assert all(a.get("alt") for t, a in reader.tags if t == "img")
    assert all(a.get("aria-label") or a.get("aria-hidden") for t, a in reader.tags if t == "svg")
    levels = [int(t[1]) for t in tags if re.fullmatch(r"h[1-6]", t)]
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))


def test_the_same_comparison_gives_the_same_bytes(found: Comparison, folder: Path) -> None:
    first = ablation.write(found, folder).read_bytes()
    assert ablation.write(Comparison.from_json(json.loads(json.dumps(found.to_json()))), folder).read_bytes() == first


def test_below_six_seeds_nothing_is_marked_as_confirmed(tmp_path: Path) -> None:
    found = _ablation.make(tmp_path / "few", seeds=(1, 2, 3), pictures=False)
    reader = read(found, tmp_path / "few")
    assert "exploratory 30 runs" in reader.text
    assert "too few seeds for a verdict" in reader.text
    assert not [a for _, a in reader.tags if "confirmatory" in str(a.get("class", ""))]
    assert not re.search(r"adjusted p \d", reader.text)
    assert [text for text, _ in reader.rows["contrast.0"]][5:8] == ["", "", ""], "no p values"
    assert "predictions" not in [a.get("id") for _, a in reader.tags]


def test_runs_that_were_picked_by_hand_have_a_page_and_a_command(tmp_path: Path) -> None:
    found = _ablation.make(tmp_path / "picked", ("stl", "mtl"), (1, 2), planned=False)
    reader = read(found, tmp_path / "picked")
    assert "Comparison picked" in reader.text
    assert "without a plan from before the runs" in reader.text
    assert f"m3tl compare {tmp_path}/picked/stl-s1-700" in reader.text
    assert "factorial" not in reader.text


@pytest.mark.parametrize("settings", [("stl",), ("stl", "m3tl")])
def test_one_block_without_a_target_makes_a_page(tmp_path: Path, settings: tuple[str, ...]) -> None:
    cells = [
        replace(c, results=replace(c.results, blocks={"a": c.results.blocks["a"]}, curves=(), choices=(), baselines={}, stages=()))
        for c in _cells.ablation(_ablation.gain, (1,), settings, root=tmp_path)
    ]
    from m3tl_cli.comparison.compare import compare

    reader = read(compare(cells), tmp_path)
    ids = [a["id"] for t, a in reader.tags if t == "h2"]
    assert {"the-cube", "cost", "block-by-block", "runs", "how-to-repeat-it"} <= set(ids)
    assert not {"adaptation", "baselines", "predictions"} & set(ids)
    assert {link[1:] for link in links(reader) if link.startswith("#")} <= {a["id"] for _, a in reader.tags if "id" in a}


def test_a_comparison_whose_runs_are_gone_still_has_its_numbers(tmp_path: Path) -> None:
    from m3tl_cli.comparison.compare import compare

    found = compare(_ablation.cells(("stl", "m3tl"), (1, 2), tmp_path / "gone"))
    reader = read(found, tmp_path)
    row = next(r for r in found.summary if (r.block, r.arm) == ("c@5", "m3tl"))
    assert reader.rows[f"r.0.{found.blocks.index('c@5')}.1"][1][0].startswith(fixed(row.gain.mean))
    assert all(link.startswith("#") for link in links(reader))


def test_two_budgets_have_rows_of_their_own(tmp_path: Path) -> None:
    from m3tl_cli.comparison.compare import compare

    cells = _ablation.cells(("stl", "m3tl"), (1, 2), tmp_path) + _ablation.cells(("m3tl",), (1, 2), tmp_path, updates=140)
    found = compare(cells)
    assert set(found.budgets) == {"equal_updates", "equal_flops"}
    reader = read(found, tmp_path)
    for i, budget in enumerate(found.budgets):
        assert f"Under {budget}" in reader.text
        assert f"r.{i}.0.1" in reader.rows
    ids = [a["id"] for _, a in reader.tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_arms_along_an_axis_have_colours_of_their_own(tmp_path: Path) -> None:
    from m3tl_cli.comparison.compare import compare

    cells = [c for level in ("concat", "gated") for c in _ablation.cells(("stl", "m3tl"), (1, 2, 3), tmp_path, axes={"fusion": level})]
    reader = read(compare(cells), tmp_path)
    assert "m3tl, fusion=gated" in reader.text
    assert "main effect" not in reader.text.split("The cube")[0]


def test_names_from_outside_stay_text(tmp_path: Path) -> None:
    from m3tl_cli.comparison.compare import compare

    evil = "<script>alert('x')</script>\"&"
    cells = []
    for c in _ablation.cells(("stl", "m3tl"), (1, 2), tmp_path / "<b>"):
        blocks = {k: {evil: replace(next(iter(t.values())), kind=evil)} for k, t in c.results.blocks.items()}
        curves = tuple(replace(x, task=evil, optimizer=evil) for x in c.results.curves[:1])
        baselines = {evil: blocks}
        cells.append(replace(c, results=replace(c.results, blocks=blocks, curves=curves, baselines=baselines, tasks=(evil,))))
    made = compare(cells)
    reader = read(replace(made, flags=(evil,), verdict=evil), tmp_path)
    assert not [t for t, _ in reader.tags if t == "script"]
    assert reader.text.count("alert('x')") > 12


def test_what_stands_beside_the_settings_is_shown_apart_and_is_never_the_best(tmp_path: Path) -> None:
    kinds = {"ensemble": "baseline", "joint_retraining": "upper_bound"}
    found = _ablation.make(tmp_path / "a", seeds=range(1, 7), pictures=False, beside=kinds)
    assert found.beside == kinds
    text = ablation.write(found, tmp_path / "a").read_text().replace("<wbr>", "")
    assert "72 runs of 10 settings, beside them ensemble, as upper bound, with all target labels, joint_retraining; 6 seeds" in text
    assert "Beside the settings: baselines and upper bounds" in text
    assert "no upper bound here" not in text, "nothing is above it"
    higher = tuple(replace(r, gain=replace(r.gain, mean=2.0)) if r.arm in ("stl", "meta", "ensemble") else r for r in found.summary)
    surpassed = ablation.write(replace(found, summary=higher), tmp_path / "a").read_text()
    assert "Trained no longer than the settings, joint_retraining is below stl, meta: no upper bound here." in surpassed
    rows = [row for row in re.findall(r"<tr.*?</tr>", text, re.DOTALL) if re.search(r">(ensemble|joint_retraining)<", row)]
    assert len(rows) > 6
    assert not any("<b>" in row for row in rows), "they equal m3tl, the best in places"
    assert any("<b>" in row for row in re.findall(r"<tr.*?</tr>", text, re.DOTALL) if ">m3tl<" in row)


def test_who_helps_whom_is_the_mean_over_seeds_of_what_the_runs_measured(reader: Reader, found: Comparison) -> None:
    rows = {(r.arm, r.source, r.target): r for r in found.transference}
    assert {arm for arm, _, _ in rows} == {arm for arm in found.arms if SETTINGS[arm][1] or SETTINGS[arm][2]}, "where tasks share"
    first, second = _cells.SEEN[:2]
    above, below = rows["mtl", first, second].value, rows["mtl", second, first].value
    assert above.mean == pytest.approx(0.02 + 1e-5 * 4.5, abs=1e-12)
    assert (above.seeds, rows["meta", first, second].value.seeds) == (8, 7), "one run of meta failed"
    assert below.high < 0 < above.low
    assert (
        f"mtl: {len(_cells.SEEN) * (len(_cells.SEEN) - 1) // 2} of {len(_cells.SEEN) * (len(_cells.SEEN) - 1)} ordered pairs" in reader.text
    )
    cells = [
        a
        for t, a in reader.tags
        if t == "td" and str(a.get("title", "")) == f"{signed(100 * below.low, 2)} to {signed(100 * below.high, 2)}, 8 seeds"
    ]
    assert cells
    assert all("down sure" in str(a["class"]) for a in cells)


def test_of_many_tasks_the_strongest_pairs_are_shown(tmp_path: Path) -> None:
    made = _ablation.make(tmp_path, ("stl", "mtl"), (1, 2), pictures=False)
    names = [f"t{i}" for i in range(14)]
    like = next(r for r in made.transference if r.arm == "mtl")
    rows = tuple(
        replace(like, source=i, target=j, value=replace(like.value, mean=(a - b) / 100))
        for a, i in enumerate(names)
        for b, j in enumerate(names)
    )
    text = " ".join(read(replace(made, transference=rows), tmp_path).text.split())
    assert "The 10 pairs that help most and the 10 that hurt most of 182" in text
    assert "t13 t0 +13.00" in text
    assert "t0 t13 \u221213.00" in text
