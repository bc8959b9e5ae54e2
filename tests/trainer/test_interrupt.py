"""What a signal does to a run that trains."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from m3tl_cli.trainer import interrupt
from m3tl_cli.trainer.interrupt import Interrupt


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_user_signal_waits_for_the_checkpoint_and_is_then_given_to_who_waits_for_it() -> None:
    class Requeued(Exception):
        pass

    def requeue(number: int, _frame: object) -> None:
        raise Requeued(number)

    signal.signal(signal.SIGUSR2, requeue)
    with Interrupt() as found:
        os.kill(os.getpid(), signal.SIGUSR2)
        assert found.number == signal.SIGUSR2
        with pytest.raises(Requeued):
            found.leave()
    assert signal.getsignal(signal.SIGUSR2) is requeue


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_that_nobody_waits_for_leaves_with_its_own_code(number: signal.Signals) -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    with Interrupt() as found:
        os.kill(os.getpid(), number)
        with pytest.raises(SystemExit) as left:
            found.leave()
    assert left.value.code == 128 + number


def test_an_ignored_user_signal_stays_ignored() -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    with Interrupt() as found:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert found.number == 0


def test_a_signal_that_comes_twice_at_once_is_one_and_a_later_one_leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupt, "SAME", 1000.0)
    with Interrupt() as found:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert found.number == signal.SIGTERM
        monkeypatch.setattr(interrupt, "SAME", -1.0)
        with pytest.raises(SystemExit):
            os.kill(os.getpid(), signal.SIGTERM)
