"""The one linear model of all tests: least squares, moderated variances, permutation of arms."""

from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

from crs_sc import keys
from crs_sc.comparison.design import (
    REFERENCE,
    TREATED,
    basis,
    is_estimable,
    model_matrix,
    permutation_blocks,
)
from crs_sc.core.stats import benjamini_hochberg

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]

# The prior of a table comes from a few dozen tests: their spread at its upper 95 % bound.
CAUTION = 2.0


class LinearFit(NamedTuple):
    """Arm effect (treated less reference) of each response, shape `(n_tests,)`.

    `variance` is the residual variance, missing without degrees of freedom `df`; `unscaled` is the
    standard error of the estimate over the residual sd, the same for all responses.
    """

    estimate: Floats
    variance: Floats
    unscaled: float
    df: int


def residual_maker(design: Floats) -> Floats:
    """Projection that leaves what a design cannot explain, `(n_units, n_units)`."""
    Q = basis(design)
    return np.asarray(np.eye(len(design)) - Q @ Q.T)


def fit_arm(Y: Floats, arm: Flags, nuisance: Floats, *, weights: Floats | None = None) -> LinearFit:
    """Least squares of each response `(n_units, n_tests)` on the arm and the nuisance columns.

    `weights` are precisions of the units; the residual variance is then that of a unit of weight 1.
    The arm must be estimable.
    """
    # Frisch, Waugh and Lovell: with z and R the arm and the responses freed of the nuisance
    # columns, estimate = z'R / z'z and unscaled = 1 / sqrt(z'z).
    root = np.ones(len(arm)) if weights is None else np.sqrt(weights)
    Y = Y * root[:, None]
    Q = basis(nuisance * root[:, None])
    z = arm * root
    z = z - Q @ (Q.T @ z)
    R = Y - Q @ (Q.T @ Y)
    norm = float(z @ z)
    estimate = (z @ R) / norm
    residual = R - np.outer(z, estimate)
    df = len(arm) - Q.shape[1] - 1
    variance = (residual**2).sum(axis=0) / df if df > 0 else np.full(Y.shape[1], np.nan)
    # What is left of a response without spread is rounding, not variance.
    scale = (Y**2).mean(axis=0)
    variance = np.where(variance <= 1e-24 * scale, 0.0, variance)
    return LinearFit(estimate, variance, 1 / np.sqrt(norm), df)


def fit_unless_aliased(
    Y: Floats, arm: Flags, nuisance: Floats, *, weights: Floats | None = None
) -> LinearFit | None:
    """Fit the arm; None where it is a combination of the nuisance columns, or nobody is left."""
    if not len(arm) or not is_estimable(arm, nuisance):
        return None
    return fit_arm(Y, arm, nuisance, weights=weights)


def _trigamma_inverse(y: float) -> float:
    """Solve trigamma(x) = y by Newton's method on 1 / trigamma (Smyth 2004, appendix)."""
    if y > 1e7:
        return float(1 / np.sqrt(y))
    if y < 1e-6:
        return 1 / y
    x = 0.5 + 1 / y
    for _ in range(50):
        trigamma = float(special.polygamma(1, x))
        step = trigamma * (1 - trigamma / y) / float(special.polygamma(2, x))
        x += step
        if -step / x < 1e-8:
            break
    return x


