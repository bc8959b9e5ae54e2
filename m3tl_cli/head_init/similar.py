"""A head that goes on from the most similar one."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Gt
from torch import Tensor

from m3tl_cli.head_init import ridge as closed
from m3tl_cli.head_init.base import HeadInit, Support
from m3tl_cli.head_init.closed_form import ClosedForm
from m3tl_cli.head_init.zero_out import ZeroOut


class Similar(HeadInit):
    """Start with the hidden layers of the trained task whose head features fit the new task's support best, and an own last layer.

    The fit is that of a ridge regression, judged by the squared error at each row when that row is left out, which has a closed form; so
    donors are compared by what they predict and not by what they can memorise. Pixels of a sample are rows of their own, so for dense
    tasks it leans towards the plain residual. Between equals the order of `Family` decides, so one sample, which says nothing, gives
    the donor of the family.

    Cost: one pass through the network per possible donor; the donor is chosen without gradients.

    Args:
        then: Where the last layer comes from, see `ZeroOut` and `ClosedForm`.
        ridge: As for `ClosedForm`; the comparison of donors reads it as well.
        classification: As for `ClosedForm`; `zero_out` does not read it.
        scale: As for `ClosedForm`; `zero_out` does not read it.
    """

    donor = "similar"

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
        self.ridge = ridge

    def out(self, weight_OD: Tensor, bias_O: Tensor | None, support: Support) -> tuple[Tensor, Tensor | None]:
        """As `then` says."""
        return self._last.out(weight_OD, bias_O, support)

    @torch.no_grad()
    def misfit(self, support: Support) -> float:
        """Mean squared error over the known entries when their row is left out."""
        total = support.features_ND.new_zeros(())
        for rows, outputs in closed.by_known_rows(support.known_NO):
            z = support.features_ND[rows]
            total += closed.leave_one_out(z, support.ideal_NO[rows][:, outputs], closed.penalty(z, self.ridge)).square().sum()
        return float(total / support.known_NO.sum().clamp(min=1))
