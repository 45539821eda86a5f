"""Differential expression of pseudobulks by PyDESeq2; subjects are the replicates."""

from __future__ import annotations

import re
import warnings
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from threadpoolctl import threadpool_limits

from crs_sc import keys
from crs_sc.comparison.design import REFERENCE, TREATED, is_estimable, model_matrix
from crs_sc.comparison.linear_model import squeeze
from crs_sc.comparison.negative_binomial import GeneBatches, wald_fit
from crs_sc.comparison.units import as_table, check_bulk, check_positive, compare
from crs_sc.core.parallel import parallel_map
from crs_sc.core.stats import benjamini_hochberg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from crs_sc.comparison.design import Contrast
    from crs_sc.comparison.units import PopulationUnits

    Floats = NDArray[np.float64]

__all__ = ["expression"]


def expression(
    bulk: AnnData,
    *,
    contrasts: Sequence[Contrast],
    min_cells: int = 10,
    min_count: int = 10,
    n_jobs: int = 1,
) -> pd.DataFrame:
    """Test every gene in every population with PyDESeq2 on ambient-corrected pseudobulks.

    Fold changes, their standard errors and the Wald statistic are PyDESeq2's. Its p is
    `pvalue_wald`: it takes the dispersion as known, and at a few subjects an arm its tail is far
    too small. `pvalue` is that of a quasi-likelihood t test on the same counts, size factors and
    dispersion trend, its residual variance moderated over the genes (Lund et al. 2012).

    Unpaired contrasts of one time point share a fit, so that all arms inform the dispersions; a
    paired contrast has its own, on complete pairs with the subject as a factor. Batch is a factor
    where it differs. The per-gene fits run for all genes at once, with PyDESeq2's criteria.

    Parameters
    ----------
    bulk
        From `pseudobulk`. `X` (corrected UMI) is summed by unit and rounded.
    contrasts
        What to compare.
    min_cells
        A unit with fewer cells of a population is not a replicate for it.
    min_count
        A gene is tested where it has this many UMI in as many units as the smaller arm has, and
        more over all units of the contrast than ambient RNA explains: what another population makes
        and ambient RNA carries over is no change in this one.
    n_jobs
        Processes over which the populations are spread; with 1, `joblib.parallel_config` decides.

    Returns
    -------
    DataFrame with the columns of table `expression`: contrasts in the order given, populations
    sorted, genes in the order of the data, only those that were tested. `padj` is
    Benjamini-Hochberg of `pvalue` over the whole table. A gene with a count outlier (Cook's
    distance) has the status `count_outlier` and no p. A contrast and population without any test
    has one row with an empty gene and the reason as its status: `too_few_subjects` (fewer than two
    in an arm, or none to spare for the dispersions), `too_few_cells`, `absent_in_reference`,
    `absent_in_treated`, `confounded`, or `not_detected` (no gene with enough UMI of its own).

    Raises
    ------
    DesignError
        As `expand_contrasts`.
    InputError
        If a threshold is below 1.

    Examples
    --------
    >>> import crs_sc as crs
    >>> bulk = crs.tl.pseudobulk(crs.datasets.toy_cohort())
    >>> bulk = bulk[bulk.obs["population"] == "Classical monocyte"].copy()
    >>> cart = crs.Contrast(name="cart", treated="CART", reference="vehicle")
    >>> table = crs.tl.expression(bulk, contrasts=[cart])
    """
    check_bulk(bulk)
    check_positive(min_cells=min_cells, min_count=min_count)
    measured = np.flatnonzero(bulk.var_names != keys.OTHER_GENES)
    genes = np.array(bulk.var_names.astype(str), dtype=object)[measured]
    arms: dict[tuple[int, int], _Arms] = {}
    sharing: dict[tuple[Any, ...], list[tuple[int, int]]] = {}
    for one in compare(bulk, contrasts, columns=measured, min_cells=min_cells, countable=True):
        arms[one.order, one.k] = _arms(one, min_count)
        alone = one.order if one.paired else None
        sharing.setdefault((one.comparison.timepoint, alone, one.k), []).append((one.order, one.k))
    fits = list(sharing.values())
    fitted = parallel_map(
        _fit_population, [([arms[place] for place in places],) for places in fits], n_jobs=n_jobs
    )
    blocks: dict[tuple[int, int], dict[str, Any]] = {}
    for places, results in zip(fits, fitted, strict=True):
        for place, (columns, tested) in zip(places, results, strict=True):
            identity = {"contrast": arms[place].contrast, "population": arms[place].population}
            named = genes[tested] if len(tested) else [""]
            blocks[place] = identity | {"gene": named} | columns
    table = as_table([blocks[place] for place in sorted(blocks)], keys.EXPRESSION_TABLE)
    table["padj"] = benjamini_hochberg(table["pvalue"])
    return table