def fit_prior(variance: ArrayLike, df: ArrayLike, *, caution: float = 0.0) -> tuple[float, float]:
    """Prior degrees of freedom and prior variance of the residual variances of a family of tests.

    Degrees of freedom of 0 mean fewer than two tests (no moderation), infinite ones that the
    variances spread no more than chance makes them. `caution` is the number of standard errors
    that are added to the spread of the log variances before it is read as degrees of freedom:
    limma adds none and takes the prior as known, which it is with thousands of genes; with a few
    dozen tests false calls come of it.
    """
    # Smyth 2004 (Stat Appl Genet Mol Biol 3:3), as limma's fitFDist: s2 ~ s0^2 F(d, d0), so that
    # e = log s2 - digamma(d/2) + log(d/2) has mean log s0^2 - digamma(d0/2) + log(d0/2) and
    # variance trigamma(d/2) + trigamma(d0/2).
    s2, d = np.broadcast_arrays(
        np.asarray(variance, dtype=np.float64), np.asarray(df, dtype=np.float64)
    )
    used = np.isfinite(s2) & (s2 > 0) & (d > 0)
    s2, d = s2[used], d[used]
    if len(s2) < 2:
        return 0.0, np.nan
    s2 = np.maximum(s2, 1e-5 * np.median(s2))
    e = np.log(s2) - special.digamma(d / 2) + np.log(d / 2)
    error = np.sqrt(2 / (len(e) - 1)) * e.var(ddof=1)
    spread = float(e.var(ddof=1) - special.polygamma(1, d / 2).mean() + caution * error)
    if spread <= 0:
        return np.inf, float(s2.mean())
    prior_df = 2 * _trigamma_inverse(spread)
    prior = np.exp(e.mean() + special.digamma(prior_df / 2) - np.log(prior_df / 2))
    return prior_df, float(prior)


# Two numbers are read from the variances; from fewer tests they would be noise.
_MIN_TREND = 10


def expected_variance(variance: ArrayLike, df: ArrayLike, counting: ArrayLike) -> Floats:
    """Residual variance that each test should have: a + b * counting, with a and b at least 0.

    A score of few UMI varies more than one of many, so that one prior for both is too small for
    the first and too large for the second. `counting` is the variance that counting alone gives a
    unit, up to a factor, missing where it is not asked for. All 1 with fewer than ten usable tests.
    """
    # Maximum likelihood, the variances being scaled chi-squares about their expectation, by
    # iteratively reweighted non-negative least squares.
    s2, d, c = np.broadcast_arrays(
        *(np.asarray(a, dtype=np.float64) for a in (variance, df, counting))
    )
    used = np.isfinite(s2) & np.isfinite(c) & (d > 0)
    if used.sum() < _MIN_TREND or not s2[used].any():
        return np.ones(s2.shape)
    terms = np.column_stack([np.ones(s2.shape), np.where(used, c, 0.0)])
    mean = float(s2[used].mean())
    fitted = np.full(s2.shape, mean)
    for _ in range(100):
        weight = np.sqrt(d[used]) / fitted[used]
        line, _ = optimize.nnls(terms[used] * weight[:, None], s2[used] * weight)
        before, fitted = fitted, np.maximum(terms @ line, 1e-3 * mean)
        if np.allclose(before, fitted, rtol=1e-8, atol=0):
            break
    return fitted


class Squeezed(NamedTuple):
    """Variances shrunk towards their prior (missing where not positive), and their total df."""

    variance: Floats
    df: Floats
    prior_df: float
    prior_variance: float


def squeeze(
    variance: ArrayLike,
    df: ArrayLike,
    *,
    caution: float = 0.0,
    trust: float = np.inf,
    never_lower: bool = False,
) -> Squeezed:
    """Shrink the residual variances of a family of tests towards a common prior.

    `caution` as in `fit_prior`; the prior weighs at most `trust` times as much as the test itself;
    with `never_lower` a variance stays that is above its posterior. The defaults are limma's.
    """
    # Smyth 2004: posterior = (d0 s0^2 + d s^2) / (d0 + d) with d0 + d degrees of freedom, at most
    # those of all tests together (as in limma). A variance of zero is replaced by the prior's share
    # alone; without a prior there is none.
    s2, d = np.broadcast_arrays(
        np.asarray(variance, dtype=np.float64), np.asarray(df, dtype=np.float64)
    )
    prior_df, prior = fit_prior(s2, d, caution=caution)
    pooled = float(np.where(np.isfinite(s2), d, 0.0).sum())
    weight = np.minimum(prior_df, trust * d)
    if prior_df == 0:
        posterior, total = s2, d
    elif np.isinf(weight).all():
        posterior, total = np.full(s2.shape, prior), np.full(s2.shape, pooled)
    else:
        posterior = (weight * prior + d * s2) / (weight + d)
        total = np.minimum(weight + d, pooled)
    if never_lower:
        posterior = np.maximum(posterior, s2)
    posterior = np.where(posterior > 0, posterior, np.nan)
    return Squeezed(posterior, total, prior_df, prior)


