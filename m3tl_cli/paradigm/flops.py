"""Floating-point operations of training: counted where work of a new shape is met, looked up from then on."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from m3tl_cli.core.contracts import Batch
from m3tl_cli.inner.base import InnerLoop


@dataclass
class Passes:
    """Work of a network since the start.

    Args:
        forward: Passes, one per batch and connected component of tasks, whatever the batch's size.
        backward: The same. A gradient in second order walks back through the inner steps as well, which counts as one pass each.
        flops: Floating-point operations of both, as `FlopTable` counts them.
    """

    forward: int = 0
    backward: int = 0
    flops: float = 0.0


class Repeated:
    """Work inside `FlopTable.repeated`; whoever does it says how often.

    Args:
        once: Operations of doing it once; None: not known yet.
        so_far: Operations until now. stop: Ends their counting.
    """

    def __init__(self, once: float | None, so_far: Callable[[], float], stop: Callable[[], None]) -> None:
        self.once, self.times = once, 0
        self._so_far, self._stop = so_far, stop

    def done(self, times: int) -> None:
        """It was done so often by now. As soon as it was done at all, enough is known of it, and the rest runs unwatched."""
        self.times = times
        if self.once is None and times:
            self.once = self._so_far() / times
            self._stop()


class _Counter(TorchDispatchMode):
    """Add up the operations of what runs inside, forward and backward, by torch's own formulas.

    Differs from torch's `FlopCounterMode`, which gives the same sum (see the tests): no account per module, so that it takes 12
    instead of 32 us for each of the some thousand calls of an episode.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        found = func(*args, **named)
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **named, out_val=found)
        return found


class FlopTable:
    """Floating-point operations of pieces of work, by what their number depends on.

    The number follows from shapes alone, so a piece is counted once, call by call, and runs unwatched from then on. Counted are
    matrix products, convolutions and attention, a multiplication and an addition as two, forward, backward and in second order: what
    `torch.utils.flop_counter` has a formula for. Element-wise work (activations, norms, losses) and the solution of linear systems
    are not.

    A table serves one network. It changes no number of the work, and costs some microseconds a piece that it knows.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, float] = {}
        self._counter: _Counter | None = None
        self._inside = False
        self._apart = 0.0  # added by blocks so far, or left out: what is amid work that repeats and no part of it

    @contextmanager
    def block(self, key: Hashable | None, passes: Passes) -> Iterator[None]:
        """Add the operations of what is done inside; pieces within it are part of it.

        Args:
            key: Everything that their number depends on; None: it depends on more, and is counted every time.
            passes: What they are added to, if nothing is raised.
        """
        if self._inside:
            yield
            return
        known = None if key is None else self._known.get(key)
        self._inside = True
        try:
            if known is not None:
                yield
            else:
                with self._counting() as counter:
                    before = counter.flops
                    yield
                known = float(counter.flops - before)
                if key is not None:
                    self._known[key] = known
        finally:
            self._inside = False
        passes.flops += known
        self._apart += known

    @contextmanager
    def repeated(self, key: Hashable, passes: Passes) -> Iterator[Repeated]:
        """Add the operations of work that is done several times alike, how often is only known afterwards.

        Blocks inside add themselves and are no part of it.

        Args:
            key: Everything that the operations of doing it once depend on.
            passes: What they are added to, if nothing is raised.
        """
        apart, counting = self._apart, ExitStack()
        repeated = Repeated(self._known.get(key), lambda: counter.flops - (self._apart - apart), counting.close)
        with counting:
            if repeated.once is None:
                counter = counting.enter_context(self._counting())
            yield repeated
        if repeated.once is not None:
            self._known[key] = repeated.once
            passes.flops += repeated.once * repeated.times

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Leave out what is done inside, such as scoring, although it is done amid work that repeats."""
        counter, inside = self._counter, self._inside
        before = counter.flops if counter else 0
        self._inside = True
        try:
            yield
        finally:
            self._inside = inside
            self._apart += counter.flops - before if counter else 0

    @contextmanager
    def _counting(self) -> Iterator[_Counter]:
        if self._counter is not None:
            yield self._counter
            return
        self._counter = _Counter()
        try:
            with self._counter:
                yield self._counter
        finally:
            self._counter = None


class Steps:
    """Count the steps of a descent by its evaluations: one follows each that keeps a graph, unless the descent is taken back after it.

    Args:
        inner: Descends.
    """

    def __init__(self, inner: InnerLoop) -> None:
        self._inner = inner
        self._taken, self._pending, self._halvings = 0, False, inner.halvings

    def before(self, graph: bool) -> int:
        """Steps until now; call it before every evaluation of the objective, and with False when the descent has ended."""
        self._taken += self._pending and self._inner.halvings == self._halvings
        self._pending, self._halvings = graph, self._inner.halvings
        return self._taken


def shape(batch: Batch) -> Hashable:
    """What the operations of a batch's pass through a network depend on."""
    return (len(batch), *((m, t.shape) for m, t in batch.inputs.items()), "stored", *((m, t.shape) for m, t in batch.features.items()))