class _Arms(NamedTuple):
    """One comparison in one population: the units with enough cells, and what can be said.

    `expressed` marks the genes that the population makes itself, in numbers that can be compared.
    """

    contrast: str
    population: str
    units: pd.DataFrame
    counts: NDArray[np.int64]
    expressed: NDArray[np.bool_]
    paired: bool
    status: str


def _arms(one: PopulationUnits, min_count: int) -> _Arms:
    """Units, counts and status of one comparison in one population."""
    comparison = one.comparison
    conditions = {REFERENCE: comparison.contrast.reference, TREATED: comparison.contrast.treated}
    units = one.sums.units.iloc[one.enough].reset_index(drop=True)
    units[keys.CONDITION] = units["arm"].map(conditions)
    status = one.status if comparison.status == keys.OK else comparison.status
    if status == keys.OK:
        nuisance, arm = model_matrix(units, paired=one.paired)
        status = keys.OK if is_estimable(arm, nuisance) else keys.CONFOUNDED
    return _Arms(
        contrast=comparison.name,
        population=one.population,
        units=units,
        counts=np.rint(one.sums.genes[one.enough, one.k]).astype(np.int64),
        expressed=one.sums.expressed(one.enough, one.k, min_count=min_count),
        paired=one.paired,
        status=status,
    )


def _fit_population(arms: list[_Arms]) -> list[tuple[dict[str, Any], NDArray[np.int64]]]:
    """Columns of the table, and the positions of the genes tested, for each comparison."""
    none = np.array([], dtype=np.int64)
    tested = [np.flatnonzero(a.expressed) if a.status == keys.OK else none for a in arms]
    status = [
        keys.NOT_DETECTED if a.status == keys.OK and not len(t) else a.status
        for a, t in zip(arms, tested, strict=True)
    ]
    fitting = [i for i, s in enumerate(status) if s == keys.OK]
    results: dict[int, WaldTests] = {}
    if fitting:
        union = np.unique(np.concatenate([tested[i] for i in fitting]))
        refused, fits = _fit_together([arms[i] for i in fitting], union)
        for i, fit in zip(fitting, fits, strict=True):
            rows = np.searchsorted(union, tested[i])
            results[i] = WaldTests(*(values[rows] for values in fit))
        if refused:
            status = [refused if i in fitting else s for i, s in enumerate(status)]
    answer = []
    for i, a in enumerate(arms):
        columns: dict[str, Any] = {
            "n_reference": int((a.units["arm"] == REFERENCE).sum()),
            "n_treated": int((a.units["arm"] == TREATED).sum()),
            "status": status[i],
        }
        if i in results:
            columns |= results[i]._asdict()
            outlier = np.isnan(results[i].pvalue)
            columns["status"] = np.where(outlier, keys.COUNT_OUTLIER, keys.OK)
        answer.append((columns, tested[i] if i in results else none))
    return answer


def _fit_together(arms: list[_Arms], genes: NDArray[np.int64]) -> tuple[str, list[WaldTests]]:
    """Fit the units of all comparisons together; the reason where that cannot be done.

    The arms are cell means of an unpaired design, and one step between two arms of a paired one.
    """
    units = pd.concat([a.units for a in arms], ignore_index=True)
    first = ~units.duplicated([keys.CONDITION, keys.SUBJECT]).to_numpy()
    units = units[first].reset_index(drop=True)
    counts = np.concatenate([a.counts for a in arms])[first][:, genes]
    nuisance, treated = model_matrix(units, paired=arms[0].paired)
    if arms[0].paired:
        levels = [TREATED]
        main = treated[:, None].astype(np.float64)
    else:
        levels = sorted(units[keys.CONDITION].unique())
        main = (units[keys.CONDITION].to_numpy()[:, None] == np.array(levels)).astype(np.float64)
    design = full_rank(np.hstack([main, nuisance]))
    if len(design) <= design.shape[1]:
        return keys.TOO_FEW_SUBJECTS, []
    if not (counts.sum(axis=1) > 0).all():
        return keys.TOO_FEW_CELLS, []
    contrasts = []
    for a in arms:
        contrast = np.zeros(design.shape[1])
        if a.paired:
            contrast[0] = 1
        else:
            ends = a.units.drop_duplicates("arm").set_index("arm")[keys.CONDITION]
            contrast[levels.index(ends[TREATED])] = 1
            contrast[levels.index(ends[REFERENCE])] = -1
        contrasts.append(contrast)
    return "", wald_tests(counts, design, contrasts)


