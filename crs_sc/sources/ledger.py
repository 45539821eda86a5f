"""The source ledger: which population accounts for which share of a cytokine's UMI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.core.ambient import take_counts
from crs_sc.core.checks import check_fraction, check_obs, sample_table
from crs_sc.core.stats import benjamini_hochberg, bootstrap_expansion
from crs_sc.errors import InputError
from crs_sc.sources._grid import PopulationGrid
from crs_sc.sources._kernels import ambient_pvalues, source_shares
from crs_sc.sources._share_intervals import SampleSources, burst_sizes, share_intervals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from crs_sc.core.ambient import CellCounts

__all__ = ["ledger", "ledger_by_condition"]


def ledger(
    adata: AnnData,
    *,
    genes: Sequence[str],
    population_key: str = keys.POPULATION,
    sample_key: str = keys.SAMPLE,
    subject_key: str = keys.SUBJECT,
    condition_key: str = keys.CONDITION,
    weight_key: str | None = None,
    layer: str = keys.COUNTS,
    alpha: float = 0.05,
    n_draws: int = 1000,
    random_state: int = 0,
) -> pd.DataFrame:
    """Attribute each cytokine's UMI to populations, ambient RNA taken out, sample by sample.

    Raw UMI are used, because counts per 10,000 erase the larger RNA content of monocytes. A
    population whose UMI in all samples of its arm ambient RNA can explain, as :func:`production`
    tells, is no source: its UMI are ambient RNA's. Without this rule the chance remainder of the
    ambient RNA in many silent populations is the largest error of the shares.

    Parameters
    ----------
    adata
        Cells x genes with `varm["ambient_profile"]` and the contamination of each sample.
    genes
        Cytokines; those that are not in the data have no row.
    population_key, sample_key, subject_key, condition_key
        Columns of `obs`.
    weight_key
        Column of `obs` with the cells of the specimen that one sequenced cell stands for, in
        sorted or depleted samples. None: every cell counts once.
    layer
        Layer with raw counts.
    alpha
        False discovery rate of the sources.
    n_draws
        Draws for the interval of the share.
    random_state
        Seed.

    Returns
    -------
    DataFrame with the columns of `keys.LEDGER_TABLE`: every gene, population and sample. `umi`,
    `ambient_umi` and `corrected_umi` are as sequenced; `share` and `cell_share` are weighted. The
    95 % interval of the share is that of the animal, whose cells were sampled: producers that
    came in by chance, counting, and the error of the contamination.

    Raises
    ------
    MissingKeyError
        If ambient RNA is not known.
    InputError
        If no gene is in the data, or a weight is not a positive number.
    """
    check_fraction("alpha", alpha)
    check_obs(adata, population_key=population_key)
    samples = sample_table(
        adata, sample_key=sample_key, subject_key=subject_key, condition_key=condition_key
    )
    cells = take_counts(adata, genes, sample_key=sample_key, layer=layer)
    weight = _weights(adata, weight_key)
    grid = PopulationGrid(adata.obs[population_key], adata.obs[sample_key])
    arms = samples.loc[grid.samples, keys.CONDITION].to_numpy(dtype=str)
    rng = np.random.default_rng(random_state)
    weighted_cells = grid.matrix(weight)
    cell_share = (weighted_cells / weighted_cells.sum(axis=0)).ravel()
    n_cells = grid.matrix(np.ones(adata.n_obs))
    found = [
        _GeneSums.of(grid, cells, column, n_cells=n_cells, weight=weight)
        for column in range(len(cells.genes))
    ]
    made = _made(found, arms, alpha=alpha)
    tables = []
    for gene, sums, sources in zip(cells.genes, found, made, strict=True):
        table = grid.frame(gene, samples)
        table["n_cells"] = n_cells.ravel().astype(np.int64)
        table["umi"] = sums.umi.ravel().astype(np.int64)
        table["ambient_umi"] = np.where(sources, sums.ambient, sums.umi).ravel()
        table["corrected_umi"] = np.maximum(0.0, table["umi"] - table["ambient_umi"])
        output = np.maximum(0.0, sums.output) * sources
        table["share"] = source_shares(output.T).T.ravel()
        table["cell_share"] = cell_share
        table["enrichment"] = _ratio(table["share"].to_numpy(), cell_share)
        table["ci_low"], table["ci_high"] = _intervals(
            sums, sources, arms, cells.ambient_error, n_draws=n_draws, rng=rng
        )
        tables.append(table)
    return pd.concat(tables, ignore_index=True)[keys.LEDGER_TABLE.names]


@dataclass(frozen=True)
class _GeneSums:
    """Sums over the cells of each population and sample, shape `(n_populations, n_samples)`.

    Attributes
    ----------
    umi, umi_squared
        UMI of the gene, and their squares.
    ambient, largest
        UMI that ambient RNA is expected to add, and at most.
    output
        Weighted UMI beyond the expected ambient RNA.
    n_cells, mean_weight
        Cells, and their mean weight.
    """

    umi: NDArray[np.float64]
    umi_squared: NDArray[np.float64]
    ambient: NDArray[np.float64]
    largest: NDArray[np.float64]
    output: NDArray[np.float64]
    n_cells: NDArray[np.float64]
    mean_weight: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        grid: PopulationGrid,
        cells: CellCounts,
        column: int,
        *,
        n_cells: NDArray[np.float64],
        weight: NDArray[np.float64],
    ) -> _GeneSums:
        own = cells.gene(column)
        umi, expected = own.umi, own.expected
        total = grid.matrix(weight)
        return cls(
            umi=grid.matrix(umi),
            umi_squared=grid.matrix(umi**2),
            ambient=grid.matrix(expected),
            largest=grid.matrix(own.largest),
            output=grid.matrix(weight * (umi - expected)),
            n_cells=n_cells,
            mean_weight=np.divide(total, n_cells, out=np.ones(grid.shape), where=n_cells > 0),
        )


def _made(
    found: list[_GeneSums], arms: NDArray[np.str_], *, alpha: float
) -> list[NDArray[np.bool_]]:
    """Which populations make each gene, as :func:`production` says; shape of the grid."""
    names, codes = np.unique(arms, return_inverse=True)
    in_arm = np.equal.outer(codes, np.arange(len(names))).astype(np.float64)
    pvalues = [
        ambient_pvalues(sums.umi @ in_arm, sums.largest @ in_arm, sums.n_cells @ in_arm)
        for sums in found
    ]
    adjusted = benjamini_hochberg(np.ravel(pvalues)).reshape(np.shape(pvalues))
    return [
        (of_gene <= alpha)[:, codes] & (sums.umi @ in_arm > 0)[:, codes]
        for of_gene, sums in zip(adjusted, found, strict=True)
    ]


def _intervals(
    sums: _GeneSums,
    made: NDArray[np.bool_],
    arms: NDArray[np.str_],
    ambient_error: NDArray[np.float64],
    *,
    n_draws: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Compute both ends of the interval of each share, shape `(2, n_rows)`, rows of the grid."""
    ends = np.empty((2, *sums.umi.shape))
    for s, arm in enumerate(arms):
        alike = arms == arm
        burst = burst_sizes(
            umi=sums.umi[:, alike],
            umi_squared=sums.umi_squared[:, alike],
            ambient=sums.ambient[:, alike],
            n_cells=sums.n_cells[:, alike],
            made=made[:, s],
        )
        sample = SampleSources(
            umi=sums.umi[:, s],
            ambient=sums.ambient[:, s],
            made=made[:, s],
            burst=burst,
            weight=sums.mean_weight[:, s],
            ambient_error=float(ambient_error[s]),
            n_samples=int(alike.sum()),
        )
        ends[:, :, s] = share_intervals(sample, n_draws=n_draws, level=0.95, rng=rng)
    return ends.reshape(2, -1)


