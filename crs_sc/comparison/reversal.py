"""Reversal: how far a drug brings a response back to baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from crs_sc import keys
from crs_sc.comparison.design import BASELINE, REFERENCE, TREATED, indicators
from crs_sc.comparison.linear_model import CAUTION, residual_maker, squeeze
from crs_sc.comparison.units import (
    check_bulk,
    check_positive,
    compare,
    feature_rows,
    find_features,
    sorted_rows,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import ArrayLike, NDArray

    from crs_sc.comparison.design import Contrast

    Floats = NDArray[np.float64]

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
    signatures, genes
        Name and genes of each signature, and single genes.
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

    Examples
    --------
    >>> import crs_sc as crs
    >>> cohort = crs.datasets.toy_cohort()
    >>> arm = cohort.obs["condition"].astype(str)
    >>> treated = cohort.obs["subject"].astype(str).str[-1].isin(["3", "4"]) & (arm == "CART")
    >>> cohort.obs["condition"] = arm.mask(treated, "drug")
    >>> bulk = crs.tl.pseudobulk(cohort)
    >>> drug = crs.Contrast(name="drug", treated="drug", reference="CART", baseline="vehicle")
    >>> table = crs.tl.reversal(bulk, contrasts=[drug], signatures={}, genes=["IL6"])
    """
    check_bulk(bulk)
    check_positive(min_cells=min_cells)
    features = find_features(
        bulk, signatures=signatures, genes=genes, min_count=min_count, min_genes=min_genes
    )
    wanted = [contrast for contrast in contrasts if contrast.baseline is not None]
    tables = []
    for one in compare(bulk, wanted, columns=features.columns, min_cells=min_cells, baseline=True):
        scores = one.scores(features)
        table = _fits(scores.by_unit, one.units, status=one.status)
        table["contrast"] = one.comparison.name
        tables.append(
            feature_rows(table, features, scores, population=one.population, order=one.order)
        )
    if not tables or not features.names:
        return pd.DataFrame(columns=keys.REVERSAL_TABLE.names)
    return _finish(sorted_rows(tables))[keys.REVERSAL_TABLE.names]


# What a row carries until the variances of its family are known: of each component of the
# variance its size, its degrees of freedom, and what it adds to the covariance of the effects.
_N_COMPONENTS = 3
_VARIANCES = [f"variance_{k}" for k in range(_N_COMPONENTS)]
_DF = [f"df_{k}" for k in range(_N_COMPONENTS)]
_UNSCALED = [f"unscaled_{k}_{entry}" for k in range(_N_COMPONENTS) for entry in range(3)]
_EFFECTS = ["treated", "baseline"]
_FITTED = [*_EFFECTS, *_VARIANCES, *_DF, *_UNSCALED]


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
            effects, variances, unscaled.reshape(-1, _N_COMPONENTS, 3), df, caution=CAUTION
        )
        low, high = fieller_interval(effects, covariance, freedom)
        rows = table.index[tested]
        table.loc[rows, "ci_low"], table.loc[rows, "ci_high"] = low, high
        unbounded = rows[np.isnan(low)]
        table.loc[unbounded, "status"] = keys.NO_SHIFT_TO_REVERSE
        table.loc[unbounded, "reversal"] = np.nan
    return table


class ArmEffects(NamedTuple):
    """Treated less reference and baseline less reference, and what their covariance needs.

    `effects` are `(2, n_tests)`. `variances`, `(3, n_tests)`, are components of the variance of a
    unit: of each arm; or, of subjects that are seen in several arms, that within subjects, and in
    all where it counts; missing where there is none. `unscaled`, `(3, 3)`, is what a component of 1
    adds to (var treated, cov, var baseline), and `df` their degrees of freedom.
    """

    effects: Floats
    variances: Floats
    unscaled: Floats
    df: Floats


