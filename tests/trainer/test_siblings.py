"""What a run may take from one beside it, and what makes two trainings the same."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from m3tl_cli.core.results import StageCost
from m3tl_cli.trainer.siblings import FILE, Siblings, training_key

CONFIG: dict[str, Any] = {"seed": 1, "name": "one", "optimizer": {"lr": 0.1, "clip": None}, "target": {"steps": [1, 2]}}
TRAINED = StageCost("train", 7, 70, 14, 14, 2.5, flops=3.0)


def key(left_out: tuple[str, ...] = (), stores: tuple[str, ...] = ("store",), start: str = "tensors", **changes: Any) -> str:
    return training_key(CONFIG | changes, frozenset(left_out), stores, start)


def finished(folder: Path, content: str = "k") -> Siblings:
    folder.mkdir()
    siblings = Siblings(folder, content)
    siblings.leave([TRAINED], {"seen": 1})
    return siblings


def test_only_what_is_left_out_by_name_may_differ() -> None:
    assert key(name="two") != key()
    assert key(("name",), name="two") == key(("name",))
    assert key(("optimizer.clip",), optimizer={"lr": 0.1, "clip": 5.0}) == key(("optimizer.clip",))
    assert key(("optimizer.clip",), optimizer={"lr": 0.2, "clip": None}) != key(("optimizer.clip",))
    assert key(("target",), target={"steps": [9]}) == key(("target",)), "a whole group"
    assert key(unheard_of=1) != key(), "a key that nobody thought of counts"
    assert key(stores=("other",)) != key()
    assert key(start="others") != key()


def test_a_sibling_of_the_same_key_is_found_and_what_it_cost(tmp_path: Path) -> None:
    finished(tmp_path / "b")
    finished(tmp_path / "a", "another")
    found = Siblings(tmp_path / "c", "k").trained()
    assert found is not None
    assert (found.folder, found.stages, found.beside) == (tmp_path / "b", (TRAINED,), {"seen": 1})
    assert Siblings(tmp_path / "c", "nobody").trained() is None


def test_a_run_does_not_take_from_itself(tmp_path: Path) -> None:
    assert finished(tmp_path / "a").trained() is None


def test_the_journal_of_training_leaves_pretraining_and_test_scores_out(tmp_path: Path) -> None:
    finished(tmp_path / "a")
    lines: list[tuple[int, dict[str, float | None]]] = [
        (1, {"pretrain/a/loss": 1.0}),
        (1, {"train/a/loss": 2.0, "balancing/a/weight": None}),
        (2, {"val/a/mae": 3.0}),
        (2, {"test/a/mae": 4.0}),
    ]
    (tmp_path / "a" / "metrics.jsonl").write_text("".join(json.dumps({"step": s, "time": 0.0, "values": v}) + "\n" for s, v in lines))
    found = Siblings(tmp_path / "b", "k").trained()
    assert found is not None
    told = list(found.measured())
    assert [(step, sorted(values)) for step, values in told] == [(1, ["balancing/a/weight", "train/a/loss"]), (2, ["val/a/mae"])]
    assert math.isnan(told[0][1]["balancing/a/weight"])


def test_a_second_run_waits_until_the_first_is_over_and_says_so(tmp_path: Path) -> None:
    first, second = Siblings(tmp_path / "a", "k"), Siblings(tmp_path / "b", "k")
    (tmp_path / "a").mkdir()
    order, holding = [], threading.Event()

    def wait() -> None:
        order.append("waits")
        holding.set()

    def follow() -> None:
        with second.alone(wait):
            order.append("second")

    with first.alone(lambda: pytest.fail("nobody is before the first")):
        thread = threading.Thread(target=follow)
        thread.start()
        assert holding.wait(30)
        order.append("first")
    thread.join(30)
    assert order == ["waits", "first", "second"]
    with Siblings(tmp_path / "b", "other").alone(lambda: pytest.fail("another key is another training")):
        pass


def test_a_run_that_dies_lets_the_next_one_train(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    code = (
        "import os, pathlib; from m3tl_cli.trainer.siblings import Siblings\n"
        f"with Siblings(pathlib.Path({str(tmp_path / 'a')!r}), 'k').alone(lambda: None): os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 9
    with Siblings(tmp_path / "b", "k").alone(lambda: pytest.fail("the dead hold nothing")):
        assert not list(tmp_path.glob(f"*/{FILE}"))
