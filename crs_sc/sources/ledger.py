"""The source ledger: which population accounts for which share of a cytokine's UMI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from crs_sc import keys
from crs_sc.core.ambient import ambient_pvalues, sum_populations
from crs_sc.core.checks import check_fraction, check_obs
from crs_sc.core.stats import benjamini_hochberg, bootstrap_expansion
from crs_sc.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from crs_sc.core.ambient import PopulationSums

__all__ = ["SampleSources", "burst_sizes", "ledger", "ledger_by_condition", "share_intervals"]

# Producers that may be there beside those that were seen: Jeffreys' prior of a count.
UNSEEN = 0.5


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

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> table = crs.tl.ledger(adata, genes=["IL1B"])
    >>> table.groupby("population")["share"].mean().idxmax()
    'Classical monocyte'
    """
    check_fraction("alpha", alpha)
    weight = _weights(adata, weight_key)
    columns = (population_key, sample_key, subject_key, condition_key)
    sums = sum_populations(adata, genes, columns, layer=layer)
    arms = sums.units[keys.CONDITION].to_numpy(dtype=str)
    made = _made(sums, arms, alpha=alpha)
    umi, expected, _ = sums.of_genes
    weighted = sums.add_up(weight)
    mean_weight = np.divide(weighted, sums.n_cells, out=np.ones(sums.shape), where=sums.n_cells > 0)
    rng = np.random.default_rng(random_state)
    share, ends = np.empty(umi.shape), np.empty((2, *umi.shape))
    for g in range(len(umi)):
        of_cell = sums.cells.gene(g)
        output = sums.add_up(weight * (of_cell.umi - of_cell.expected))
        output = np.maximum(0.0, output) * made[g]
        share[g] = ratio(output, output.sum(axis=0))
        squares = sums.add_up(of_cell.umi**2)
        for s, arm in enumerate(arms):
            alike = arms == arm
            sample = SampleSources(
                umi=umi[g, :, s],
                ambient=expected[g, :, s],
                made=made[g, :, s],
                burst=burst_sizes(
                    umi[g][:, alike],
                    squares[:, alike],
                    expected[g][:, alike],
                    sums.n_cells[:, alike],
                    made[g, :, s],
                ),
                weight=mean_weight[:, s],
                ambient_error=float(sums.cells.ambient_error[s]),
                n_samples=int(alike.sum()),
            )
            ends[:, g, :, s] = share_intervals(sample, n_draws=n_draws, level=0.95, rng=rng)
    cell_share = weighted / weighted.sum(axis=0)
    ambient_umi = np.where(made, expected, umi)
    table = sums.table(
        {
            "n_cells": sums.n_cells.astype(np.int64),
            "umi": umi.astype(np.int64),
            "ambient_umi": ambient_umi,
            "corrected_umi": np.maximum(0.0, umi - ambient_umi),
            "share": share,
            "cell_share": cell_share,
            "enrichment": ratio(share, cell_share),
            "ci_low": ends[0],
            "ci_high": ends[1],
        }
    )
    return table[keys.LEDGER_TABLE.names]


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


def _made(sums: PopulationSums, arms: NDArray[np.str_], *, alpha: float) -> NDArray[np.bool_]:
    """Which populations make each gene, as `production` says; shape of the sums."""
    names, codes = np.unique(arms, return_inverse=True)
    in_arm = np.equal.outer(codes, np.arange(len(names))).astype(np.float64)
    umi, _, largest = (values @ in_arm for values in sums.of_genes)
    pvalues = ambient_pvalues(umi, largest, sums.n_cells @ in_arm)
    adjusted = benjamini_hochberg(pvalues.ravel()).reshape(pvalues.shape)
    return np.asarray(((adjusted <= alpha) & (umi > 0))[..., codes])


