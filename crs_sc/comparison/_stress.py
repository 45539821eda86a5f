"""Kernel: the arm effect at equal handling stress, a covariate that differs by population."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc.comparison._fit import finish
from crs_sc.comparison._linear import fit_arm, is_estimable
from crs_sc.comparison.design import model_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FITTED", "add_adjusted", "fit_adjusted"]

FITTED = ["estimate", "variance", "unscaled", "df"]
_SUFFIX = "_stress_adjusted"


def fit_adjusted(
    Y: NDArray[np.float64],
    units: pd.DataFrame,
    covariate: NDArray[np.float64],
    *,
    paired: bool,
) -> pd.DataFrame:
    """Fit the arm with one more covariate.

    Parameters
    ----------
    Y
        Responses, shape `(n_units, n_tests)`.
    units
        Columns `subject`, `arm`, `batch`; a design that can be fitted without the covariate.
    covariate
        Shape `(n_units,)`.
    paired
        Whether subjects are a factor.

    Returns
    -------
    Columns `FITTED`, one row a response; all missing where the covariate is a combination of the
    rest of the design, or of the rest and the arm, and where no degree of freedom is left.
    """
    nuisance, arm = model_matrix(units, paired=paired)
    centred = (covariate - covariate.mean())[:, None]
    wider = np.hstack([nuisance, centred])
    full = np.column_stack([nuisance, arm])
    rank = np.linalg.matrix_rank
    adds = rank(np.hstack([full, centred])) > rank(full)
    if adds and is_estimable(arm, wider):
        fit = fit_arm(Y, arm, wider)
        if fit.df >= 1:
            values = (fit.estimate, fit.variance, fit.unscaled, fit.df)
            return pd.DataFrame(dict(zip(FITTED, values, strict=True)), dtype=np.float64)
    return pd.DataFrame(np.nan, index=range(Y.shape[1]), columns=FITTED)


def add_adjusted(
    table: pd.DataFrame, adjusted: pd.DataFrame, families: NDArray[np.object_]
) -> pd.DataFrame:
    """Add estimate, interval, moderated p and adjusted p of the fits with the covariate.

    Parameters
    ----------
    table
        From `finish`.
    adjusted
        Columns `FITTED` and `counting`, one row a row of the table.
    families
        As in `finish`; the fits with the covariate have a prior of their own.
    """
    kept = adjusted.reset_index(drop=True)
    kept.loc[table["variance"].isna().to_numpy()] = np.nan
    tests = finish(kept, families)
    result = table.copy()
    for name in ("estimate", "ci_low", "ci_high", "pvalue", "padj"):
        result[name + _SUFFIX] = tests[name].to_numpy()
    return result
