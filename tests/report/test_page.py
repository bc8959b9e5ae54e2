from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from m3tl_cli.core.errors import DataError
from m3tl_cli.core.results import Score, TaskResult
from m3tl_cli.report import page
from m3tl_cli.report.read import RunFolder
from tests.report import _cube, _folder

VOID = {"meta", "img", "br", "wbr", "link", "input", "hr"}


class Reader(HTMLParser):
    """Collects tags and words, and holds that tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("span", "code", "b"):
            self.words.append(" ")
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "title"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def read(folder: Path) -> Reader:
    return Reader(page.write(folder).read_text())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its report; tests only look at it."""
    folder = _folder.make(tmp_path_factory.mktemp("report") / "run")
    page.write(folder)
    return folder


@pytest.fixture
def reader(written: Path) -> Reader:
    return Reader((written / "report.html").read_text())


def test_the_page_opens_with_what_was_trained_and_how_it_went(reader: Reader) -> None:
    text = reader.text
    assert (
        "Trained 5 tasks on scenes under mtl: 4 of 5 beat the trivial predictor on held-out samples of the source domains; "
        "52 % of its error is removed on average (best time_of_day 93 %, worst camera_height \u22126 %)."
    ) in text
    assert "One run with one seed (1): a measurement, not yet evidence" in text
    assert text.index("Trained 5 tasks") < text.index("Results")


def test_the_page_has_tables_cost_curves_pictures_and_the_command(reader: Reader, written: Path) -> None:
    for words in (
        "rmse \u2193",
        "2.914 m",
        "7.402 m",
        "61 %",
        "1,284,391",
        "2 min 14 s",
        "m3tl train balancing=uw",
        "2a81c073ff10",
        "finished",
    ):
        assert words in reader.text
    assert "normals: 2 of 400 test samples have no label" in reader.text
    images = [a for t, a in reader.tags if t == "img"]
    assert len(images) == 4 * 8
    assert images[0]["alt"] == "rgb of test sample 3"
    assert len([t for t, _ in reader.tags if t == "svg"]) == 5 + 11 + 3
    names = {p.name for p in (written / "plots").iterdir()}
    assert {"depth-rmse.svg", "weights.svg", "learning-rate.svg", "predictions.png"} <= names
    assert {p.name for p in (written / "tables").iterdir()} == {"blocks.csv", "cost.csv", "history.csv"}


def test_the_page_asks_nothing_of_the_network_and_runs_nothing(reader: Reader, written: Path) -> None:
    text = (written / "report.html").read_text()
    for tag, attributes in reader.tags:
        assert tag not in ("script", "link", "iframe", "object")
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href"):
                assert str(value).startswith(("data:image/png;base64,", "#")), (tag, name, value)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert "default-src 'none'" in text


