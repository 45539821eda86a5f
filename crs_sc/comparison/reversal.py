"""Reversal: how far a drug brings a response back to baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.comparison._fieller import (
    N_COMPONENTS,
    arm_effects,
    effect_covariance,
    fieller_interval,
)
from crs_sc.comparison._fit import CAUTION
from crs_sc.comparison._scores import expressed_scores, has_too_few_genes
from crs_sc.comparison._units import (
    check_bulk,
    check_min_cells,
    find_features,
    gather,
    select_units,
)
from crs_sc.comparison.design import BASELINE, REFERENCE, TREATED, expand_contrasts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from crs_sc.comparison._units import Features
    from crs_sc.comparison.design import Comparison, Contrast

__all__ = ["reversal"]

_ARMS = (BASELINE, REFERENCE, TREATED)


def reversal(
    bulk: AnnData,
    *,
    contrasts: Sequence[Contrast],
    signatures: Mapping[str, Sequence[str]],
    genes: Sequence[str] = (),
    min_cells: int = 10,
    min_count: int = 10,
    min_genes: int = 3,
) -> pd.DataFrame:
    """Compute (treated - reference) / (baseline - reference) for contrasts with a baseline.

    Treated is the drug arm, reference the disease (CAR T) without the drug: 0 is no effect, 1 is
    back to baseline, above 1 is beyond it, below 0 is worse. Judge a blocker by the response to
    what it blocks, not by the cytokine itself.

    Parameters
    ----------
    bulk
        From `pseudobulk`.
    contrasts
        What to compare; those without a baseline are left out.
    signatures
        Name and genes of each signature.
    genes
        Single genes.
    min_cells
        A unit with fewer cells of a population is not a replicate for it.
    min_count
        A gene counts where it has this many UMI beyond ambient RNA in as many units as the smallest
        arm has, and more over all units than ambient RNA explains.
    min_genes
        As in `shifts`; with fewer there is a ratio and no interval (`too_few_genes`).

    Returns
    -------
    DataFrame with the columns of `keys.REVERSAL_TABLE`, a row for every contrast with a baseline
    (and time point), signature and gene, and population. The 95 % interval is Fieller's, from
    variances of the arms that are moderated over the signatures, and over the genes; batches are
    factors, and so are subjects that are seen in several arms. Where there is no answer the status
    says why: as in `shifts`, and

    - `no_shift_to_reverse`: the interval of (baseline - reference) covers 0, so that a ratio to it
      means nothing;
    - `absent_in_baseline`: no cell of the population in the baseline arm.

    With one subject in an arm there is a ratio and no interval (`too_few_subjects`).

    Raises
    ------
    DesignError
        As in `shifts`.
    """
    check_bulk(bulk)
    check_min_cells(min_cells)
    features = find_features(bulk, signatures=signatures, genes=genes)
    wanted = [contrast for contrast in contrasts if contrast.baseline is not None]
    tables = [
        _comparison_rows(
            bulk,
            comparison,
            features,
            min_cells=min_cells,
            min_count=min_count,
            min_genes=min_genes,
        )
        for comparison in expand_contrasts(wanted, bulk.obs)
    ]
    if not tables or not features.names:
        return pd.DataFrame(columns=keys.REVERSAL_TABLE.names)
    return _finish(pd.concat(tables, ignore_index=True))[keys.REVERSAL_TABLE.names]


# What a row carries until the variances of its family are known.
_VARIANCES = [f"variance_{k}" for k in range(N_COMPONENTS)]
_DF = [f"df_{k}" for k in range(N_COMPONENTS)]
_UNSCALED = [f"unscaled_{k}_{entry}" for k in range(N_COMPONENTS) for entry in range(3)]
_EFFECTS = ["treated", "baseline"]
_FITTED = [*_EFFECTS, *_VARIANCES, *_DF, *_UNSCALED]


def _comparison_rows(
    bulk: AnnData,
    comparison: Comparison,
    features: Features,
    *,
    min_cells: int,
    min_count: int,
    min_genes: int,
) -> pd.DataFrame:
    """Fits of one comparison, sorted by feature and population."""
    data = gather(bulk, comparison, features.columns)
    tables = []
    for k, population in enumerate(data.populations):
        used, status = select_units(
            data.units, data.n_cells[:, k], paired=comparison.contrast.paired, min_cells=min_cells
        )
        if comparison.status == keys.CONFOUNDED:
            used, status = np.zeros(len(data.units), dtype=bool), keys.CONFOUNDED
        elif not (data.units["arm"] == BASELINE).any():
            used, status = np.zeros(len(data.units), dtype=bool), keys.TOO_FEW_SUBJECTS
        scores = expressed_scores(data, np.flatnonzero(used), k, features, min_count=min_count)
        Y = scores.by_unit
        table = _fits(Y, data.units[used], status=status)
        small = has_too_few_genes(scores, features, min_genes=min_genes)
        table.loc[small & (table["status"] == keys.OK), "status"] = keys.TOO_FEW_GENES
        if used.any():
            table.loc[~(Y > 0).any(axis=0), "status"] = keys.NOT_DETECTED
        table.loc[~features.measured, "status"] = keys.NOT_MEASURED
        table["kind"], table["feature"], table["population"] = (
            features.kinds,
            features.names,
            population,
        )
        table["_feature"] = np.arange(len(table))
        tables.append(table)
    rows = pd.concat(tables, ignore_index=True).sort_values(
        ["_feature", "population"], kind="stable"
    )
    rows.insert(0, "contrast", comparison.name)
    return rows


def _fits(Y: NDArray[np.float64], units: pd.DataFrame, *, status: str) -> pd.DataFrame:
    """Both effects of each response and what their covariance needs; empty without units."""
    table = pd.DataFrame(np.nan, index=range(Y.shape[1]), columns=_FITTED)
    table["status"] = status
    if not len(units):
        return table
    codes = pd.Index(_ARMS).get_indexer(pd.Index(units["arm"]))
    batch, subject = (
        pd.factorize(units[name], sort=True)[0] for name in (keys.BATCH, keys.SUBJECT)
    )
    fit = arm_effects(Y, codes, batch, subject)
    if fit is None:
        return table.assign(status=keys.CONFOUNDED)
    table[_EFFECTS], table[_VARIANCES] = fit.effects.T, fit.variances.T
    table[_DF], table[_UNSCALED] = fit.df, fit.unscaled.ravel()
    if status == keys.OK and np.nanmin(fit.df) < 1:
        table["status"] = keys.TOO_FEW_SUBJECTS
    return table


def _finish(table: pd.DataFrame) -> pd.DataFrame:
    """Ratio and interval of every row; the variances are moderated over each kind of feature."""
    without_interval = [keys.TOO_FEW_SUBJECTS, keys.TOO_FEW_CELLS, keys.TOO_FEW_GENES]
    given = table["status"].isin([keys.OK, *without_interval])
    baseline = table["baseline"].where(table["baseline"] != 0)
    table["reversal"] = (table["treated"] / baseline).where(given)
    table["ci_low"], table["ci_high"] = np.nan, np.nan
    for kind in table["kind"].unique():
        tested = ((table["status"] == keys.OK) & (table["kind"] == kind)).to_numpy()
        if not tested.any():
            continue
        effects, variances, df, unscaled = (
            table.loc[tested, columns].to_numpy(dtype=np.float64)
            for columns in (_EFFECTS, _VARIANCES, _DF, _UNSCALED)
        )
        effects = effects.T
        covariance, freedom = effect_covariance(
            effects,
            variances,
            unscaled.reshape(-1, N_COMPONENTS, 3),
            df,
            caution=CAUTION,
        )
        low, high = fieller_interval(effects, covariance, freedom)
        rows = table.index[tested]
        table.loc[rows, "ci_low"], table.loc[rows, "ci_high"] = low, high
        unbounded = rows[np.isnan(low)]
        table.loc[unbounded, "status"] = keys.NO_SHIFT_TO_REVERSE
        table.loc[unbounded, "reversal"] = np.nan
    return table
