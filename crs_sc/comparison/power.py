"""Power: the smallest effect that a design can see, from the spread between its subjects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import optimize, stats

from crs_sc import keys
from crs_sc.comparison._fit import CAUTION
from crs_sc.comparison._linear import squeeze
from crs_sc.errors import InputError, MissingKeyError, listing

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["add_detectable", "detectable_effect", "needed_effect", "smallest_effect"]


def needed_effect(
    spread: ArrayLike,
    unscaled: ArrayLike,
    df: ArrayLike,
    *,
    power: float = 0.8,
    alpha: float = 0.05,
) -> NDArray[np.float64]:
    """Effect that the two-sided t test of a linear model finds with this power.

    The noncentrality that gives the power depends on the degrees of freedom alone; the effect is
    that many standard errors.

    Parameters
    ----------
    spread
        Residual sd of one unit.
    unscaled
        Standard error of the effect over the residual sd.
    df
        Residual degrees of freedom.
    power
        Probability that the effect is found.
    alpha
        Size of the test.

    Returns
    -------
    Effects in the units of the spread, shape as broadcast; missing below one degree of freedom
    and where there is no spread.
    """
    s, u, d = np.broadcast_arrays(
        *(np.asarray(a, dtype=np.float64) for a in (spread, unscaled, df))
    )
    noncentrality = np.full(d.shape, np.nan)
    for value in np.unique(d[d >= 1]):
        noncentrality[d == value] = _noncentrality(float(value), power=power, alpha=alpha)
    return np.asarray(noncentrality * np.where(s > 0, s, np.nan) * u)


def _noncentrality(df: float, *, power: float, alpha: float) -> float:
    """Noncentrality at which a two-sided t test has this power."""
    critical = float(stats.t.isf(alpha / 2, df))

    def lacking(noncentrality: float) -> float:
        # The far tail by symmetry: scipy's lower tail of it is missing where it vanishes.
        tails = stats.nct.sf(critical, df, [noncentrality, -noncentrality])
        return float(tails.sum()) - power

    top = 2.0
    while lacking(top) < 0:
        top *= 2
    return float(optimize.brentq(lacking, 0.0, top, xtol=1e-10))


def add_detectable(table: pd.DataFrame, families: NDArray[np.object_]) -> pd.DataFrame:
    """Add the effect that each moderated test finds with 80 % power.

    Parameters
    ----------
    table
        Columns variance, unscaled and df of each test.
    families
        Rows with the same entry share a prior variance, shape `(n_rows,)`.
    """
    effect = np.full(len(table), np.nan)
    tested = table["variance"].notna().to_numpy()
    for family in dict.fromkeys(families):
        rows = np.flatnonzero(tested & (families == family))
        if len(rows):
            part = table.iloc[rows]
            squeezed = squeeze(part["variance"], part["df"], caution=CAUTION)
            spread = np.sqrt(squeezed.variance)
            effect[rows] = needed_effect(spread, part["unscaled"], squeezed.df)
    return table.assign(detectable_effect=effect)


def smallest_effect(
    spread: float,
    *,
    n_reference: int,
    n_treated: int,
    paired: bool = False,
    power: float = 0.8,
    alpha: float = 0.05,
) -> float:
    """Smallest effect that a study of this size would see, for planning one.

    Parameters
    ----------
    spread
        Residual sd of one unit: between subjects of an arm, or in a paired study within subjects
        (the sd of the differences over the root of 2).
    n_reference, n_treated
        Subjects of each arm; of a paired study the pairs, twice the same number.
    paired
        Every subject is in both arms.
    power, alpha
        Probability that the effect is found, and size of the two-sided t test.

    Returns
    -------
    The effect in the units of the spread.

    Raises
    ------
    InputError
        If there are too few subjects for a test, or a number is out of range.
    """
    if not 0 < alpha < power < 1:
        msg = f"alpha and power must be 0 < alpha < power < 1, got {alpha!r} and {power!r}."
        raise InputError(msg)
    if not spread > 0:
        msg = f"spread must be above 0, got {spread!r}."
        raise InputError(msg)
    if paired and n_reference != n_treated:
        msg = f"A paired study has as many of each arm, got {n_reference} and {n_treated}."
        raise InputError(msg)
    df = n_reference - 1 if paired else n_reference + n_treated - 2
    if min(n_reference, n_treated) < 1 or df < 1:
        msg = f"{n_reference} and {n_treated} subjects give no test; one more is needed."
        raise InputError(msg)
    unscaled = np.sqrt(1 / n_reference + 1 / n_treated)
    return float(needed_effect(spread, unscaled, df, power=power, alpha=alpha))


def detectable_effect(shifts: pd.DataFrame) -> pd.DataFrame:
    """Say how small an effect each contrast can see in each population, over its features.

    Parameters
    ----------
    shifts
        The table of `shifts`.

    Returns
    -------
    DataFrame, one row a contrast, kind (signature or gene) and population with a test: contrast,
    kind, population, n_reference and n_treated (subjects used), n_features (with a test), and
    `detectable_low`, `detectable`, `detectable_high`: quartiles over the features of the smallest
    shift that would be found with 80 % power at p 0.05 (log2 units). In the order of the table.

    Raises
    ------
    MissingKeyError
        If this is not a table of `shifts`.
    """
    wanted = [*_GROUP, "n_reference", "n_treated", "detectable_effect"]
    missing = [name for name in wanted if name not in shifts.columns]
    if missing:
        msg = f"The table has no column {listing(missing)}. Make it with crs_sc.tl.shifts."
        raise MissingKeyError(msg)
    seen = shifts.loc[shifts["detectable_effect"].notna(), wanted]
    rows = []
    for name, part in seen.groupby(_GROUP, sort=False, observed=True):
        quartiles = part["detectable_effect"].quantile([0.25, 0.5, 0.75])
        sizes = (part["n_reference"].max(), part["n_treated"].max(), len(part))
        rows.append((*name, *sizes, *quartiles))
    return pd.DataFrame(rows, columns=_COLUMNS)


_GROUP = ["contrast", "kind", keys.POPULATION]
_COLUMNS = [
    *_GROUP,
    "n_reference",
    "n_treated",
    "n_features",
    "detectable_low",
    "detectable",
    "detectable_high",
]
