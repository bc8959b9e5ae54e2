from __future__ import annotations

from m3tl_cli.sharing.hard import Hard
from tests.sharing.stack import Stack


def test_every_task_reads_the_one_network_and_its_own_head() -> None:
    stack = Stack(Hard(num_stages=2), ["a", "b"], 2)
    assert set(stack.input) == set(stack.backbone) == {"shared"}
    for task in "ab":
        assert stack.declared(task) == stack.reached(task)
    assert stack.reached("a") ^ stack.reached("b") == {f"head.{t}.{p}" for t in "ab" for p in ("weight", "bias")}


def test_it_has_no_parameters_of_its_own() -> None:
    assert not dict(Stack(Hard(num_stages=2), ["a", "b"], 2).sharing.named_parameters())