def ledger_by_condition(
    table: pd.DataFrame, *, n_bootstrap: int = 2000, random_state: int = 0
) -> pd.DataFrame:
    """Mean source shares of each condition, with a bootstrap interval over subjects.

    A subject's libraries of one condition are averaged first. Subjects without any corrected UMI
    of a gene have no shares and are left out of that gene.

    Parameters
    ----------
    table
        Result of :func:`ledger`.
    n_bootstrap
        Resamplings of the subjects.
    random_state
        Seed.

    Returns
    -------
    DataFrame with the columns of `keys.LEDGER_BY_CONDITION_TABLE`. The 95 % percentile interval is
    widened for the small number of subjects (Hesterberg 2015), and never narrower than the counting
    noise of the samples: a share of 0 in every subject is not known exactly. It is empty with fewer
    than two subjects.
    """
    rng = np.random.default_rng(random_state)
    by_subject = _SubjectMeans(table)
    rows = []
    for gene in by_subject.names["gene"]:
        for condition in sorted(by_subject.names["condition"]):
            part = by_subject.part(gene, condition)
            if part is None:
                continue
            populations, (share, cell_share, below, above) = part
            low, high = _interval_of_mean(share, below, above, n_bootstrap=n_bootstrap, rng=rng)
            n = share.shape[1]
            of_arm = {
                "gene": gene,
                "population": populations,
                "condition": condition,
                "n_subjects": n,
                "share": share.mean(axis=1) if n else np.nan,
                "ci_low": low,
                "ci_high": high,
                "cell_share": cell_share.mean(axis=1) if n else np.nan,
            }
            rows.append(pd.DataFrame(of_arm))
    result = pd.concat(rows, ignore_index=True)
    result["enrichment"] = _ratio(result["share"].to_numpy(), result["cell_share"].to_numpy())
    return result[keys.LEDGER_BY_CONDITION_TABLE.names]


