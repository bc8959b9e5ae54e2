"""The known answers that `m3tl selftest` shows hold, and a wrong one would be noticed."""

from __future__ import annotations

import pytest

from m3tl_cli.balancing.sum import Sum
from m3tl_cli.selftest import CHECKS, Check, _number, descend


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.name)
def test_known_answer(check: Check) -> None:
    outcome = check.run()
    assert outcome.passed, f"{check.about}: expected {outcome.expected}, found {outcome.found}"


def test_a_wrong_answer_does_not_pass() -> None:
    assert not _number(0.5, lambda: descend(None, Sum()))().passed
