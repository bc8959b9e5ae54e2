"""Tables that the test writes, and real ones where they are at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from scipy.io import savemat

from m3tl_cli import experiment
from m3tl_cli.core.errors import ConfigError, DataError
from m3tl_cli.data.table import Table
from tests.data.test_columns import cells
from tests.test_house import ROOT

SPLITS = ("train", "val", "test")
PLAIN: dict[str, Any] = {
    "key": None, "modalities": {"table": ["*"]}, "kinds": {}, "task_index": None, "domain": None, "source_domains": None,
    "validation_domains": [], "target_domains": [], "groups": None, "stratify": None,
    "fractions": {"train": 0.5, "val": 0.25, "test": 0.25}, "train_rows": None, "num_folds": None, "fold": 0, "seed": 0,
}  # fmt: skip
ROWS = 48


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M3TL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """48 rows: a number with holes, a constant, a word, labels of each kind, a town and a family of three."""
    lines = ["height,one,colour,sick,grade,income,town,family"]
    for i in range(ROWS):
        height = "" if i % 8 == 0 else f"{10 * i}"
        town, family = ("Ulm", "Bari", "Graz")[i % 3], f"f{i // 3}"
        lines.append(f"{height},1,{('red', 'blue', '')[i % 3]},{i % 2},{'' if i == 5 else i % 4},{i / 8},{town},{family}")
    path = tmp_path / "people.csv"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def fields(tmp_path: Path) -> Path:
    """Three like tasks of 30, 20 and 20 rows; the first column of X numbers all rows."""
    sizes = (30, 20, 20)
    starts = np.cumsum((0, *sizes))
    x = [np.stack([np.arange(s, s + n), np.full(n, float(k))], 1) for k, (s, n) in enumerate(zip(starts, sizes, strict=False))]
    savemat(tmp_path / "fields.mat", {"X": cells(*x), "Y": cells(*((v[:, :1] % 5 == 0).astype(np.uint8) for v in x))})
    return tmp_path / "fields.mat"


def of_people(path: Path, **changed: Any) -> Table:
    data = Table(**{**PLAIN, "files": [str(path)], "tasks": {"grade": "grade", "income": "income"}, **changed})
    data.prepare()
    return data


def of_fields(path: Path, **changed: Any) -> Table:
    asked = {
        "files": [str(path)],
        "modalities": {"radar": ["X.*"]},
        "tasks": {"mine": "Y"},
        "kinds": {"mine": "binary"},
        "task_index": "cell",
    }
    data = Table(**{**PLAIN, **asked, **changed})
    data.prepare()
    return data


def rows(data: Table, split: Any, **at: Any) -> list[int]:
    return data.pool(split, **at).rows.tolist()


def test_columns_are_modalities_and_what_labels_say_is_the_kind(people: Path) -> None:
    data = of_people(people, modalities={"body": ["height", "o*"], "look": ["colour"]})
    assert [(m.name, m.kind, m.channels) for m in data.modalities.values()] == [("body", "table", 2), ("look", "table", 2)]
    grade, income = data.tasks["grade"], data.tasks["income"]
    assert (grade.kind, grade.num_outputs, grade.classes) == ("multiclass", 4, ("0", "1", "2", "3"))
    assert (income.kind, income.num_outputs, income.classes) == ("regression", 1, ())
    assert grade.at == income.at == ("source",)
    assert data.domains == ("all",)
    asked = of_people(people, kinds={"grade": "regression", "sick": "binary"}, tasks={"grade": "grade", "sick": "sick"})
    assert asked.tasks["grade"].kind == "regression"
    assert (asked.tasks["sick"].num_outputs, asked.tasks["sick"].classes) == (1, ("0", "1"))


def test_a_star_leaves_out_what_has_another_use(people: Path) -> None:
    data = of_people(people, domain="town", groups="family", tasks={"sick": "sick"})
    batch = data.pool("train").read(torch.tensor([0]))
    assert batch.inputs["table"].shape == (1, 2 + 2 + 2)  # height, one, two colours, grade and income


def test_columns_are_standard_over_the_training_rows_and_holes_stay(people: Path) -> None:
    data = of_people(people, modalities={"body": ["height", "one"]})
    train = data.pool("train")
    x = train.read(torch.arange(len(train))).inputs["body"]
    assert x.dtype == torch.float32
    known = x[:, 0][~x[:, 0].isnan()]
    assert known.mean().item() == pytest.approx(0, abs=1e-6)
    assert known.std(correction=0).item() == pytest.approx(1, abs=1e-6)
    assert x[:, 0].isnan().tolist() == [row % 8 == 0 for row in train.rows.tolist()]
    assert (x[:, 1] == 0).all(), "a constant is only centred"
    # Test rows by the statistics of training rows, computed by hand.
    heights = np.array([10.0 * row for row in train.rows.tolist() if row % 8])
    test = data.pool("test")
    expected = [np.nan if row % 8 == 0 else (10.0 * row - heights.mean()) / heights.std() for row in test.rows.tolist()]
    np.testing.assert_allclose(test.read(torch.arange(len(test))).inputs["body"][:, 0], expected, rtol=1e-5)


def test_words_become_an_indicator_each_and_a_row_without_any_lacks_the_modality(people: Path) -> None:
    data = of_people(people, modalities={"look": ["colour"], "body": ["one"]})
    train = data.pool("train")
    batch = train.read(torch.arange(len(train)))
    colours = [row % 3 for row in train.rows.tolist()]
    assert batch.present["look"].tolist() == [c < 2 for c in colours]
    assert batch.present["body"].all()
    assert [(x > 0).tolist() for x, c in zip(batch.inputs["look"], colours, strict=True) if c == 1] == [[True, False]] * colours.count(1)


def test_labels_and_statistics_are_those_of_the_rows(people: Path) -> None:
    data = of_people(people)
    seen = set()
    for split in SPLITS:
        pool = data.pool(split)
        batch = pool.read(torch.arange(len(pool)))
        for i, row in enumerate(batch.index.tolist()):
            seen.add(row)
            assert batch.labelled["grade"][i] == (row != 5)
            assert batch.targets["grade"][i] == (-1 if row == 5 else row % 4)
            assert batch.targets["income"][i].item() == row / 8
    assert seen == set(range(ROWS))
    incomes = np.array(rows(data, "train")) / 8
    assert data.tasks["income"].mean == pytest.approx((incomes.mean(),))
    assert data.tasks["income"].std == pytest.approx((incomes.std(),))


def test_like_tasks_label_their_own_rows_and_share_what_they_mean(fields: Path) -> None:
    data = of_fields(fields)
    assert list(data.tasks) == ["mine_1", "mine_2", "mine_3"]
    assert {(t.kind, t.num_outputs, t.classes) for t in data.tasks.values()} == {("binary", 1, ("0", "1"))}
    for split in SPLITS:
        pool = data.pool(split)
        own = torch.stack([pool.labelled[t] for t in data.tasks])
        assert (own.sum(0) == 1).all()
        assert own.int().argmax(0).tolist() == [(row >= 30) + (row >= 50) for row in pool.rows.tolist()]
        assert [int(k.sum()) for k in own] == {"train": [15, 10, 10], "val": [8, 5, 5], "test": [7, 5, 5]}[split]
    whole = of_fields(fields, kinds={"mine": "regression"}, tasks={"mine": "X.0"}, modalities={"radar": ["X.1"]})
    numbers = np.array(rows(whole, "train"), float)
    assert len({(t.mean, t.std) for t in whole.tasks.values()}) == 1
    assert whole.tasks["mine_1"].mean == pytest.approx((numbers.mean(),))


def test_fewer_training_rows_are_the_first_of_more_and_leave_validation_alone(fields: Path) -> None:
    few, more = of_fields(fields, train_rows=3), of_fields(fields, train_rows=8)
    assert set(rows(few, "train")) < set(rows(more, "train"))
    assert rows(few, "val") == rows(more, "val")
    assert [int(k.sum()) for k in few.pool("train").labelled.values()] == [3, 3, 3]
    assert sorted(r for s in SPLITS for r in rows(few, s)) == list(range(70))
    assert set(rows(of_fields(fields, train_rows=3, seed=1), "train")) != set(rows(few, "train"))
    with pytest.raises(DataError, match=r"found 15 for the 20 rows of 2"):
        of_fields(fields, train_rows=15)


@pytest.mark.parametrize("number", [5, 10])
def test_few_training_rows_may_be_stratified(number: int, fields: Path) -> None:
    pool = of_fields(fields, train_rows=number, stratify="Y").pool("train")
    targets = pool.read(torch.arange(len(pool))).targets["mine_1"]
    assert [int(targets[known].sum()) for known in pool.labelled.values()] == [number // 5] * 3


def test_folds_take_turns_and_are_even(people: Path) -> None:
    folds = [of_people(people, num_folds=5, fold=f, stratify="sick") for f in range(5)]
    tests = [rows(d, "test") for d in folds]
    assert sorted(r for t in tests for r in t) == list(range(ROWS))
    assert {len(t) for t in tests} == {9, 10}
    assert all(abs(sum(r % 2 for r in t) - 4.8) < 1 for t in tests)
    for data in folds:
        assert sorted(r for s in SPLITS for r in rows(data, s)) == list(range(ROWS))
        assert len(rows(data, "train")) == pytest.approx(2 * len(rows(data, "val")), abs=2)


@pytest.mark.parametrize("folds", [{}, {"num_folds": 4, "fold": 1}])
def test_no_group_is_in_two_splits(folds: dict[str, int], people: Path) -> None:
    data = of_people(people, groups="family", **folds)
    families = [{row // 3 for row in rows(data, split)} for split in SPLITS]
    assert sum(map(len, families)) == len(set().union(*families)) == ROWS // 3
    assert all(families)


def test_domains_are_split_each_by_itself_and_blocks_keep_them_apart(people: Path) -> None:
    data = of_people(people, domain="town", target_domains=["Ulm"], validation_domains=["Graz"])
    assert data.domains == ("Bari", "Graz", "Ulm")
    assert data.blocks == {"pretrain": (), "source": ("Bari",), "validation": ("Graz",), "target": ("Ulm",)}
    assert data.tasks["grade"].at == ("source", "validation", "target")
    assert all(row % 3 == 1 for split in SPLITS for row in rows(data, split))
    assert len(rows(data, "train", at="target")) == 8
    assert {data.domains[d] for d in data.pool("test", at="target").domain.tolist()} == {"Ulm"}
    episodes = data.episodes("target", list(data.tasks.values()), num_shots=2, num_query=2, number=2, per_class=False, seed=0)
    assert len(episodes) == 2
    with pytest.raises(DataError, match="pretrain domains"):
        data.pool("train", at="pretrain")


def test_the_store_is_made_once_and_again_where_rows_or_columns_change(people: Path) -> None:
    asked = {**PLAIN, "files": [str(people)], "tasks": {"grade": "grade"}}
    assert Table(**asked).prepare()
    assert not Table(**asked).prepare()
    assert not Table(**{**asked, "kinds": {"grade": "regression"}}).prepare(), "labels are no part of it"
    assert Table(**{**asked, "seed": 1}).prepare(), "other training rows, other statistics"
    with pytest.raises(DataError, match="must be prepared"):
        Table(**asked).pool("train")


def test_several_files_are_modalities_by_their_names(people: Path, tmp_path: Path) -> None:
    (tmp_path / "diet.csv").write_text("diet\n" + "\n".join(("fish", "sun")[i % 2] for i in range(ROWS)))
    data = of_people(
        people, files=[str(people), str(tmp_path / "diet.csv")], tasks={"diet": "diet.diet"}, modalities={"body": ["people.*"]}
    )
    assert data.tasks["diet"].classes == ("fish", "sun")


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"modalities": {"a": ["nothing"]}}, ConfigError, r"`modalities\.a` must name columns.*'nothing'"),
        ({"modalities": {"a": ["one"], "b": ["o*"]}}, ConfigError, "`one` in two"),
        ({"modalities": {}}, ConfigError, "`modalities` must name one"),
        ({"tasks": {"grade": "mark"}}, ConfigError, r"`tasks\.grade` must be a column.*'mark'"),
        ({"tasks": {"one": "one"}}, DataError, "two classes or more; found 1"),
        ({"kinds": {"grade": "binary"}}, DataError, "two classes; found 0, 1, 2, 3"),
        ({"tasks": {"town": "town"}, "kinds": {"town": "regression"}}, DataError, "'Ulm'"),
        ({"kinds": {"mark": "binary"}}, ConfigError, "`kinds` must give tasks"),
        ({"domain": "town", "target_domains": ["Rome"]}, ConfigError, r"Bari, Graz, Ulm\); found 'Rome'"),
        ({"domain": "town", "target_domains": ["Ulm"], "source_domains": ["Ulm"]}, ConfigError, "Ulm twice"),
        ({"domain": "colour"}, DataError, "`colour` must have a value in every row; found none in row 2"),
        ({"num_folds": 3, "fold": 3}, ConfigError, "`fold` must be below `num_folds` = 3"),
        ({"train_rows": 4, "num_folds": 3}, ConfigError, "`train_rows` must be null where `num_folds` is not"),
        ({"groups": "family", "stratify": "sick"}, ConfigError, "`groups` must be null where `stratify` is not"),
        ({"stratify": "income"}, DataError, "Each value of income is split by itself"),
        ({"fractions": {"train": 1.0}}, ConfigError, "`fractions`"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(changed: dict[str, Any], error: type[Exception], message: str, people: Path) -> None:
    with pytest.raises(error, match=message):
        of_people(people, **changed)


def test_columns_of_another_length_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", x=np.eye(4), y=np.arange(3))
    with pytest.raises(DataError, match=r"one length; found x\.3: 4, y: 3"):
        of_people(tmp_path / "t.npz", modalities={"x": ["x.*"]}, tasks={"y": "y"})


@pytest.mark.parametrize("sharing", ["pooled", "soft", "hard"])
def test_the_program_trains_like_tasks_from_a_table(sharing: str, fields: Path, tmp_path: Path) -> None:
    asked = [
        "data=table", f"data.files=[{fields}]", "data.modalities={radar: [X.*]}", "data.tasks={mine: Y}", "+data.kinds.mine=binary",
        "data.task_index=cell", *(f"+task@task.mine_{i}=binary" for i in (1, 2, 3)), "encoder/table=identity", "fusion=single",
        "backbone=identity", f"sharing={sharing}", "tracking=off", "trainer.updates=3", "trainer.num_pictures=0",
    ]  # fmt: skip
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", overrides=asked)
    results = experiment.run(cfg, folder=tmp_path / "run")
    assert list(results.blocks["a"]) == ["mine_1", "mine_2", "mine_3"]
    assert all(0 <= r.scores["auroc"].value <= 1 and r.scores["auroc"].trivial == 0.5 for r in results.blocks["a"].values())
    assert results.cost.networks == (1 if sharing == "pooled" else 3)


def test_the_real_minefields_and_schools_are_those_of_their_readme(shared_data: Path) -> None:
    if not (shared_data / "landmine").is_dir() or not (shared_data / "school").is_dir():
        pytest.skip(f"no landmine and school below {shared_data}")
    mines = of_fields(
        shared_data / "landmine" / "LandmineData.mat", modalities={"radar": ["feature.*"]}, tasks={"mine": "label"}, train_rows=20
    )
    pools = [mines.pool(s) for s in SPLITS]
    assert sum(map(len, pools)) == 14820
    assert len(mines.tasks) == 29
    assert mines.modalities["radar"].channels == 9
    labels = [p.read(torch.arange(len(p)), ["mine_1"]).targets["mine_1"] for p in pools]
    assert sum(int((x > 0).sum()) for x in labels) == 904
    assert len(pools[0]) == 29 * 20
    schools = of_fields(shared_data / "school" / "school.mat", kinds={"score": "regression"}, tasks={"score": "Y"})
    assert len(schools.tasks) == 139
    assert sum(len(schools.pool(s)) for s in SPLITS) == 15362
    assert schools.modalities["radar"].channels == 28
