"""Kernel of the expression test: one PyDESeq2 fit, several contrasts, arrays in and out."""

from __future__ import annotations

import re
import warnings
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from crs_sc.comparison._negative_binomial import GeneBatches
from crs_sc.comparison._quasi import quasi_tests

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from pydeseq2.dds import DeseqDataSet

__all__ = ["WaldTests", "full_rank", "trend_coefficients", "wald_tests"]


class WaldTests(NamedTuple):
    """One contrast, each array of shape `(n_genes,)`.

    `statistic` and `pvalue_wald` are those of DESeq2, `pvalue` is that of `quasi_tests`; both p are
    missing where a unit is a count outlier by Cook's distance, as in DESeq2.
    """

    base_mean: NDArray[np.float64]
    log2fc: NDArray[np.float64]
    lfc_se: NDArray[np.float64]
    statistic: NDArray[np.float64]
    pvalue: NDArray[np.float64]
    pvalue_wald: NDArray[np.float64]


def full_rank(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns that are not a combination of those before them.

    Parameters
    ----------
    columns
        Shape `(n_units, n_columns)`.
    """
    kept: list[int] = []
    for j in range(columns.shape[1]):
        if np.linalg.matrix_rank(columns[:, [*kept, j]]) > len(kept):
            kept.append(j)
    return columns[:, kept]


def wald_tests(
    counts: NDArray[np.int64],
    design: NDArray[np.float64],
    contrasts: Sequence[NDArray[np.float64]],
) -> list[WaldTests]:
    """Fit the negative binomial model of DESeq2 once and test contrasts of its coefficients.

    Median-of-ratios size factors over the genes that are seen in every unit, or over the positive
    counts where too few are; parametric dispersion trend (the mean where it does not converge);
    Cook's outliers replaced where a group has seven or more units and else left without p;
    no independent filtering.

    Parameters
    ----------
    counts
        Shape `(n_units, n_genes)`; no unit and no gene without counts.
    design
        Full column rank and fewer columns than units, shape `(n_units, n_coefficients)`.
    contrasts
        Each of shape `(n_coefficients,)`.
    """
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
            size_factors_fit_type=_size_factors(counts),
            inference=inference,
            quiet=True,
        )
        _fit(data)
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


def _fit(data: DeseqDataSet) -> None:
    """Do what `data.deseq2()` does, with `trend_coefficients` for the dispersion trend."""
    data.fit_size_factors()
    data.fit_genewise_dispersions()
    means = data.var["_normed_means"].to_numpy(dtype=np.float64)
    dispersions = data.var["genewise_dispersions"].to_numpy(dtype=np.float64)
    coefficients = trend_coefficients(
        means, dispersions, fit=data.inference.dispersion_trend_gamma_glm
    )
    if coefficients is None:
        data.fit_type = "mean"
        data.fit_dispersion_trend()
    else:
        data.uns["trend_coeffs"] = pd.Series(coefficients, index=["a0", "a1"])
        data.uns["disp_function_type"] = "parametric"
        data.var["fitted_dispersions"] = data.disp_function(means)
    data.fit_dispersion_prior()
    data.fit_MAP_dispersions()
    data.fit_LFC()
    data.calculate_cooks()
    data.refit()
    data.cooks_outlier()


def trend_coefficients(
    means: NDArray[np.float64],
    dispersions: NDArray[np.float64],
    *,
    fit: Callable[[pd.Series, pd.Series], tuple[NDArray[np.float64], NDArray[np.float64], bool]],
) -> NDArray[np.float64] | None:
    """Coefficients `a0`, `a1` of the parametric trend `a0 + a1 / mean`, as PyDESeq2 finds them.

    `DeseqDataSet.fit_dispersion_trend` looks at gene after gene for a mean of zero, which takes
    half the time of a fit; here no gene is without counts.

    Parameters
    ----------
    means
        Mean normalised counts, positive, shape `(n_genes,)`.
    dispersions
        Gene-wise dispersions, shape `(n_genes,)`.
    fit
        `dispersion_trend_gamma_glm` of a PyDESeq2 inference object.

    Returns
    -------
    None where the fit does not converge.
    """
    old, new = np.full(2, 0.1), np.ones(2)
    covariates, targets = 1 / means, dispersions
    while (np.log(np.abs(new / old)) ** 2).sum() >= 1e-6:
        old = new
        new, fitted, converged = fit(pd.Series(covariates), pd.Series(targets))
        if not converged or (new <= 1e-10).any():
            return None
        # Genes too far from the curve are left out of the next fit.
        ratio = targets / fitted
        near = ~((ratio < 1e-4) | (ratio >= 15))
        covariates, targets = covariates[near], targets[near]
    return new


def _size_factors(
    counts: NDArray[np.int64], *, min_genes: int = 50
) -> Literal["ratio", "poscounts"]:
    """`ratio` where enough genes are seen in every unit for a median of their ratios."""
    return "ratio" if int((counts > 0).all(axis=0).sum()) >= min_genes else "poscounts"


def _results(frame: Any, pvalue: NDArray[np.float64]) -> WaldTests:
    """Columns of PyDESeq2's result under our names, beside the quasi-likelihood p."""
    names = ("baseMean", "log2FoldChange", "lfcSE", "stat", "pvalue")
    base_mean, log2fc, lfc_se, statistic, wald = (
        frame[name].to_numpy(dtype=np.float64) for name in names
    )
    pvalue = np.where(np.isnan(wald), np.nan, pvalue)
    return WaldTests(base_mean, log2fc, lfc_se, statistic, pvalue, wald)
