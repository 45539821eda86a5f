"""What a design can answer: subjects, pairs, blocks, the smallest p in reach."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.comparison._covariates import covariate_names, factor_names
from crs_sc.comparison._linear import fit_arm
from crs_sc.comparison._permutation import smallest_p
from crs_sc.comparison._times import time_order
from crs_sc.comparison.design import (
    REFERENCE,
    TREATED,
    expand_contrasts,
    model_matrix,
    permutation_blocks,
)
from crs_sc.comparison.power import needed_effect
from crs_sc.errors import DesignError, listing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crs_sc.comparison.design import Contrast

__all__ = ["check_design", "subjects_per_arm"]


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
    """
    missing = [c for c in (keys.SUBJECT, keys.CONDITION) if c not in samples.columns]
    if missing:
        msg = f"The samples have no column {listing(missing)}. Columns: {listing(samples.columns)}."
        raise DesignError(msg)
    rows = samples[[c for c in _COUNTED if c in samples.columns]].astype(str).drop_duplicates()
    total = rows.groupby(keys.CONDITION, sort=True)[keys.SUBJECT].nunique()
    table = pd.DataFrame(index=total.index)
    if keys.TIMEPOINT in rows.columns:
        for time in time_order(rows[keys.TIMEPOINT]):
            at = rows[rows[keys.TIMEPOINT] == time]
            table[time] = at.groupby(keys.CONDITION)[keys.SUBJECT].nunique()
    table["subjects"] = total
    return table.fillna(0).astype(int)


_COUNTED = (keys.SUBJECT, keys.CONDITION, keys.TIMEPOINT)


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
            df, effect = _sensitivity(tested, paired=paired)
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


def _sensitivity(units: pd.DataFrame, *, paired: bool) -> tuple[int, float]:
    """Residual degrees of freedom, and the smallest effect seen in sd of one unit."""
    nuisance, arm = model_matrix(units, paired=paired)
    fit = fit_arm(np.zeros((len(units), 1)), arm, nuisance)
    return fit.df, float(needed_effect(1.0, fit.unscaled, fit.df))


_DESIGN_COLUMNS = [
    "contrast",
    "n_reference",
    "n_treated",
    "n_pairs",
    "test",
    "blocks",
    "pvalue_floor",
    "status",
    "note",
    "covariates",
    "df",
    "detectable_sd",
]
