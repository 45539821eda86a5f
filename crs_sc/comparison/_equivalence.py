"""Kernel: two one-sided tests that a shift is within a margin, and what both tests say together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.comparison._fit import CAUTION
from crs_sc.comparison._linear import moderate
from crs_sc.core.stats import benjamini_hochberg

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["add_equivalence", "one_sided_pair", "verdicts"]


def one_sided_pair(
    estimate: ArrayLike,
    variance: ArrayLike,
    unscaled: ArrayLike,
    df: ArrayLike,
    *,
    margin: float,
    caution: float = 0.0,
) -> NDArray[np.float64]:
    """Moderated p that each effect lies within -margin and +margin (Schuirmann 1987).

    The larger of two one-sided p: that the effect is above -margin, and below +margin.

    Parameters
    ----------
    estimate, variance, unscaled, df
        As in `moderate`, all tests of one family, shape `(n_tests,)`.
    margin
        Above 0.
    caution
        As in `squeeze`.
    """
    b = np.asarray(estimate, dtype=np.float64)
    # Moderation looks at the variances alone, so shifting the estimate shifts the hypothesis.
    above = moderate(b + margin, variance, unscaled, df, caution=caution).pvalue / 2
    below = moderate(b - margin, variance, unscaled, df, caution=caution).pvalue / 2
    above = np.where(b + margin > 0, above, 1 - above)
    below = np.where(b - margin < 0, below, 1 - below)
    return np.asarray(np.maximum(above, below))


def verdicts(
    padj: ArrayLike, padj_equivalence: ArrayLike, *, alpha: float = 0.05
) -> NDArray[np.object_]:
    """Put the test of a difference and that of equivalence into one word (Lakens 2017).

    Parameters
    ----------
    padj, padj_equivalence
        Adjusted p of the two tests, shape `(n_tests,)`; missing where there is none.
    alpha
        False discovery rate of either claim.

    Returns
    -------
    One of `keys.VERDICTS`, or empty where there is no test of a difference.
    """
    difference, within = np.asarray(padj), np.asarray(padj_equivalence)
    tested = np.isfinite(difference)
    changed, equivalent = difference <= alpha, within <= alpha
    result = np.full(difference.shape, keys.INCONCLUSIVE, dtype=object)
    result[changed] = keys.CHANGED
    result[equivalent] = keys.EQUIVALENT
    result[changed & equivalent] = keys.CHANGED_WITHIN_MARGIN
    result[~tested] = ""
    return result


def add_equivalence(
    table: pd.DataFrame,
    families: NDArray[np.object_],
    *,
    margin: float,
    covered: NDArray[np.bool_],
) -> pd.DataFrame:
    """Add the equivalence p, its adjusted p, the margin and the verdict.

    Parameters
    ----------
    table
        From `finish`, with its columns variance, unscaled and df.
    families
        As in `finish`.
    margin
        Largest effect that is not relevant.
    covered
        Whether a row can be called equivalent at all, shape `(n_rows,)`.
    """
    result = table.copy()
    pvalue = np.full(len(result), np.nan)
    tested = result["variance"].notna().to_numpy()
    for family in dict.fromkeys(families):
        rows = np.flatnonzero(tested & (families == family))
        if len(rows):
            part = result.iloc[rows]
            pvalue[rows] = one_sided_pair(
                part["estimate"],
                part["variance"],
                part["unscaled"],
                part["df"],
                margin=margin,
                caution=CAUTION,
            )
    pvalue[~covered] = np.nan
    result["pvalue_equivalence"] = pvalue
    result["padj_equivalence"] = benjamini_hochberg(pvalue)
    result["margin"] = np.where(np.isfinite(pvalue), margin, np.nan)
    result["verdict"] = pd.Series(
        verdicts(result["padj"], result["padj_equivalence"]), index=result.index, dtype="str"
    )
    return result