class _SubjectMeans:
    """Means of a ledger over the samples of each gene, condition, population and subject."""

    def __init__(self, table: pd.DataFrame) -> None:
        self.names: dict[str, list[str]] = {}
        shape, cell = [], np.zeros(len(table), dtype=np.int64)
        for name in ("gene", "condition", "population", "subject"):
            codes, found = pd.factorize(table[name].astype(str), sort=name != "gene")
            self.names[name] = [str(one) for one in found]
            cell = cell * len(found) + codes
            shape.append(len(found))

        def total(values: pd.Series) -> NDArray[np.float64]:
            known = np.nan_to_num(values.to_numpy(dtype=np.float64))
            return np.bincount(cell, weights=known, minlength=int(np.prod(shape))).reshape(shape)

        self.n_samples = total(pd.Series(np.ones(len(table))))
        share, ends = table["share"], (table["ci_low"], table["ci_high"])
        with np.errstate(invalid="ignore"):
            self.share = total(share) / total(share.notna())
            self.cell_share = total(table["cell_share"]) / total(table["cell_share"].notna())
            # Half widths of independent intervals add up as their squares.
            self.below, self.above = (total((share - end) ** 2) / self.n_samples**2 for end in ends)

    def part(self, gene: str, condition: str) -> tuple[list[str], list[NDArray[np.float64]]] | None:
        """Return the populations, and what the subjects with shares have; None without rows.

        Share, cell share and both squared half widths, shape `(n_populations, n_subjects)`.
        """
        at = (self.names["gene"].index(gene), self.names["condition"].index(condition))
        there = self.n_samples[at] > 0
        if not there.any():
            return None
        populations = np.flatnonzero(there.any(axis=1))
        subjects = np.flatnonzero(np.isfinite(self.share[at]).any(axis=0))
        chosen = np.ix_(populations, subjects)
        values = (self.share, self.cell_share, self.below, self.above)
        names = [self.names["population"][k] for k in populations]
        return names, [value[at][chosen] for value in values]


def _interval_of_mean(
    share: NDArray[np.float64],
    below: NDArray[np.float64],
    above: NDArray[np.float64],
    *,
    n_bootstrap: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """95 % interval of the mean over subjects; missing with fewer than two.

    Parameters
    ----------
    share
        Shape `(n_populations, n_subjects)`.
    below, above
        Squared half widths of the interval of each share, same shape.
    """
    n = share.shape[1]
    if n < 2:
        empty = np.full(len(share), np.nan)
        return empty, empty
    mean = share.mean(axis=1)
    draws = share[:, rng.integers(n, size=(n_bootstrap, n))].mean(axis=2).T
    draws = mean + bootstrap_expansion(n, n - 1) * (draws - mean)
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    low = np.minimum(low, mean - np.sqrt(below.sum(axis=1)) / n)
    high = np.maximum(high, mean + np.sqrt(above.sum(axis=1)) / n)
    return np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0)


def _weights(adata: AnnData, weight_key: str | None) -> NDArray[np.float64]:
    if weight_key is None:
        return np.ones(adata.n_obs)
    check_obs(adata, weight_key=weight_key)
    weight: NDArray[np.float64] = adata.obs[weight_key].to_numpy(dtype=np.float64)
    if not (np.isfinite(weight) & (weight > 0)).all():
        msg = (
            f"`obs['{weight_key}']` (weight_key) must hold positive numbers; "
            f"found {weight[~(weight > 0)][:1]}."
        )
        raise InputError(msg)
    return weight


def _ratio(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quotient, missing where the denominator is zero."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)