def hedges_correction(df: ArrayLike) -> NDArray[np.float64]:
    """Exact small-sample factor J of Hedges 1981; missing below two degrees of freedom."""
    d = np.asarray(df, dtype=np.float64)
    safe = np.where(d > 1, d, np.nan)
    log_j = special.gammaln(safe / 2) - special.gammaln((safe - 1) / 2) - 0.5 * np.log(safe / 2)
    return np.asarray(np.exp(log_j), dtype=np.float64)


class Moderated(NamedTuple):
    """Moderated tests, all arrays of shape `(n_tests,)`.

    Hedges' g is the estimate over the unmoderated residual sd. `posterior_sd` and `total_df` are
    what p and interval rest on.
    """

    pvalue: Floats
    ci_low: Floats
    ci_high: Floats
    hedges_g: Floats
    posterior_sd: Floats
    total_df: Floats
    prior_df: float
    prior_variance: float


def moderate(
    estimate: ArrayLike,
    variance: ArrayLike,
    unscaled: ArrayLike,
    df: ArrayLike,
    *,
    caution: float = 0.0,
    trust: float = np.inf,
    never_lower: bool = False,
) -> Moderated:
    """Moderated t (Smyth 2004), two-sided p, 95 % interval and Hedges' g of a family of tests.

    Arguments as the fields of `LinearFit`, one entry a test, and as those of `squeeze`. A test
    whose variance is zero is judged by the prior alone; without a prior it has no p.
    """
    b, s2, u, d = np.broadcast_arrays(
        *(np.asarray(a, dtype=np.float64) for a in (estimate, variance, unscaled, df))
    )
    squeezed = squeeze(s2, d, caution=caution, trust=trust, never_lower=never_lower)
    sd = np.sqrt(squeezed.variance)
    se = u * sd
    half = stats.t.ppf(0.975, squeezed.df) * se
    unmoderated = np.sqrt(np.where(s2 > 0, s2, np.nan))
    return Moderated(
        pvalue=2 * stats.t.sf(np.abs(b) / se, squeezed.df),
        ci_low=b - half,
        ci_high=b + half,
        hedges_g=b / unmoderated * hedges_correction(d),
        posterior_sd=sd,
        total_df=squeezed.df,
        prior_df=squeezed.prior_df,
        prior_variance=squeezed.prior_variance,
    )


# Exact permutation of arms within blocks. One scheme serves every design: without pairs a block is
# a batch (or everybody); with pairs it is a subject, and swapping the two arms of a pair is the
# sign flip of its difference. scipy.stats.permutation_test has no blocks.

# Up to here every arrangement is listed; above, as many are drawn.
_MAX_ARRANGEMENTS = 10_000


def _block_sizes(arm: Flags, blocks: NDArray[np.integer]) -> list[tuple[int, int]]:
    """Units and treated units of each block."""
    return [(int((blocks == b).sum()), int(arm[blocks == b].sum())) for b in np.unique(blocks)]


def n_arrangements(arm: Flags, blocks: NDArray[np.integer]) -> int:
    """Count the ways to hand out the arms within blocks."""
    return math.prod(math.comb(n, k) for n, k in _block_sizes(arm, blocks))


def smallest_p(arm: Flags, blocks: NDArray[np.integer], *, n_max: int = _MAX_ARRANGEMENTS) -> float:
    """Smallest two-sided p that the design can reach.

    With N arrangements it is 1/N, or 2/N where swapping the arms altogether is itself an
    arrangement (every block with both arms has as many of one as of the other) and always ties.
    Where arrangements are drawn, it cannot be below 1 / (n_max + 1).
    """
    total = n_arrangements(arm, blocks)
    swaps = all(k in (0, n) or 2 * k == n for n, k in _block_sizes(arm, blocks))
    floor = min(1.0, (2 if swaps else 1) / total)
    return floor if total <= n_max else max(floor, 1 / (n_max + 1))


