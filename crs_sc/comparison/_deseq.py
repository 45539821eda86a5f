"""Kernel of the expression test: one PyDESeq2 fit, several contrasts, arrays in and out."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from crs_sc.comparison._negative_binomial import GeneBatches
from crs_sc.comparison._quasi import quasi_tests

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["WaldTests", "full_rank", "wald_tests"]


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
        for module in ("pydeseq2", "anndata"):
            warnings.filterwarnings("ignore", module=rf"{module}(\.|$)")
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