def ratio(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quotient, missing where the denominator is zero."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)


@dataclass(frozen=True)
class SampleSources:
    """One cytokine in one sample, by population; every array has shape `(n_populations,)`."""

    # UMI, and those that ambient RNA is expected to add.
    umi: NDArray[np.float64]
    ambient: NDArray[np.float64]
    # Whether the population makes more than ambient RNA explains, over the samples of the arm.
    made: NDArray[np.bool_]
    # UMI of a producer, see `burst_sizes`; cells of the specimen for each sequenced cell.
    burst: NDArray[np.float64]
    weight: NDArray[np.float64]
    # Relative standard error of the contamination; samples of the arm.
    ambient_error: float
    n_samples: int


def burst_sizes(
    umi: NDArray[np.float64],
    umi_squared: NDArray[np.float64],
    ambient: NDArray[np.float64],
    n_cells: NDArray[np.float64],
    made: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Variance over mean of what the cells of each population made, over the samples of an arm.

    If few cells are producers this is the UMI of a producer, counted by UMI; the more of them
    are, the less chance there is in their number, and the smaller it gets. Every population is
    drawn towards the mean of all with the weight of one producer. At least 1.

    Sums over the cells of UMI, their squares, the expected ambient RNA, and ones have the shape
    `(n_populations, n_samples)`; which populations made it, `(n_populations,)`.
    """
    ambient = np.minimum(ambient, umi)
    excess = (umi - ambient).sum(axis=1) * made
    centred = umi_squared - umi**2 / np.maximum(n_cells, 1) - ambient
    variance = np.maximum(0.0, centred).sum(axis=1) * made
    overall = max(1.0, variance.sum() / excess.sum()) if excess.sum() > 0 else 1.0
    return np.maximum(1.0, (variance + overall**2) / (excess + overall))


def share_intervals(
    sources: SampleSources, *, n_draws: int, level: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Interval of the source shares of one sample: which cells and UMI were drawn, and ambient RNA.

    Each population is held against all other sources together. What either made is a sum over
    producers that came in by chance (a compound Poisson sum): drawn from a gamma distribution
    with its mean and variance and half a producer more, which may have gone unseen; where the
    samples of the arm show no production, half a producer in all of them. Ambient RNA is drawn too
    large or too small for all together. An interval begins at 0 where ambient RNA could be all of
    the population's UMI, and ends at 1 where it could be all of the others'. Both ends are missing
    where the sample has no corrected UMI.
    """
    made, weight = sources.made, sources.weight
    if not (np.maximum(0.0, sources.umi - sources.ambient) * made).any():
        missing = np.full(len(made), np.nan)
        return missing, missing
    others_made = _others(made.astype(np.float64)) > 0
    # UMI of a producer, those that ambient RNA added and those made; weighted mean and variance.
    size = weight * sources.burst
    explained = np.minimum(sources.umi, sources.ambient)
    output = weight * (sources.umi - explained) * made
    mean = weight * sources.umi
    variance = weight**2 * (sources.burst * (sources.umi - explained) + explained)
    ambient = weight * sources.ambient
    unseen = np.where(made, UNSEEN, UNSEEN / sources.n_samples)
    others_size = np.divide(
        _others(output * weight * sources.burst),
        _others(output),
        out=size.copy(),
        where=_others(output) > 0,
    )
    others_unseen = np.where(others_made, UNSEEN, unseen.min())
    factor = np.maximum(0.0, 1 + sources.ambient_error * rng.standard_normal((n_draws, 1)))

    def drawn(
        mean: NDArray[np.float64], variance: NDArray[np.float64], ambient: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Totals less ambient RNA, shape `(n_draws, n_populations)`."""
        total = rng.gamma(mean**2 / variance, variance / mean, size=(n_draws, len(mean)))
        return np.maximum(0.0, total - ambient * factor)

    mine = drawn(mean + unseen * weight * sources.burst, variance + unseen * size**2, ambient)
    rest = drawn(
        _others(mean * made) + others_unseen * others_size,
        _others(variance * made) + others_unseen * others_size**2,
        _others(ambient * made),
    )
    with np.errstate(invalid="ignore"):
        shares = mine / (mine + rest)
    tail = (1 - level) / 2
    # Without missing values they agree, and nanquantile takes ten times as long.
    quantile = np.nanquantile if np.isnan(shares).any() else np.quantile
    low, high = quantile(shares, [tail, 1 - tail], axis=0)
    largest = 1 + sources.ambient_error * stats.norm.ppf(1 - tail)

    def may_be_ambient(umi: NDArray[np.float64], ambient: NDArray[np.float64]) -> NDArray[np.bool_]:
        return np.asarray(stats.poisson.sf(umi - 1, ambient * largest) > tail)

    low[~made | may_be_ambient(sources.umi, sources.ambient)] = 0.0
    others = (_others(values * made) for values in (sources.umi, sources.ambient))
    high[~others_made | may_be_ambient(*others)] = 1.0
    return low, high


def _others(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum over all entries but one's own."""
    return np.maximum(0.0, values.sum() - values)


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

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> table = crs.tl.ledger_by_condition(crs.tl.ledger(adata, genes=["IL1B"]))
    >>> treated = table[table["condition"] == "CART"]
    >>> treated.loc[treated["share"].idxmax(), "population"]
    'Classical monocyte'
    """
    rng = np.random.default_rng(random_state)
    levels = ["gene", "condition", "population", "subject"]
    parts = table.astype(dict.fromkeys(levels, str))
    for side, end in (("below", "ci_low"), ("above", "ci_high")):
        parts[side] = (table["share"] - table[end]) ** 2
    groups = parts.groupby(levels, sort=True)
    means = groups[["share", "cell_share"]].mean()
    # Half widths of independent intervals add up as their squares.
    means[["below", "above"]] = groups[["below", "above"]].sum().div(groups.size() ** 2, axis=0)
    rows = []
    for gene in parts["gene"].unique():
        for condition, part in means.loc[gene].groupby(level="condition", sort=True):
            by_subject = part.droplevel("condition").unstack("subject")
            known = by_subject["share"].notna().any()
            share, cell_share, below, above = (
                np.ascontiguousarray(by_subject[name].loc[:, known]) for name in means
            )
            low, high = _interval_of_mean(share, below, above, n_bootstrap=n_bootstrap, rng=rng)
            n = share.shape[1]
            of_arm = {
                "gene": gene,
                "population": by_subject.index,
                "condition": condition,
                "n_subjects": n,
                "share": share.mean(axis=1) if n else np.nan,
                "ci_low": low,
                "ci_high": high,
                "cell_share": cell_share.mean(axis=1) if n else np.nan,
            }
            rows.append(pd.DataFrame(of_arm))
    result = pd.concat(rows, ignore_index=True)
    result["enrichment"] = ratio(result["share"].to_numpy(), result["cell_share"].to_numpy())
    return result[keys.LEDGER_BY_CONDITION_TABLE.names]


def _interval_of_mean(
    share: NDArray[np.float64],
    below: NDArray[np.float64],
    above: NDArray[np.float64],
    *,
    n_bootstrap: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """95 % interval of the mean over subjects; missing with fewer than two.

    Shares and squared half widths of their intervals, shape `(n_populations, n_subjects)`.
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
