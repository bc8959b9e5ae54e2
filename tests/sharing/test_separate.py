from __future__ import annotations

from m3tl_cli.sharing.separate import Separate
from tests.sharing.stack import Stack


def test_no_two_tasks_read_the_same_parameter() -> None:
    stack = Stack(Separate(num_stages=2), ["a", "b", "c"], 2)
    reached = {t: stack.reached(t) for t in "abc"}
    assert {t: stack.declared(t) for t in "abc"} == reached
    assert not reached["a"] & reached["b"]
    assert not reached["b"] & reached["c"]
    assert set().union(*reached.values()) == {n for n, _ in stack.named_parameters()}


def test_every_task_has_columns_of_its_own() -> None:
    stack = Stack(Separate(num_stages=2), ["a", "b"], 2)
    assert list(stack.input) == list(stack.backbone) == ["a", "b"]