class WaldTests(NamedTuple):
    """One contrast, each array of shape `(n_genes,)`.

    `statistic` and `pvalue_wald` are those of DESeq2, `pvalue` is that of `quasi_tests`; both p are
    missing where a unit is a count outlier by Cook's distance, as in DESeq2.
    """

    base_mean: Floats
    log2fc: Floats
    lfc_se: Floats
    statistic: Floats
    pvalue: Floats
    pvalue_wald: Floats


def full_rank(columns: Floats) -> Floats:
    """Columns that are not a combination of those before them."""
    kept: list[int] = []
    for j in range(columns.shape[1]):
        if np.linalg.matrix_rank(columns[:, [*kept, j]]) > len(kept):
            kept.append(j)
    return columns[:, kept]


def wald_tests(
    counts: NDArray[np.int64], design: Floats, contrasts: Sequence[Floats]
) -> list[WaldTests]:
    """Fit the negative binomial model of DESeq2 once and test contrasts of its coefficients.

    `counts` are `(n_units, n_genes)`, no unit and no gene without any; the design has full column
    rank and fewer columns than units. Median-of-ratios size factors over the genes that are seen in
    every unit, or over the positive counts where too few are (fewer than 50); parametric dispersion
    trend (the mean where it does not converge); Cook's outliers replaced where a group has seven or
    more units and else left without p; no independent filtering.
    """
    seen = int((counts > 0).all(axis=0).sum())
    with ExitStack() as limits, warnings.catch_warnings():
        # Importing PyDESeq2 sets a global filter, and its pandas calls are deprecated. What it
        # says about few degrees of freedom and the mean trend is in the docstrings here.
        # Its steps warn in the name of the module that calls them.
        for module in ("pydeseq2", "anndata", __name__):
            warnings.filterwarnings("ignore", module=rf"{re.escape(module)}(\.|$)")
        # Its means over the overdispersed genes where there are none.
        for message in ("Mean of empty slice", "invalid value encountered in scalar divide"):
            warnings.filterwarnings("ignore", message, RuntimeWarning)
        from pydeseq2.dds import DeseqDataSet
        from pydeseq2.ds import DeseqStats

        inference = GeneBatches()
        # Its matrices are small: with several threads of linear algebra it takes twice the time.
        limits.enter_context(threadpool_limits(limits=1, user_api="blas"))
        units = [f"u{i}" for i in range(len(counts))]
        data = DeseqDataSet(
            counts=pd.DataFrame(
                counts, index=units, columns=[f"g{j}" for j in range(counts.shape[1])]
            ),
            metadata=pd.DataFrame(index=units),
            design=pd.DataFrame(
                design, index=units, columns=[f"b{j}" for j in range(design.shape[1])]
            ),
            size_factors_fit_type="ratio" if seen >= 50 else "poscounts",
            inference=inference,
            quiet=True,
        )
        data.deseq2()
        tests = []
        for contrast in contrasts:
            test = DeseqStats(
                data, contrast, independent_filter=False, inference=inference, quiet=True
            )
            test.summary()
            tests.append(test.results_df)
        pvalues = quasi_tests(
            counts.astype(np.float64),
            data.obs["size_factors"].to_numpy(dtype=np.float64),
            design,
            data.var["fitted_dispersions"].to_numpy(dtype=np.float64),
            contrasts,
        )
    return [_results(frame, pvalue) for frame, pvalue in zip(tests, pvalues, strict=True)]


