"""Gradient boosting of small trees on binned columns."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice, repeat
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge, Gt
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits
from torch import Tensor

from m3tl_cli.estimator.base import Estimator, Fitted, Labels, Rows


class HistGradientBoosting(Estimator):
    """Fit scikit-learn's histogram-based gradient boosting: each round adds a small tree that descends the loss.

    Classes and yes or no by cross-entropy, real numbers by squared error with trees of their own for each output. A missing cell goes to
    the side of a split on which missing cells do better. Runs on one thread, so that the same seed gives the same bits.

    Source: Friedman, "Greedy Function Approximation: A Gradient Boosting Machine", Annals of Statistics 2001; histograms as in Ke et al.,
    "LightGBM", NeurIPS 2017.
    Differs from a network of this program: it reads neither `pos_weight` nor `label_smoothing` nor the `loss` of a regression.

    Args:
        learning_rate: Share of a tree's step that is taken.
        max_iter: Rounds, at most.
        max_leaf_nodes: Leaves of a tree, at most.
        min_samples_leaf: Rows of a leaf, at least; with fewer than twice as many rows there is no split.
        l2_regularization: Added to the second derivatives that a leaf's step is divided by.
        seed: Of the choice of rows that bins are made of, where there are more than 200,000.
    """

    def __init__(
        self,
        *,
        learning_rate: Annotated[float, Gt(0)],
        max_iter: Annotated[int, Ge(1)],
        max_leaf_nodes: Annotated[int, Ge(2)],
        min_samples_leaf: Annotated[int, Ge(1)],
        l2_regularization: Annotated[float, Ge(0)],
        seed: int,
    ) -> None:
        self._numbers: dict[str, Any] = {
            "learning_rate": learning_rate,
            "max_iter": max_iter,
            "max_leaf_nodes": max_leaf_nodes,
            "min_samples_leaf": min_samples_leaf,
            "l2_regularization": l2_regularization,
            "early_stopping": False,  # would split off rows at random; who fits has validation rows
            "random_state": seed % 2**32,  # numpy's generator takes no more
        }

    def fit(self, x: Rows, labels: Labels) -> Fitted:
        """Fit rows [N, D] to their labels; where these are all alike, or no cell is known, the prior is all there is."""
        columns = np.flatnonzero(~np.isnan(x).all(0))  # scikit-learn makes no bins of a column without a number
        x = x[:, columns]
        ideal, known = labels.ideal_NO.cpu().numpy(), labels.known_NO.cpu().numpy()
        prior = labels.prior_O.detach().float().cpu()
        if labels.activation == "identity":
            models = [self._fitted(HistGradientBoostingRegressor, x[known[:, o]], ideal[known[:, o], o]) for o in range(len(prior))]
            return _Numbers(models, columns, prior)
        rows = known.any(1)
        classes = ideal[rows].argmax(1) if labels.activation == "softmax" else ideal[rows, 0] > 0
        models = [self._fitted(HistGradientBoostingClassifier, x[rows], classes)]
        return _Classes(models, columns, prior) if labels.activation == "softmax" else _YesOrNo(models, columns, prior)

    def _fitted(self, kind: type[Any], x: Rows, y: npt.NDArray[Any]) -> Any:
        if not x.shape[1] or len(np.unique(y)) < 2:
            return None
        with threadpool_limits(1):
            return kind(**self._numbers).fit(x, y)


class _Boosted(Fitted):
    """Models of scikit-learn, one for all outputs or one each, None where there was nothing to fit; the columns read; the prior [O]."""

    def __init__(self, models: Sequence[Any], columns: npt.NDArray[np.int_], prior: Tensor) -> None:
        self._models, self._columns, self._prior = models, columns, prior
        self.num_rounds = max((m.n_iter_ for m in models if m is not None), default=0)

    def outputs(self, x: Rows, rounds: Sequence[int]) -> list[Tensor]:
        asked = [min(r, self.num_rounds) if len(x) else 0 for r in rounds]
        found = {0: self._prior.repeat(len(x), 1)}
        if last := max(asked, default=0):
            with threadpool_limits(1):
                for r, stage in enumerate(islice(self._stages(x[:, self._columns]), last), 1):
                    if r in asked:
                        found[r] = self._outputs(stage)
        return [found[r] for r in asked]

    def num_parameters(self, rounds: int) -> int:
        trees = (tree for m in self._models if m is not None for stage in m._predictors[:rounds] for tree in stage)
        return sum(int(tree.get_n_leaf_nodes()) for tree in trees)

    def _stages(self, x: Rows) -> Iterator[Any]:
        """What the models say after every round, of classifiers sums of trees [B] for two classes, [B, classes seen] for more."""
        yield from self._models[0].staged_decision_function(x)

    @abstractmethod
    def _outputs(self, stage: Any) -> Tensor:
        """[B, O] float32."""


class _YesOrNo(_Boosted):
    def _outputs(self, stage: Any) -> Tensor:
        return torch.from_numpy(stage).float()[:, None]


class _Classes(_Boosted):
    def _outputs(self, stage: Any) -> Tensor:
        """Log-probabilities: a class that no row has keeps the prior's probability, the others share the rest."""
        sums = torch.from_numpy(stage)
        log_p = (torch.stack((torch.zeros_like(sums), sums), 1) if sums.ndim == 1 else sums).log_softmax(1)
        seen = torch.from_numpy(self._models[0].classes_)
        outputs = self._prior.repeat(len(sums), 1)
        outputs[:, seen] = (log_p + self._prior.double()[seen].logsumexp(0)).float()
        return outputs


class _Numbers(_Boosted):
    def _stages(self, x: Rows) -> Iterator[Any]:
        constant = (np.full(len(x), float(p)) for p in self._prior)
        paths = [repeat(c) if m is None else m.staged_predict(x) for m, c in zip(self._models, constant, strict=True)]
        return zip(*paths, strict=False)  # all models have the same rounds

    def _outputs(self, stage: Any) -> Tensor:
        return torch.from_numpy(np.stack(stage, 1)).float()
