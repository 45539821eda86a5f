"""What a design can answer: subjects, pairs, blocks, the smallest p and effect in reach."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import optimize, stats

from crs_sc import keys
from crs_sc.comparison.design import (
    REFERENCE,
    TREATED,
    covariate_names,
    expand_contrasts,
    factor_names,
    model_matrix,
    permutation_blocks,
    time_order,
)
from crs_sc.comparison.linear_model import fit_arm, smallest_p
from crs_sc.errors import DesignError, InputError, MissingKeyError, listing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from crs_sc.comparison.design import Contrast

__all__ = ["check_design", "detectable_effect", "smallest_effect", "subjects_per_arm"]


def subjects_per_arm(samples: pd.DataFrame) -> pd.DataFrame:
    """Count the subjects of each arm, at each time point where there are several.

    Parameters
    ----------
    samples
        One row a sample, columns `subject`, `condition` and, where it exists, `timepoint`.

    Returns
    -------
    DataFrame indexed by condition (sorted), a column a time point (in the order of time) and
    `subjects`, those of the arm altogether. Where the same subjects are followed it is as large as
    the columns, where others were taken each time it is their sum.

    Raises
    ------
    DesignError
        If subject or condition is missing.

    Examples
    --------
    >>> import pandas as pd
    >>> import crs_sc as crs
    >>> samples = pd.DataFrame({"subject": ["a", "b", "c"], "condition": ["CART", "CART", "PBS"]})
    >>> crs.tl.subjects_per_arm(samples)["subjects"].to_dict()
    {'CART': 2, 'PBS': 1}
    """
    missing = [c for c in (keys.SUBJECT, keys.CONDITION) if c not in samples.columns]
    if missing:
        msg = f"The samples have no column {listing(missing)}. Columns: {listing(samples.columns)}."
        raise DesignError(msg)
    columns = (keys.SUBJECT, keys.CONDITION, keys.TIMEPOINT)
    rows = samples[[c for c in columns if c in samples.columns]].astype(str).drop_duplicates()
    total = rows.groupby(keys.CONDITION, sort=True)[keys.SUBJECT].nunique()
    table = pd.DataFrame(index=total.index)
    if keys.TIMEPOINT in rows.columns:
        for time in time_order(rows[keys.TIMEPOINT]):
            at = rows[rows[keys.TIMEPOINT] == time]
            table[time] = at.groupby(keys.CONDITION)[keys.SUBJECT].nunique()
    table["subjects"] = total
    return table.fillna(0).astype(int)


def check_design(samples: pd.DataFrame, *, contrasts: Sequence[Contrast]) -> pd.DataFrame:
    """Say what each contrast can answer: subjects, pairs, blocks, the smallest p in reach.

    Parameters
    ----------
    samples
        As in `expand_contrasts`.
    contrasts
        What was asked.

    Returns
    -------
    DataFrame, one row a comparison: contrast, n_reference, n_treated, n_pairs, test (paired or
    unpaired), blocks (what arms are exchanged within: subject, or batch and covariates that are
    factors, or empty), pvalue_floor (smallest two-sided permutation p; missing where there is no
    test), status (`ok`, `too_few_subjects`, `confounded`), note, covariates (in the model), df
    (residual degrees of freedom; 0 where there is no test), detectable_sd (smallest effect that is
    seen with 80 % power at p 0.05, in sd of one unit: between subjects, of pairs within; what that
    is in log2 units depends on population and feature, see `detectable_effect`).

    Raises
    ------
    DesignError
        As `expand_contrasts`. A design that is too weak to test is a status, not an error.

    Examples
    --------
    >>> import pandas as pd
    >>> import crs_sc as crs
    >>> arms = ["CART"] * 3 + ["PBS"] * 3
    >>> samples = pd.DataFrame({"subject": list("abcdef"), "condition": arms})
    >>> cart = crs.Contrast(name="cart", treated="CART", reference="PBS")
    >>> float(crs.tl.check_design(samples, contrasts=[cart])["pvalue_floor"].iloc[0])
    0.1
    """
    rows = []
    for comparison in expand_contrasts(contrasts, samples):
        tested, paired = comparison.tested, comparison.contrast.paired
        blocks = permutation_blocks(tested, paired=paired)
        floor = np.nan
        if comparison.status == keys.OK and blocks is not None:
            floor = smallest_p((tested["arm"] == TREATED).to_numpy(), blocks)
        within = [keys.BATCH] if tested[keys.BATCH].nunique() > 1 else []
        within += factor_names(tested)
        df, effect = 0, np.nan
        if comparison.status == keys.OK:
            nuisance, arm = model_matrix(tested, paired=paired)
            fit = fit_arm(np.zeros((len(tested), 1)), arm, nuisance)
            df, effect = fit.df, float(needed_effect(1.0, fit.unscaled, fit.df))
        rows.append(
            {
                "contrast": comparison.name,
                "n_reference": len(comparison.subjects(REFERENCE)),
                "n_treated": len(comparison.subjects(TREATED)),
                "n_pairs": len(comparison.subjects(TREATED)) if paired else 0,
                "test": "paired" if paired else "unpaired",
                "blocks": "" if blocks is None else keys.SUBJECT if paired else ", ".join(within),
                "pvalue_floor": floor,
                "status": comparison.status,
                "note": comparison.note,
                "covariates": ", ".join(covariate_names(tested)),
                "df": df,
                "detectable_sd": effect,
            }
        )
    return pd.DataFrame(rows, columns=_DESIGN_COLUMNS)


_DESIGN_COLUMNS = [
    *("contrast", "n_reference", "n_treated", "n_pairs", "test", "blocks", "pvalue_floor"),
    *("status", "note", "covariates", "df", "detectable_sd"),
]


def needed_effect(
    sd: ArrayLike, unscaled: ArrayLike, df: ArrayLike, *, power: float = 0.8, alpha: float = 0.05
) -> NDArray[np.float64]:
    """Effect that the two-sided t test of a linear model finds with this power.

    `sd` is that of one unit, `unscaled` the standard error of the effect over it. Missing below one
    degree of freedom and where nothing varies.
    """
    # The noncentrality that gives the power depends on the degrees of freedom alone; the effect is
    # that many standard errors.
    s, u, d = np.broadcast_arrays(*(np.asarray(a, dtype=np.float64) for a in (sd, unscaled, df)))
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

    Examples
    --------
    >>> import crs_sc as crs
    >>> round(crs.tl.smallest_effect(0.5, n_reference=4, n_treated=4), 2)
    1.19
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

    Examples
    --------
    >>> import crs_sc as crs
    >>> bulk = crs.tl.pseudobulk(crs.datasets.toy_cohort())
    >>> cart = crs.Contrast(name="cart", treated="CART", reference="vehicle")
    >>> table = crs.tl.shifts(bulk, contrasts=[cart], signatures={}, genes=["IL6"])
    >>> bool((crs.tl.detectable_effect(table)["detectable"] > 0).all())
    True
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
    *(*_GROUP, "n_reference", "n_treated", "n_features"),
    *("detectable_low", "detectable", "detectable_high"),
]
