"""A head that goes on from one of its family."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Gt
from torch import Tensor

from m3tl_cli.head_init.base import HeadInit, Support
from m3tl_cli.head_init.closed_form import ClosedForm
from m3tl_cli.head_init.zero_out import ZeroOut


class Family(HeadInit):
    """Start with the hidden layers of a trained task of the same family, and a last layer of its own.

    Of the same kind first, else of the same class of head, with hidden layers of the same shapes; the first in the order of the tasks. A
    head without such a donor, or without hidden layers, keeps its own. The last layer is not copied: that was a worse start for classes
    than none, over-confident in arbitrary ones (cross-entropy 1.66 against 1.10 before the first step, and behind after 20).

    Args:
        then: Where the last layer comes from, see `ZeroOut` and `ClosedForm`.
        ridge: As for `ClosedForm`; `zero_out` does not read it.
        classification: As for `ClosedForm`; `zero_out` does not read it.
        scale: As for `ClosedForm`; `zero_out` does not read it.
    """

    donor = "family"

    def __init__(
        self,
        *,
        then: Literal["zero_out", "closed_form"],
        ridge: Annotated[float, Gt(0)],
        classification: Literal["ridge", "prototypes"],
        scale: Annotated[float, Gt(0)],
    ) -> None:
        closed_form = ClosedForm(ridge=ridge, classification=classification, scale=scale)
        self._last: HeadInit = ZeroOut() if then == "zero_out" else closed_form
        self.needs_features = self._last.needs_features

    def out(self, weight_OD: Tensor, bias_O: Tensor | None, support: Support) -> tuple[Tensor, Tensor | None]:
        """As `then` says."""
        return self._last.out(weight_OD, bias_O, support)
