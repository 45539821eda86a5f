"""How well marker panels fit cluster profiles, on plain arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Panel", "panel_scores", "relative_expression", "relative_to", "resampled_scores"]

_REQUIRED_SHARE = 0.5


@dataclass(frozen=True)
class Panel:
    """Markers of one cell type, as columns of the profile.

    Attributes
    ----------
    positive, negative
        Columns, shapes `(n_positive,)` and `(n_negative,)`; at least one positive.
    positive_weight, negative_weight
        Weight of each marker, same shapes.
    required
        Columns that must all reach half of their highest expression, shape `(n_required,)`.
    """

    positive: NDArray[np.intp]
    negative: NDArray[np.intp]
    positive_weight: NDArray[np.float64]
    negative_weight: NDArray[np.float64]
    required: NDArray[np.intp] = field(default_factory=lambda: np.empty(0, dtype=np.intp))


def relative_expression(
    profile: NDArray[np.float64], *, min_expression: float
) -> NDArray[np.float64]:
    """Expression of each gene relative to the cluster that has most of it, 0 to 1.

    A gene that no cluster has to `min_expression` stays small everywhere, so that a marker of an
    absent cell type cannot win by being a little less absent in one cluster.

    Parameters
    ----------
    profile
        Mean log-normalised expression, shape `(n_clusters, n_genes)`.
    min_expression
        Expression that counts as clearly there.
    """
    return relative_to(profile, np.maximum(profile.max(axis=0, initial=0.0), min_expression))


def relative_to(profile: NDArray[np.float64], top: NDArray[np.float64]) -> NDArray[np.float64]:
    """Expression relative to the highest of each gene, at most 1."""
    return np.minimum(profile / top, 1.0)


def panel_scores(relative: NDArray[np.float64], panels: Sequence[Panel]) -> NDArray[np.float64]:
    """Weighted mean of the positive markers less that of the negative ones.

    Parameters
    ----------
    relative
        Result of :func:`relative_expression`.
    panels
        One a cell type.

    Returns
    -------
    Shape `(n_clusters, n_types)`, -1 to 1; -1 where a required marker is missing.
    """
    scores = [
        _weighted_mean(relative, panel.positive, panel.positive_weight)
        - _weighted_mean(relative, panel.negative, panel.negative_weight)
        for panel in panels
    ]
    return np.where(_lacks_required(relative, panels), -1.0, np.stack(scores, axis=1))


def resampled_scores(
    relative: NDArray[np.float64],
    panels: Sequence[Panel],
    *,
    n_resamples: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Scores with the markers of every panel drawn again with replacement.

    How often a cell type stays best tells whether its call hangs on one or two genes.

    Returns
    -------
    Shape `(n_resamples, n_clusters, n_types)`.
    """
    scores = np.empty((n_resamples, relative.shape[0], len(panels)))
    for column, panel in enumerate(panels):
        for i in range(n_resamples):
            up = rng.integers(len(panel.positive), size=len(panel.positive))
            value = _weighted_mean(relative, panel.positive[up], panel.positive_weight[up])
            if len(panel.negative):
                down = rng.integers(len(panel.negative), size=len(panel.negative))
                value = value - _weighted_mean(
                    relative, panel.negative[down], panel.negative_weight[down]
                )
            scores[i, :, column] = value
    return np.where(_lacks_required(relative, panels), -1.0, scores)


def _lacks_required(relative: NDArray[np.float64], panels: Sequence[Panel]) -> NDArray[np.bool_]:
    """Where a required marker stays below half, shape `(n_clusters, n_types)`."""
    return np.stack(
        [(relative[:, panel.required] < _REQUIRED_SHARE).any(axis=1) for panel in panels], axis=1
    )


def _weighted_mean(
    relative: NDArray[np.float64], columns: NDArray[np.intp], weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mean over the columns, 0 without any; shape `(n_clusters,)`."""
    if len(columns) == 0:
        return np.zeros(relative.shape[0])
    return np.asarray(relative[:, columns] @ weight / weight.sum())