def test_the_page_can_be_read_without_seeing_it(reader: Reader) -> None:
    assert ("html", {"lang": "en"}) in reader.tags
    assert all(a.get("alt") for t, a in reader.tags if t == "img")
    assert sum(a.get("role") == "img" and bool(a.get("aria-label")) for _, a in reader.tags) == 19
    assert all("scope" in a for t, a in reader.tags if t == "th")
    tags = [t for t, _ in reader.tags]
    assert tags.count("table") == tags.count("caption") == 3
    levels = [int(t[1]) for t in tags if re.fullmatch(r"h[1-6]", t)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    ids = [a["id"] for _, a in reader.tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_the_same_folder_gives_the_same_bytes(written: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "run"
    shutil.copytree(written, other)
    for made in ("tables", "plots"):
        shutil.rmtree(other / made)
    page.write(other)
    files = [p.relative_to(written) for p in written.rglob("*") if p.is_file()]
    assert len(files) > 25
    assert [f for f in files if (written / f).read_bytes() != (other / f).read_bytes()] == []


def test_names_from_outside_stay_text(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>\"&"
    folder = _folder.make(tmp_path / "<b>run")
    task = TaskResult(evil, evil, {evil: Score(1.0, 2.0, 0.0, "lower", evil)}, role=evil)
    made = replace(_folder.results(), paradigm=evil, tasks=(evil,), blocks={evil: {evil: task}}, notes=(evil,))
    made.write(folder / "results.json")
    (folder / "overrides.yaml").write_text(json.dumps([evil]))
    (folder / "config.yaml").write_text(json.dumps({"data": {"_target_": f"a.{evil}.b"}}))
    (folder / "environment.json").write_text(json.dumps({"command": evil, evil: {evil: [evil]}}))
    (folder / "status.json").write_text(json.dumps({"state": "FAILED", "error": evil}))
    (folder / "metrics.jsonl").write_text(
        json.dumps({"step": 1, "time": 0, "values": {f"train/{evil}/loss": 1.0, f"val/{evil}/{evil}": 1.0}})
    )
    words = {
        "columns": [evil],
        "rows": [{"caption": evil, "cells": {evil: {"text": evil}}}, {"caption": evil, "cells": {evil: {"picture": "0.0"}}}],
    }
    (folder / "samples.json").write_text(json.dumps(words))
    reader = read(folder)
    assert not [t for t, _ in reader.tags if t == "script"]
    assert reader.text.count("alert('x')") > 12
    assert "<b>run" in reader.text


def test_a_killed_run_says_so_and_shows_what_is_there(run_folder: Path) -> None:
    for name in ("results.json", "samples.json", "samples.npz", "environment.json"):
        (run_folder / name).unlink()
    lines = (run_folder / "metrics.jsonl").read_text().splitlines()[:43]
    (run_folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 44')
    (run_folder / "status.json").write_text(json.dumps({"state": "KILLED", "error": "SIGTERM"}))
    reader = read(run_folder)
    assert "This run of 5 tasks on scenes was killed and has no test results. The last logged step is 430" in reader.text
    assert "Not in the run folder: environment.json, results.json, samples.json." in reader.text
    assert "SIGTERM" in reader.text
    assert "Last validation of each metric" in reader.text
    assert "depth/rmse" in reader.text
    assert [t for t, _ in reader.tags].count("svg") == 19
    assert not (run_folder / "tables" / "blocks.csv").exists()


def test_a_run_that_left_only_its_status_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text('{"state": "FAILED"}')
    text = read(tmp_path).text
    assert "This run failed and has no test results. It logged no numbers." in text
    assert not (tmp_path / "plots").exists()


def test_damaged_files_are_named_on_the_page(run_folder: Path) -> None:
    (run_folder / "results.json").write_text("{")
    (run_folder / "samples.npz").write_bytes(b"PK")
    (run_folder / "overrides.yaml").write_text("[")
    text = read(run_folder).text
    for name in ("results.json", "samples.json", "overrides.yaml"):
        assert f"`{name}` must be as the run wrote it" in text


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must be a run folder"):
        page.write(tmp_path)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            0.5,
            "Trained 1 task under stl: it beats the trivial predictor on held-out samples of the source domains; 75 % of its error is",
        ),
        (
            2.0,
            "Trained 1 task under stl: it does not beat the trivial predictor on held-out samples of the source domains; 0 % of its error",
        ),
        (float("nan"), "Trained 1 task under stl: it does not beat the trivial predictor on held-out samples of the source domains."),
    ],
)
def test_one_task_is_said_as_one(tmp_path: Path, value: float, words: str) -> None:
    task = TaskResult("regression", "mae", {"mae": Score(value, 2.0, 0.0, "lower")})
    made = replace(_folder.results(), paradigm="stl", tasks=("t",), blocks={"a": {"t": task}})
    made.write(tmp_path / "results.json")
    first, _ = page.verdict(RunFolder(tmp_path), made)
    assert first.replace("\u00a0", " ").startswith(words)


def test_auxiliary_tasks_are_not_counted(tmp_path: Path) -> None:
    tasks = {**_folder.TASKS, "depth": replace(_folder.TASKS["depth"], role="auxiliary")}
    made = replace(_folder.results(), blocks={"a": tasks})
    made.write(tmp_path / "results.json")
    first, _ = page.verdict(RunFolder(tmp_path), made)
    assert first.startswith("Trained 5 tasks under mtl: 3 of 4 main tasks beat the trivial predictor")


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """The page of a run through every stage."""
    return read(_cube.make(tmp_path_factory.mktemp("report") / "cube"))


def test_the_cube_opens_with_what_adaptation_reached(cube: Reader) -> None:
    assert "Trained 6 tasks and then 4 new ones on scenes under m3tl: 6 of 6 beat the trivial predictor" in cube.text
    assert "In target domains, with 20 shots: 33 % on seen tasks and 30 % on new tasks." in cube.text


def test_a_run_that_only_adapted_is_said_by_its_most_shots(tmp_path: Path) -> None:
    whole = _cube.results()
    made = replace(whole, tasks=tuple(_cube.SEEN), blocks={k: t for k, t in whole.blocks.items() if k[0] == "b"})
    made.write(tmp_path / "results.json")
    first = page.verdict(RunFolder(tmp_path), made)[0].replace("\u00a0", " ")
    assert first.startswith(
        "Trained 6 tasks under m3tl: 6 of 6 beat the trivial predictor on seen tasks in target domains, 20 shots; 33 % of"
    )
    assert "In target domains" not in first


def test_the_cube_has_a_section_per_block_and_links_to_each(cube: Reader) -> None:
    ids = [a["id"] for t, a in cube.tags if t == "h2"]
    assert ids == [
        "results", "seen-and-new", "seen-tasks-in-target-domains", "new-tasks-in-target-domains", "new-tasks-in-source-domains",
        "forgetting", "choices", "sources", "who-helps-whom", "cost", "predictions", "curves", "how-to-repeat-it",
    ]  # fmt: skip
    assert [a["href"] for t, a in cube.tags if t == "a"] == [f"#{i}" for i in ids]
    every = [a["id"] for _, a in cube.tags if "id" in a]
    assert len(every) == len(set(every))


def test_the_cube_can_be_read_without_seeing_it(cube: Reader) -> None:
    tags = [t for t, _ in cube.tags]
    assert tags.count("table") == tags.count("caption") == 18
    assert all("scope" in a for t, a in cube.tags if t == "th")
    assert sum(a.get("role") == "img" and bool(a.get("aria-label")) for _, a in cube.tags) == tags.count("svg") == 14 + 10 + 3


def test_results_from_before_the_cube_are_reported(run_folder: Path) -> None:
    raw = json.loads((run_folder / "results.json").read_text())
    old = {key: raw[key] for key in ("paradigm", "seed", "tasks", "blocks", "cost", "notes")}
    del old["cost"]["labels"]
    (run_folder / "results.json").write_text(json.dumps(old))
    reader = read(run_folder)
    assert "Trained 5 tasks on scenes under mtl: 4 of 5 beat" in reader.text
    assert "must be as the run wrote it" not in reader.text
    assert [a["id"] for t, a in reader.tags if t == "h2"] == ["results", "cost", "predictions", "curves", "how-to-repeat-it"]


def test_names_of_the_cube_from_outside_stay_text(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>\"&@3"
    folder = _cube.make(tmp_path / "run")
    whole = _cube.results()
    task = TaskResult(evil, evil, {evil: Score(1.0, 2.0, 0.0, "lower", evil)})
    curve = replace(whole.curves[0], block=evil, task=evil, metric=evil, optimizer=evil)
    blocks = {**whole.blocks, f"{evil}@1": {evil: task}, "b@1": {evil: task}, "old@1": {evil: task}}
    made = replace(
        whole,
        blocks=blocks,
        curves=(curve, replace(curve, block="b")),
        baselines={evil: {f"{evil}@1": {evil: task}, evil: {evil: task}}},
        choices=(replace(whole.choices[0], block=evil, optimizer=evil, trials=((evil, 0.1), ("x", 0.2))),),
        stages=(replace(whole.stages[0], stage=evil),),
        sources={evil: {evil: 0.1}},
        transference={evil: {evil: 0.1}},
    )
    made.write(folder / "results.json")
    reader = read(folder)
    assert not [t for t, _ in reader.tags if t == "script"]
    assert reader.text.count("alert('x')") > 20
