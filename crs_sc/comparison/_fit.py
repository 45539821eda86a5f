"""The test that shifts and composition share: one design, many responses, one family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.comparison._linear import expected_variance, fit_arm, is_estimable, moderate
from crs_sc.comparison._permutation import permutation_test, smallest_p
from crs_sc.comparison.design import REFERENCE, TREATED, model_matrix, permutation_blocks
from crs_sc.core.stats import benjamini_hochberg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["CAUTION", "TESTED", "TEST_COLUMNS", "ArmTest", "finish", "test_arm", "withhold"]

# The prior of a table comes from a few dozen tests: their spread at its upper 95 % bound.
CAUTION = 2.0


@dataclass(frozen=True)
class ArmTest:
    """Treated against reference for the responses of one set of units.

    Attributes
    ----------
    columns
        estimate, variance, unscaled, df, pvalue_permutation, pvalue_floor, n_reference,
        n_treated, loo_low, loo_high; one row a response. Variance and both permutation columns are
        missing where there is no test.
    status
        That of the units, or what the fit found: `confounded`, `too_few_subjects`.
    """

    columns: pd.DataFrame
    status: str


def test_arm(
    Y: NDArray[np.float64],
    units: pd.DataFrame,
    *,
    paired: bool,
    status: str,
    random_state: int,
    weights: NDArray[np.float64] | None = None,  # noqa: PT028
) -> ArmTest:
    """Fit and permute one set of units.

    Parameters
    ----------
    Y
        Responses, shape `(n_units, n_tests)`.
    units
        Columns `subject`, `arm`, `batch`; reference and treated, at least one of each or nobody.
    paired
        Whether subjects are a factor.
    status
        Status so far: `ok` is tested, else at the most an estimate is given.
    random_state
        Seed of the permutations where they are drawn.
    weights
        Precision of each unit, shape `(n_units,)`, which must not depend on its arm. None: all
        alike.
    """
    columns = pd.DataFrame(np.nan, index=range(Y.shape[1]), columns=TEST_COLUMNS)
    columns["n_reference"] = int((units["arm"] == REFERENCE).sum())
    columns["n_treated"] = int((units["arm"] == TREATED).sum())
    if not len(units):
        return ArmTest(columns, status)
    nuisance, arm = model_matrix(units, paired=paired)
    if not is_estimable(arm, nuisance):
        return ArmTest(columns, keys.CONFOUNDED)
    fit = fit_arm(Y, arm, nuisance, weights=weights)
    columns["estimate"] = fit.estimate
    columns["loo_low"], columns["loo_high"] = _leave_one_out(
        Y, units, paired=paired, weights=weights
    )
    if status == keys.OK and fit.df < 1:
        status = keys.TOO_FEW_SUBJECTS
    if status != keys.OK:
        return ArmTest(columns, status)
    columns["variance"], columns["unscaled"], columns["df"] = fit.variance, fit.unscaled, fit.df
    blocks = permutation_blocks(units, paired=paired)
    if blocks is not None:
        rng = np.random.default_rng(random_state)
        responses = Y if weights is None else _weighted_residuals(Y, blocks, weights)
        columns["pvalue_permutation"] = permutation_test(responses, arm, blocks, rng=rng)
        columns["pvalue_floor"] = smallest_p(arm, blocks)
    return ArmTest(columns, status)


TEST_COLUMNS = [
    "estimate",
    "variance",
    "unscaled",
    "df",
    "pvalue_permutation",
    "pvalue_floor",
    "n_reference",
    "n_treated",
    "loo_low",
    "loo_high",
]


def _weighted_residuals(
    Y: NDArray[np.float64], blocks: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Distance of each unit to the weighted mean of its block, times its weight.

    Their sum over the treated is the score of the arm in weighted least squares; a unit keeps its
    weight when arms are exchanged, so that the permutation stays exact.
    """
    result = np.empty_like(Y)
    for block in np.unique(blocks):
        rows = blocks == block
        w = weights[rows, None]
        result[rows] = w * (Y[rows] - (w * Y[rows]).sum(axis=0) / w.sum())
    return result


def _leave_one_out(
    Y: NDArray[np.float64],
    units: pd.DataFrame,
    *,
    paired: bool,
    weights: NDArray[np.float64] | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Range of the estimate when each subject in turn is left out.

    A subject without whom there is no estimate (the only one of its arm) is not left out; with
    nobody to leave out the range is missing.
    """
    estimates = []
    for subject in sorted(units[keys.SUBJECT].unique()):
        rest = (units[keys.SUBJECT] != subject).to_numpy()
        if not {REFERENCE, TREATED} <= set(units.loc[rest, "arm"]):
            continue
        nuisance, arm = model_matrix(units[rest], paired=paired)
        if is_estimable(arm, nuisance):
            kept = None if weights is None else weights[rest]
            estimates.append(fit_arm(Y[rest], arm, nuisance, weights=kept).estimate)
    if not estimates:
        missing = np.full(Y.shape[1], np.nan)
        return missing, missing
    return np.min(estimates, axis=0), np.max(estimates, axis=0)


def finish(
    table: pd.DataFrame,
    families: NDArray[np.object_],
    *,
    caution: float = CAUTION,
    trust: float = np.inf,
    never_lower: bool = False,
) -> pd.DataFrame:
    """Add moderated p, interval and Hedges' g, and the adjusted p of the whole table.

    Parameters
    ----------
    table
        Columns of `ArmTest`, one row a test, and `counting` where the tests differ in what
        counting adds to their variance (see `expected_variance`).
    families
        Rows with the same entry share a prior variance, shape `(n_rows,)`.
    caution, trust, never_lower
        As in `squeeze`.

    Returns
    -------
    The table (its index unique) with pvalue, padj, ci_low, ci_high and hedges_g. With `counting`
    the variance is that over the expected one, and `unscaled` that many times its root.
    """
    result = table.copy()
    for name in ("pvalue", "ci_low", "ci_high", "hedges_g"):
        result[name] = np.nan
    tested = result["variance"].notna().to_numpy()
    for family in dict.fromkeys(families):
        rows = np.flatnonzero(tested & (families == family))
        if not len(rows):
            continue
        scale = np.ones(len(rows))
        if "counting" in result:
            part = result.iloc[rows]
            scale = expected_variance(part["variance"], part["df"], part["counting"])
            result.loc[result.index[rows], "variance"] /= scale
            result.loc[result.index[rows], "unscaled"] *= np.sqrt(scale)
        part = result.iloc[rows]
        tests = moderate(
            part["estimate"],
            part["variance"],
            part["unscaled"],
            part["df"],
            caution=caution,
            trust=trust,
            never_lower=never_lower,
        )
        for name in ("pvalue", "ci_low", "ci_high", "hedges_g"):
            result.loc[result.index[rows], name] = getattr(tests, name)
        result.loc[result.index[rows], "hedges_g"] /= np.sqrt(scale)
    result["padj"] = benjamini_hochberg(result["pvalue"])
    return result


# What makes a row a test; the rest of its numbers is an estimate.
TESTED = ("variance", "pvalue_permutation", "pvalue_floor")
_COMPUTED = ("estimate", *TESTED, "loo_low", "loo_high")


def withhold(
    table: pd.DataFrame,
    rows: NDArray[np.bool_],
    status: str,
    *,
    columns: Sequence[str] = _COMPUTED,
) -> None:
    """Give rows a status and take away what was computed."""
    table.loc[rows, list(columns)] = np.nan
    table.loc[rows, "status"] = status
