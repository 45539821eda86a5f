"""Reversal: how far a drug brings a response back to baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc._stats import bootstrap_expansion
from crs_sc.comparison._units import (
    check_bulk,
    check_min_cells,
    find_features,
    gather,
    select_units,
)
from crs_sc.comparison.design import BASELINE, REFERENCE, TREATED, expand_contrasts
from crs_sc.errors import InputError

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
    n_bootstrap: int = 2000,
    random_state: int = 0,
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
        A gene counts where it has this many UMI beyond the soup in as many units as the smallest
        arm has, and more over all units than the soup explains.
    n_bootstrap
        Resamplings of subjects, within the arms (a subject of several arms goes as one).
    random_state
        Seed of the bootstrap.

    Returns
    -------
    DataFrame with the columns of `keys.REVERSAL_TABLE`, a row for every contrast with a baseline
    (and time point), signature and gene, and population; interval: 95 % percentiles over the
    resamplings, widened for the small number of subjects (Hesterberg 2015). Where there is no
    answer the status says why: as in `shifts`, and

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
    if n_bootstrap < 1:
        msg = f"n_bootstrap must be at least 1, got {n_bootstrap!r}."
        raise InputError(msg)
    features = find_features(bulk, signatures=signatures, genes=genes)
    wanted = [contrast for contrast in contrasts if contrast.baseline is not None]
    tables = [
        _comparison_rows(
            bulk,
            comparison,
            features,
            min_cells=min_cells,
            min_count=min_count,
            n_bootstrap=n_bootstrap,
            random_state=random_state,
        )
        for comparison in expand_contrasts(wanted, bulk.obs)
    ]
    if not tables or not features.names:
        return pd.DataFrame(columns=keys.REVERSAL_TABLE.names)
    return pd.concat(tables, ignore_index=True)[keys.REVERSAL_TABLE.names]


def _comparison_rows(
    bulk: AnnData,
    comparison: Comparison,
    features: Features,
    *,
    min_cells: int,
    min_count: int,
    n_bootstrap: int,
    random_state: int,
) -> pd.DataFrame:
    """Rows of one comparison, sorted by feature and population."""
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
        Y = data.responses(np.flatnonzero(used), k, features, min_count=min_count)
        table = pd.DataFrame({"feature": features.names, "population": population})
        table["_feature"] = np.arange(len(table))
        values, statuses = _reversals(
            Y,
            data.units[used].reset_index(drop=True),
            status=status,
            n_bootstrap=n_bootstrap,
            rng=np.random.default_rng(random_state),
        )
        if used.any():
            statuses[~(Y > 0).any(axis=0)] = keys.NOT_DETECTED
        statuses[~features.measured] = keys.NOT_MEASURED
        given = np.isin(statuses, [keys.OK, keys.TOO_FEW_SUBJECTS, keys.TOO_FEW_CELLS])
        for name, column in zip(("reversal", "ci_low", "ci_high"), values, strict=True):
            table[name] = np.where(given, column, np.nan)
        table["status"] = statuses
        tables.append(table)
    rows = pd.concat(tables, ignore_index=True).sort_values(
        ["_feature", "population"], kind="stable"
    )
    rows.insert(0, "contrast", comparison.name)
    return rows.drop(columns="_feature")


def _reversals(
    Y: NDArray[np.float64],
    units: pd.DataFrame,
    *,
    status: str,
    n_bootstrap: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.object_]]:
    """Reversal and interval of each response, shape `(3, n_tests)`, and their statuses."""
    values = np.full((3, Y.shape[1]), np.nan)
    statuses = np.full(Y.shape[1], status, dtype=object)
    if not len(units):
        return values, statuses
    design = _arm_and_batch(units)
    point = arm_effects(Y, design, np.ones((1, len(units))))[0]
    if np.isnan(point).all():
        return values, np.full(Y.shape[1], keys.CONFOUNDED, dtype=object)
    values[0] = _ratio(point)
    if status != keys.OK:
        return values, statuses
    weights = subject_weights(units, n_bootstrap=n_bootstrap, rng=rng)
    drawn = point + _expansion(units) * (arm_effects(Y, design, weights) - point)
    low, high = np.nanpercentile(drawn[:, 1], [2.5, 97.5], axis=0)
    clear = (low > 0) | (high < 0)
    statuses[~clear] = keys.NO_SHIFT_TO_REVERSE
    values[1:, clear] = np.nanpercentile(_ratio(drawn[:, :, clear]), [2.5, 97.5], axis=0)
    return values, statuses


def _expansion(units: pd.DataFrame) -> float:
    """Widen for few subjects; degrees of freedom are those of the arms.

    Where subjects run through several arms they are those of the subjects.
    """
    n_subjects, n_arms = units[keys.SUBJECT].nunique(), units["arm"].nunique()
    shared = len(units) > n_subjects
    df = n_subjects - 1 if shared else n_subjects - n_arms
    return bootstrap_expansion(len(units) / n_arms, df)


def _ratio(effects: NDArray[np.float64]) -> NDArray[np.float64]:
    """Numerator over denominator; missing where the denominator is exactly 0."""
    numerator, denominator = effects[..., 0, :], effects[..., 1, :]
    safe = np.where(denominator == 0, np.nan, denominator)
    return np.asarray(numerator / safe)


def _arm_and_batch(units: pd.DataFrame) -> NDArray[np.float64]:
    """Build indicators of the three arms and all batches but the first, a row a unit."""
    batches = sorted(units[keys.BATCH].unique())[1:]
    columns = [units["arm"] == arm for arm in _ARMS]
    columns += [units[keys.BATCH] == batch for batch in batches]
    return np.column_stack([c.to_numpy(dtype=np.float64) for c in columns])


def arm_effects(
    Y: NDArray[np.float64], design: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weighted least squares for many weightings at once.

    Parameters
    ----------
    Y
        Responses, shape `(n_units, n_tests)`.
    design
        Columns baseline, reference, treated, then batches, shape `(n_units, n_columns)`.
    weights
        How often each unit was drawn, shape `(n_draws, n_units)`.

    Returns
    -------
    treated - reference and baseline - reference, shape `(n_draws, 2, n_tests)`; missing where the
    drawn units cannot tell arm from batch.
    """
    normal = np.einsum("bn,np,nq->bpq", weights, design, design)
    inverse = np.linalg.pinv(normal, hermitian=True)
    wanted = np.zeros((2, design.shape[1]))
    wanted[0, [2, 1]] = 1, -1
    wanted[1, [0, 1]] = 1, -1
    rows = wanted @ inverse
    estimable = np.isclose(rows @ normal, wanted, atol=1e-8).all(axis=(1, 2))
    # (b, 2, p) x (p, n) weighted by b, then the responses: never a draws x units x tests array.
    hat = (rows @ design.T) * weights[:, None, :]
    effects = hat @ Y
    effects[~estimable] = np.nan
    return np.asarray(effects)


def subject_weights(
    units: pd.DataFrame, *, n_bootstrap: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """How often each unit is drawn when subjects are, shape `(n_bootstrap, n_units)`.

    Subjects are drawn with replacement among those of the same arms, so that every resampling has
    as many subjects in each arm as the study, and a pair stays a pair.

    Parameters
    ----------
    units
        Columns `subject` and `arm`.
    n_bootstrap
        Number of resamplings.
    rng
        Source of chance.
    """
    arms = units.groupby(keys.SUBJECT, sort=True)["arm"].agg(lambda a: "|".join(sorted(a)))
    weights = np.zeros((n_bootstrap, len(units)))
    for pattern in sorted(arms.unique()):
        subjects = arms.index[arms == pattern]
        n = len(subjects)
        drawn = rng.multinomial(n, np.full(n, 1 / n), size=n_bootstrap)
        for j, subject in enumerate(subjects):
            weights[:, (units[keys.SUBJECT] == subject).to_numpy()] = drawn[:, [j]]
    return weights
