"""Guesses at misspelt words."""

from __future__ import annotations

from m3tl_cli.config.spelling import did_you_mean, nearest, nearest_key

KEYS = ["seed", "trainer", "trainer.updates", "trainer.patience", "optimizer", "optimizer.lr", "inner.lr"]


def test_a_swap_of_letters_finds_the_word() -> None:
    assert nearest("pcgard", ["sum", "pcgrad", "nash_mtl"]) == ["pcgrad"]


def test_what_is_far_behind_the_best_guess_is_not_named_beside_it() -> None:
    assert nearest("updtes", ["updates", "patience", "device"]) == ["updates"]


def test_two_guesses_that_are_as_near_are_both_named() -> None:
    assert sorted(nearest("conv3", ["conv1", "conv2", "mlp"])) == ["conv1", "conv2"]


def test_case_does_not_count() -> None:
    assert nearest("PCGrad", ["pcgrad"]) == ["pcgrad"]


def test_nothing_near_is_nothing() -> None:
    assert nearest("zzz", ["sum", "pcgrad"]) == []
    assert did_you_mean([]) == ""


def test_a_key_is_first_looked_for_beside_itself_then_elsewhere() -> None:
    assert nearest_key("trainer.updtes", KEYS) == ["trainer.updates"]
    assert nearest_key("lr", KEYS) == ["optimizer.lr", "inner.lr"]
    assert nearest_key("sed", KEYS) == ["seed"]


def test_the_clause_names_every_guess() -> None:
    assert did_you_mean(["a", "b"]) == "did you mean a or b?"
