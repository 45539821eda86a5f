"""Composition: more or fewer cells of a population, on the logit of its share."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.comparison.design import (
    BASELINE,
    REFERENCE,
    TREATED,
    expand_contrasts,
    is_estimable,
    model_matrix,
)
from crs_sc.comparison.linear_model import finish, residual_maker, test_arm
from crs_sc.comparison.units import absent_arms, check_bulk, check_positive, gather

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import ArrayLike, NDArray

    from crs_sc.comparison.design import Comparison, Contrast

    Floats = NDArray[np.float64]

__all__ = ["composition"]


def composition(
    bulk: AnnData, *, contrasts: Sequence[Contrast], min_cells: int = 5, random_state: int = 0
) -> pd.DataFrame:
    """Test the share of each population among the cells of a subject.

    Least squares on the logit of the share, with the design, permutation and correction of
    `shifts`. Each subject has the precision that its number of cells gives it: the variance of a
    logit is that between subjects, common to all populations, and that of counting the cells. The
    residual variances are moderated with caution, since there are few populations and they differ:
    the prior weighs at most as much as a test itself, and no variance is lowered.

    Parameters
    ----------
    bulk
        From `pseudobulk`.
    contrasts
        What to compare.
    min_cells
        A unit is a replicate for a population if it should have at least this many cells of it,
        and as many others, going by the share over all units; arms are not told apart in that.
    random_state
        Seed, used only where there are too many permutations to list.

    Returns
    -------
    DataFrame with the columns of `keys.COMPOSITION_TABLE`, a row for every contrast (and time
    point) and population. A population that one arm lacks altogether is tested all the same and
    its status says `absent_in_reference` or `absent_in_treated`. Where there is no test the status
    says why:

    - `too_few_cells`: fewer than two units of an arm are replicates (none: no estimate either);
    - `only_population`: there are no other cells for it to be a share of;
    - `too_few_subjects`: the arm has one subject: an estimate and no p; or none;
    - `confounded`: batch and condition cannot be told apart.

    Raises
    ------
    DesignError
        As in `shifts`.
    InputError
        If `min_cells` is below 1.

    Notes
    -----
    Shares add up to one: when one population grows, the others shrink. With absolute counts as
    sampling weights the shares are those of the specimen, and still shares.

    Examples
    --------
    >>> import crs_sc as crs
    >>> bulk = crs.tl.pseudobulk(crs.datasets.toy_cohort())
    >>> cart = crs.Contrast(name="cart", treated="CART", reference="vehicle")
    >>> table = crs.tl.composition(bulk, contrasts=[cart])
    """
    check_bulk(bulk)
    check_positive(min_cells=min_cells)
    tables = [
        _comparison_rows(bulk, c, min_cells=min_cells, random_state=random_state)
        for c in expand_contrasts(contrasts, bulk.obs)
    ]
    if not tables:
        return pd.DataFrame(columns=keys.COMPOSITION_TABLE.names)
    table = pd.concat(tables, ignore_index=True)
    family = np.zeros(len(table), dtype=object)
    table = finish(table, family, trust=1.0, never_lower=True)
    return table[keys.COMPOSITION_TABLE.names]


class _Replicates(NamedTuple):
    """One population: its replicates, their logits and counting variances, and the status."""

    used: NDArray[np.bool_]
    logit: NDArray[np.float64]
    noise: NDArray[np.float64]
    status: str


def _comparison_rows(
    bulk: AnnData, comparison: Comparison, *, min_cells: int, random_state: int
) -> pd.DataFrame:
    """Rows of one comparison, one a population."""
    data = gather(bulk, comparison, columns=np.zeros(0, dtype=np.int64))
    tested = (data.units["arm"] != BASELINE).to_numpy()
    units = data.units[tested].reset_index(drop=True)
    n_cells, n_total = data.n_cells[tested], data.n_cells_total[tested]
    share = data.share[tested]
    replicates = [
        _replicates(
            units, n_cells[:, k], n_total[:, k], share[:, k], comparison, min_cells=min_cells
        )
        for k in range(len(data.populations))
    ]
    paired = comparison.contrast.paired
    between = _between(replicates, units, paired=paired)
    tables = []
    for k, (population, each) in enumerate(zip(data.populations, replicates, strict=True)):
        table = test_arm(
            each.logit[:, None],
            units[each.used].reset_index(drop=True),
            paired=paired,
            status=each.status,
            random_state=random_state,
            weights=np.asarray(1 / (between + each.noise)),
        )
        table.insert(0, "contrast", comparison.name)
        table.insert(1, "population", population)
        for name, arm in (("share_reference", REFERENCE), ("share_treated", TREATED)):
            rows = (units["arm"] == arm).to_numpy()
            table[name] = share[rows, k].mean() if rows.any() else np.nan
        absent = absent_arms(units, n_cells[:, k])
        if absent and table["status"].iloc[0] == keys.OK:
            table["status"] = absent[0]
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _replicates(
    units: pd.DataFrame,
    n_cells: NDArray[np.int64],
    n_total: NDArray[np.int64],
    share: NDArray[np.float64],
    comparison: Comparison,
    *,
    min_cells: int,
) -> _Replicates:
    """Replicates of a population and what can be said with them."""
    expected = n_total * (int(n_cells.sum()) / max(int(n_total.sum()), 1))
    used = np.minimum(expected, n_total - expected) >= min_cells
    if comparison.contrast.paired:
        both = units.loc[used].groupby(keys.SUBJECT)["arm"].nunique() == 2
        used &= units[keys.SUBJECT].isin(both.index[both]).to_numpy()
    arms = [(units["arm"] == arm).to_numpy() for arm in (REFERENCE, TREATED)]
    left = min(int((used & arm).sum()) for arm in arms)
    status = comparison.status
    if status != keys.CONFOUNDED and not min(int(arm.sum()) for arm in arms):
        status = keys.TOO_FEW_SUBJECTS
    elif status == keys.OK and left < 2:
        status = keys.ONLY_POPULATION if n_cells.sum() == n_total.sum() else keys.TOO_FEW_CELLS
    if left == 0 or status == keys.CONFOUNDED:
        used = np.zeros(len(units), dtype=bool)
        if status == keys.OK:
            status = keys.TOO_FEW_CELLS
    return _Replicates(
        used,
        logit_share(share[used], n_total[used]),
        counting_variance(expected[used], n_total[used]),
        status,
    )


def logit_share(share: ArrayLike, n_total: ArrayLike) -> Floats:
    """Logit of a share among so many cells, half a cell added to either side: finite at 0 and 1."""
    p, n = np.asarray(share, dtype=np.float64), np.asarray(n_total, dtype=np.float64)
    return np.asarray(np.log((p * n + 0.5) / ((1 - p) * n + 0.5)))


def counting_variance(expected: ArrayLike, n_total: ArrayLike) -> Floats:
    """Binomial variance of the logit of a share, 1 / k + 1 / (n - k) for k expected of n cells.

    By the cells that a unit should have, not by those that it has: a unit would otherwise lose
    precision by chance, and the more so the lower its share came out.
    """
    k, n = np.asarray(expected, dtype=np.float64), np.asarray(n_total, dtype=np.float64)
    return np.asarray(1 / k + 1 / (n - k))


def between_variance(
    logit: Floats, noise: Floats, arm: NDArray[np.bool_], nuisance: Floats
) -> float:
    """Variance between subjects by moments: the residual one less that of counting (`noise`).

    Can be below zero by chance; missing without residual degrees of freedom.
    """
    # With M the residual maker, E[y'My] = tr(M) between + sum_i M_ii noise_i.
    M = residual_maker(np.column_stack([nuisance, arm]))
    df = round(float(np.trace(M)))
    if df < 1:
        return float("nan")
    return float((logit @ M @ logit - np.diag(M) @ noise) / df)


def _between(replicates: list[_Replicates], units: pd.DataFrame, *, paired: bool) -> float:
    """Median over the populations that are tested; 0 where there is no more than counting noise."""
    estimates = []
    for each in replicates:
        if each.status == keys.OK:
            nuisance, arm = model_matrix(units[each.used], paired=paired)
            if is_estimable(arm, nuisance):
                estimates.append(between_variance(each.logit, each.noise, arm, nuisance))
    known = [estimate for estimate in estimates if np.isfinite(estimate)]
    return max(float(np.median(np.array(known))), 0.0) if known else 0.0