def _results(frame: Any, pvalue: NDArray[np.float64]) -> WaldTests:
    """Columns of PyDESeq2's result under our names, beside the quasi-likelihood p."""
    names = ("baseMean", "log2FoldChange", "lfcSE", "stat", "pvalue")
    base_mean, log2fc, lfc_se, statistic, wald = (
        frame[name].to_numpy(dtype=np.float64) for name in names
    )
    pvalue = np.where(np.isnan(wald), np.nan, pvalue)
    return WaldTests(base_mean, log2fc, lfc_se, statistic, pvalue, wald)


# As in DESeq2: a mean below this is taken for this in the weights.
_MIN_MU = 0.5


def quasi_tests(
    counts: Floats, size_factors: Floats, design: Floats, alpha: Floats, contrasts: Sequence[Floats]
) -> list[Floats]:
    """Two-sided quasi-likelihood p of each contrast, each of shape `(n_genes,)`.

    The Wald test of DESeq2 takes the dispersion of a gene as known: its tails are normal, and with
    three or four subjects an arm the smallest p are far too small. Here the negative binomial
    dispersion is that of the trend (`alpha`, missing where there is none), what a gene varies
    beyond it is a residual variance with its degrees of freedom, and that is moderated over the
    genes.

    Shrinking a variance is a bet that genes are alike. It is taken where it raises the variance of
    a gene and not where it lowers it: subjects differ by ancestry, sex or infection in some genes
    far more than in most, and those are the genes that lead a table of false discoveries. Nor is a
    variance below that of counting alone.
    """
    # Lund et al. 2012 (Stat Appl Genet Mol Biol 11:5), as edgeR's quasi-likelihood test, with
    # moderation as in limma: t = b / (sqrt(s^2) se) on d + d0 degrees of freedom.
    inference = GeneBatches()
    # Without a trend (too few genes, or none overdispersed) the model is quasi-Poisson.
    alpha = np.fmax(alpha, 1e-8)
    beta, mu, _, _ = inference.irls(
        counts=counts,
        size_factors=size_factors,
        design_matrix=design,
        disp=alpha,
        min_mu=_MIN_MU,
        beta_tol=1e-8,
    )
    residual, df = residual_variance(counts, mu, alpha, design)
    squeezed = squeeze(residual, df, never_lower=True)
    counting = (1 / (1 + alpha * mu)).mean(axis=0)
    variance = np.fmax(squeezed.variance, counting)
    ridge = 1e-6 * np.eye(design.shape[1])
    answers = []
    for contrast in contrasts:
        _, statistic, _ = wald_fit(design, alpha, beta, mu, ridge, contrast)
        answers.append(2 * stats.t.sf(np.abs(statistic) / np.sqrt(variance), squeezed.df))
    return answers


def unit_deviance(counts: Floats, mu: Floats, alpha: Floats) -> Floats:
    """Deviance of the negative binomial, unit by unit, shape `(n_units, n_genes)`."""
    mu = np.maximum(mu, 1e-8)
    fit = counts * np.log(np.maximum(counts, 1e-300) / mu)
    rest = (counts + 1 / alpha) * np.log1p(alpha * (counts - mu) / (1 + alpha * mu))
    return np.asarray(np.maximum(2 * (np.where(counts > 0, fit, 0.0) - rest), 0.0))


def residual_variance(
    counts: Floats, mu: Floats, alpha: Floats, design: Floats
) -> tuple[Floats, Floats]:
    """Deviance over its degrees of freedom, and these, each of shape `(n_genes,)`.

    Units without a count where none is expected say nothing about the spread: they neither add to
    the deviance nor to the degrees of freedom (as in edgeR's `glmQLFit`).
    """
    silent = (counts == 0) & (mu < _MIN_MU)
    deviance = np.where(silent, 0.0, unit_deviance(counts, mu, alpha)).sum(axis=0)
    df = np.full(counts.shape[1], float(len(design) - design.shape[1]))
    patterns, member = np.unique(silent, axis=1, return_inverse=True)
    for i, pattern in enumerate(patterns.T):
        if pattern.any():
            counted = design[~pattern]
            rank = np.linalg.matrix_rank(counted) if len(counted) else 0
            df[member.ravel() == i] = len(counted) - rank
    return np.divide(deviance, df, out=np.zeros_like(df), where=df > 0), df