def arrangements(
    arm: Flags,
    blocks: NDArray[np.integer],
    *,
    rng: np.random.Generator,
    n_max: int = _MAX_ARRANGEMENTS,
) -> tuple[Flags, bool]:
    """Arrangements of the arms within blocks, one a row, True where treated; and if it is all.

    Up to `n_max` every arrangement is listed; above, as many are drawn with `rng`.
    """
    exact = n_arrangements(arm, blocks) <= n_max
    result = np.zeros((1 if exact else n_max, len(arm)), dtype=bool)
    for block in np.unique(blocks):
        columns = np.flatnonzero(blocks == block)
        n, k = len(columns), int(arm[columns].sum())
        if exact:
            chosen = np.array(list(combinations(range(n), k)), dtype=np.intp).reshape(-1, k)
            ways = np.zeros((len(chosen), n), dtype=bool)
            np.put_along_axis(ways, chosen, values=True, axis=1)
            result = np.repeat(result, len(ways), axis=0)
            result[:, columns] = np.tile(ways, (len(result) // len(ways), 1))
        else:
            order = rng.permuted(np.tile(np.arange(n), (n_max, 1)), axis=1)
            result[:, columns] = order < k
    return result, exact


def permutation_test(
    Y: Floats,
    arm: Flags,
    blocks: NDArray[np.integer],
    *,
    rng: np.random.Generator,
    n_max: int = _MAX_ARRANGEMENTS,
    weights: Floats | None = None,
) -> Floats:
    """Two-sided permutation p of the arm effect for every response, `(n_units, n_tests)`.

    `weights` are precisions of the units, which must not depend on their arm.
    """
    # The statistic is the sum over the treated of the distance of each unit to the (weighted) mean
    # of its block, times its weight: the score of the arm in least squares. Within blocks the arms
    # keep their numbers and units their weights, so that permuting is exact and, of equal weights,
    # its absolute value orders the arrangements exactly as |t| of the model with the blocks as
    # factor does. All arrangements: the share that is at least as extreme. Drawn:
    # (count + 1) / (n_max + 1), Phipson and Smyth 2010.
    w = (np.ones(len(Y)) if weights is None else weights)[:, None]
    centred = np.empty(Y.shape)
    for block in np.unique(blocks):
        rows = blocks == block
        centred[rows] = w[rows] * (Y[rows] - (w * Y)[rows].sum(axis=0) / w[rows].sum())
    ways, exact = arrangements(arm, blocks, rng=rng, n_max=n_max)
    treated = ways.astype(np.float64)
    observed = np.abs(arm.astype(np.float64) @ centred)
    # Ties differ by rounding only; the tolerance follows the scale of the data, so that a
    # response without any spread ties with itself.
    tolerance = 100 * np.finfo(np.float64).eps * np.abs(w * Y).sum(axis=0)
    pvalues = np.empty(Y.shape[1])
    # Some responses at a time, which bounds the memory.
    for start in range(0, Y.shape[1], 256):
        part = slice(start, start + 256)
        extreme = np.abs(treated @ centred[:, part]) >= observed[part] - tolerance[part]
        count = extreme.sum(axis=0)
        pvalues[part] = count / len(ways) if exact else (count + 1) / (len(ways) + 1)
    return pvalues


# Numbers of a test, one row a response; variance and both permutation columns are missing where
# there is none.
FIT_COLUMNS = [
    *("estimate", "variance", "unscaled", "df", "pvalue_permutation", "pvalue_floor"),
    *("n_reference", "n_treated", "loo_low", "loo_high"),
]


def no_test(n_tests: int, units: pd.DataFrame, status: str) -> pd.DataFrame:
    """`FIT_COLUMNS` and the status, with the units of each arm and nothing else yet."""
    columns = pd.DataFrame(np.nan, index=range(n_tests), columns=FIT_COLUMNS)
    columns["n_reference"] = int((units["arm"] == REFERENCE).sum())
    columns["n_treated"] = int((units["arm"] == TREATED).sum())
    return columns.assign(status=status)


def fill_in(table: pd.DataFrame, fit: LinearFit) -> bool:
    """Put a fit into a table of `no_test`; whether it is a test, by status and degrees of freedom.

    Only the estimate where it is none.
    """
    table["estimate"] = fit.estimate
    if fit.df < 1 and (table["status"] == keys.OK).all():
        table["status"] = keys.TOO_FEW_SUBJECTS
    if (table["status"] != keys.OK).any():
        return False
    table["variance"], table["unscaled"], table["df"] = fit.variance, fit.unscaled, fit.df
    return True


def test_arm(
    Y: Floats,
    units: pd.DataFrame,
    *,
    paired: bool,
    status: str,
    random_state: int,
    weights: Floats | None = None,  # noqa: PT028
) -> pd.DataFrame:
    """Fit and permute one set of units: `FIT_COLUMNS` and status, one row a response.

    `Y` are the responses, `(n_units, n_tests)`; `units` as of `Comparison.units`, reference and
    treated, at least one of each or nobody. Where the `status` so far is not `ok` there is at the
    most an estimate; the fit may find `confounded` or `too_few_subjects`. `weights` are precisions
    of the units, which must not depend on their arm. `random_state` is for permutations that are
    drawn.
    """
    table = no_test(Y.shape[1], units, status)
    if not len(units):
        return table
    nuisance, arm = model_matrix(units, paired=paired)
    fit = fit_unless_aliased(Y, arm, nuisance, weights=weights)
    if fit is None:
        return table.assign(status=keys.CONFOUNDED)

    def without(rest: Flags) -> LinearFit | None:
        if not {REFERENCE, TREATED} <= set(units.loc[rest, "arm"]):
            return None
        nuisance, arm = model_matrix(units[rest], paired=paired)
        kept = None if weights is None else weights[rest]
        return fit_unless_aliased(Y[rest], arm, nuisance, weights=kept)

    table["loo_low"], table["loo_high"] = leave_one_out(units, without, Y.shape[1])
    blocks = permutation_blocks(units, paired=paired)
    if fill_in(table, fit) and blocks is not None:
        rng = np.random.default_rng(random_state)
        table["pvalue_permutation"] = permutation_test(Y, arm, blocks, rng=rng, weights=weights)
        table["pvalue_floor"] = smallest_p(arm, blocks)
    return table


def leave_one_out(
    units: pd.DataFrame, fit: Callable[[Flags], LinearFit | None], n_tests: int
) -> tuple[Floats, Floats]:
    """Range of the estimate when each subject in turn is left out, as `fit` of the rest has it.

    A subject without whom there is no estimate (the only one of its arm) is not left out; with
    nobody to leave out the range is missing.
    """
    subject = units[keys.SUBJECT]
    fits = (fit((subject != name).to_numpy()) for name in sorted(subject.unique()))
    estimates = [found.estimate for found in fits if found is not None]
    if not estimates:
        missing = np.full(n_tests, np.nan)
        return missing, missing
    return np.min(estimates, axis=0), np.max(estimates, axis=0)


_MODERATED = ("pvalue", "ci_low", "ci_high", "hedges_g", "posterior_sd", "total_df")


def finish(
    table: pd.DataFrame,
    families: NDArray[np.object_],
    *,
    caution: float = CAUTION,
    trust: float = np.inf,
    never_lower: bool = False,
) -> pd.DataFrame:
    """Add moderated p, interval and Hedges' g, and the adjusted p of the whole table.

    `table` has the columns of `test_arm`, one row a test (its index unique), and `counting` where
    the tests differ in what counting adds to their variance (see `expected_variance`): the variance
    is then that over the expected one, and `unscaled` that many times its root. Rows with the same
    entry of `families` share a prior variance; `caution`, `trust` and `never_lower` as in
    `squeeze`. Also adds posterior_sd and total_df.
    """
    result = table.copy()
    result[list(_MODERATED)] = np.nan
    tested = result["variance"].notna().to_numpy()
    for family in dict.fromkeys(families):
        rows = np.flatnonzero(tested & (families == family))
        if not len(rows):
            continue
        at = result.index[rows]
        scale = np.ones(len(rows))
        if "counting" in result:
            part = result.iloc[rows]
            scale = expected_variance(part["variance"], part["df"], part["counting"])
            result.loc[at, "variance"] /= scale
            result.loc[at, "unscaled"] *= np.sqrt(scale)
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
        for name in _MODERATED:
            result.loc[at, name] = getattr(tests, name)
        result.loc[at, "hedges_g"] /= np.sqrt(scale)
    result["padj"] = benjamini_hochberg(result["pvalue"])
    return result