def arm_effects(
    Y: Floats, arms: NDArray[np.int64], batch: NDArray[np.int64], subject: NDArray[np.int64]
) -> ArmEffects | None:
    """Both effects by least squares; None where batches cannot be told from arms.

    Each arm has a variance of its own: a response that is low in one arm is counted from fewer
    UMI there. Subjects that are seen in several arms are factors of the model where that leaves
    both effects to be estimated. Where it does not (pairs of reference and treated, a baseline of
    others), the units of a subject share a variance component. Arms are 0 baseline, 1 reference,
    2 treated; batch and subject are codes, each `(n_units,)`.
    """
    plain = np.hstack([np.eye(3)[arms], indicators(batch)[:, 1:]])
    factors = indicators(subject)
    blocked = np.hstack([plain, factors])
    repeated = factors.shape[1] < len(Y)
    rows = _effect_rows(blocked) if repeated else None
    mixed = repeated and rows is None
    rows = _effect_rows(plain) if rows is None else rows
    if rows is None:
        return None
    whole = _triangle(rows @ rows.T)
    if not repeated:
        members = [arms == arm for arm in range(3)]
        parts = [(*_variance(Y, plain, m), _triangle(rows[:, m] @ rows[:, m].T))
                 for m in members]  # fmt: skip
    else:
        within, df = _variance(Y, blocked, np.ones(len(Y), dtype=bool))
        parts = [(within, df, whole)]
    if mixed:
        same = factors @ factors.T
        M = residual_maker(plain)
        rest = ((M @ Y) * Y).sum(axis=0) - within * np.trace(M)
        total = within + np.maximum(rest / np.trace(M @ same), 0.0)
        shared = _triangle(rows @ same @ rows.T)
        parts = [(within, df, whole - shared), (total, min(df, factors.shape[1] - 3), shared)]
    variances = np.full((_N_COMPONENTS, Y.shape[1]), np.nan)
    unscaled, degrees = np.zeros((_N_COMPONENTS, 3)), np.full(_N_COMPONENTS, np.nan)
    for k, (variance, freedom, scale) in enumerate(parts):
        variances[k], degrees[k], unscaled[k] = variance, freedom, scale
    return ArmEffects(rows @ Y, variances, unscaled, degrees)


def _variance(Y: Floats, design: Floats, members: NDArray[np.bool_]) -> tuple[Floats, float]:
    """Residual variance of some units, and its degrees of freedom: what the design leaves them.

    Missing where there are none.
    """
    M = residual_maker(design)
    df = float(np.diag(M)[members].sum())
    df = round(df) if members.all() else df
    if df < 1 - 1e-9:
        return np.full(Y.shape[1], np.nan), 0.0
    variance = ((M @ Y)[members] ** 2).sum(axis=0) / df
    # What is left of a response without spread is rounding, not variance.
    return np.where(variance <= 1e-24 * (Y**2).mean(axis=0), 0.0, variance), df


def _effect_rows(design: Floats) -> Floats | None:
    """Weights of the units in both effects, shape `(2, n_units)`; None if not estimable."""
    wanted = np.zeros((2, design.shape[1]))
    wanted[0, [2, 1]] = 1, -1
    wanted[1, [0, 1]] = 1, -1
    inverse = np.linalg.pinv(design)
    if not np.allclose(wanted @ inverse @ design, wanted, atol=1e-8):
        return None
    return np.asarray(wanted @ inverse)


def _triangle(matrix: Floats) -> Floats:
    return np.array([matrix[0, 0], matrix[0, 1], matrix[1, 1]])


def effect_covariance(
    effects: Floats, variances: Floats, unscaled: Floats, df: Floats, *, caution: float
) -> tuple[Floats, Floats]:
    """Covariances (var treated, cov, var baseline) of a family of tests, and degrees of freedom.

    Arguments as the fields of `ArmEffects`, the tests along the first axis but for the effects.
    Each component is moderated over the tests by itself.
    """
    # Degrees of freedom of Satterthwaite for treated - R baseline, at the estimate of the ratio R.
    ratio = effects[0] / np.where(effects[1] == 0, np.nan, effects[1])
    combination = np.column_stack([np.ones_like(ratio), -2 * ratio, ratio**2])
    covariance = np.zeros((len(ratio), 3))
    total, spread = np.zeros(len(ratio)), np.zeros(len(ratio))
    for k in range(variances.shape[1]):
        rows = np.flatnonzero(np.isfinite(df[:, k]))
        if not len(rows):
            continue
        squeezed = squeeze(variances[rows, k], df[rows, k], caution=caution)
        added = squeezed.variance[:, None] * unscaled[rows, k]
        covariance[rows] += added
        share = (added * combination[rows]).sum(axis=1)
        total[rows] += share
        spread[rows] += share**2 / squeezed.df
    with np.errstate(invalid="ignore", divide="ignore"):
        return covariance, total**2 / spread


def fieller_interval(
    effects: Floats, covariance: Floats, df: ArrayLike, *, level: float = 0.95
) -> tuple[Floats, Floats]:
    """Interval of treated over baseline (Fieller 1954); missing where it is not one.

    All ratios R for which treated - R baseline is compatible with zero. That is an interval where
    the baseline effect itself differs from zero at the same level, and else no bounded set.
    """
    # (T - R B)^2 <= t^2 (V_T - 2 R C + R^2 V_B), a quadratic a R^2 - 2 b R + c <= 0 in R.
    treated, baseline = effects
    t2 = stats.t.ppf(0.5 + level / 2, np.asarray(df, dtype=np.float64)) ** 2
    a = baseline**2 - t2 * covariance[:, 2]
    b = treated * baseline - t2 * covariance[:, 1]
    c = treated**2 - t2 * covariance[:, 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        bounded = a > 0
        root = np.sqrt(np.maximum(b**2 - a * c, 0.0))
        low = np.where(bounded, (b - root) / a, np.nan)
        high = np.where(bounded, (b + root) / a, np.nan)
    return low, high
