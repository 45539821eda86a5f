"""IL-1 tone: what drives IL-1 signalling against what holds it back, by population and sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from crs_sc import genesets, keys
from crs_sc.core.ambient import native_cpm, sum_populations
from crs_sc.core.checks import check_obs, gene_positions
from crs_sc.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Output", "corrected_output", "il1_tone", "log2_ratio", "tone_genes"]

AGONISTS = ("IL1A", "IL1B")
ANTAGONISTS = ("IL1RN", "IL1R2")
RELEASE = ("NLRP3", "CASP1", "GSDMD")


def il1_tone(
    adata: AnnData,
    *,
    organism: Literal["human", "mouse"] = "human",
    min_cells: int = 10,
    level: float = 0.95,
    population_key: str = keys.POPULATION,
    sample_key: str = keys.SAMPLE,
    subject_key: str = keys.SUBJECT,
    condition_key: str = keys.CONDITION,
    layer: str = keys.COUNTS,
) -> pd.DataFrame:
    """Compare the agonists of IL-1 with its antagonists, in UMI that ambient RNA does not explain.

    Agonists are IL1A and IL1B, antagonists IL1RN (the receptor antagonist) and IL1R2 (the decoy).
    The ratio of their transcripts does not depend on depth or on the number of cells. Beside it
    stands what it takes to release IL-1 beta: NLRP3, CASP1 and GSDMD. Target cytokines are in no
    signature, so this is no signature score, and it is a matter of transcripts: IL1B mRNA is a
    promise of protein, and recombinant antagonist is not transcribed.

    Parameters
    ----------
    adata
        Cells x genes with `varm["ambient_profile"]` and the contamination of each sample.
    organism
        `human` or `mouse`.
    min_cells
        With fewer cells of a population a sample has no ratio.
    level
        Confidence level of the interval, which holds for the cells that were sampled: between
        subjects, compare samples.
    population_key, sample_key, subject_key, condition_key
        Columns of `obs`.
    layer
        Layer with raw counts.

    Returns
    -------
    DataFrame with the columns of `keys.IL1_TONE_TABLE`: every population and sample that has cells
    of it. A side counts as detected if its UMI are beyond the largest ambient RNA by more than
    chance (the lower end of its interval is above 0); with one side, `agonist_only` or
    `antagonist_only`, the interval has one end, and with neither there is no ratio. If the data
    lack every agonist or every antagonist, there are no rows.

    Raises
    ------
    MissingKeyError
        If ambient RNA is not known, or a column is absent.
    InputError
        If a setting makes no sense.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort()
    >>> table = crs.tl.il1_tone(adata)
    >>> table.loc[table["status"] == "ok", "population"].mode()[0]
    'Classical monocyte'
    """
    if min_cells < 1 or not 0 < level < 1:
        msg = f"min_cells must be at least 1 and level inside (0, 1), got {min_cells}, {level}."
        raise InputError(msg)
    check_obs(adata, population_key=population_key)
    agonists, antagonists, release = (
        list(gene_positions(adata, _symbols(genes, organism)))
        for genes in (AGONISTS, ANTAGONISTS, RELEASE)
    )
    if not (agonists and antagonists):
        return pd.DataFrame(columns=keys.IL1_TONE_TABLE.names)
    columns = (population_key, sample_key, subject_key, condition_key)
    sums = sum_populations(adata, [*agonists, *antagonists, *release], columns, layer=layer)
    cells, n_cells = sums.cells, sums.n_cells
    sides = np.cumsum([len(agonists), len(antagonists)])
    umi = np.split(sums.of_genes[0], sides)
    # UMI that would be the gene's if all of the depth were ambient RNA.
    ambient = np.split(sums.depth * cells.share.T[:, None], sides)
    totals = [(seen.sum(axis=0), most.sum(axis=0)) for seen, most in zip(umi, ambient, strict=True)]
    agonist, antagonist = (
        corrected_output(seen, cells.fraction * most, cells.upper * most, level=level)
        for seen, most in totals[:2]
    )
    has_agonist, has_antagonist = agonist.low > 0, antagonist.low > 0
    status = np.select(
        [n_cells < min_cells, has_agonist & has_antagonist, has_agonist, has_antagonist],
        [keys.TOO_FEW_CELLS, keys.OK, keys.AGONIST_ONLY, keys.ANTAGONIST_ONLY],
        keys.NOT_DETECTED,
    )
    has_ratio = ~np.isin(status, [keys.TOO_FEW_CELLS, keys.NOT_DETECTED])
    native = sums.depth * (1 - cells.fraction)
    cpm = np.maximum(0.0, native_cpm(umi[2], cells.fraction * ambient[2], native))
    released = np.log2(cpm + 1).mean(axis=0) if release else np.full(sums.shape, np.nan)
    ratio, low, high = (
        np.where(has_ratio, values, np.nan) for values in log2_ratio(agonist, antagonist)
    )
    table = sums.table(
        {
            "n_cells": n_cells.astype(np.int64),
            "agonist_umi": agonist.value,
            "antagonist_umi": antagonist.value,
            "log2_ratio": ratio,
            "ci_low": low,
            "ci_high": high,
            "release": np.where(n_cells >= min_cells, released, np.nan),
            "n_release": len(release),
            "status": status,
        }
    )
    # The rows of every gene are the same.
    table = table.iloc[: n_cells.size].query("n_cells > 0")
    return table[keys.IL1_TONE_TABLE.names].reset_index(drop=True)


def tone_genes(*, organism: Literal["human", "mouse"] = "human") -> list[str]:
    """Symbols of all genes that `il1_tone` looks at."""
    return _symbols((*AGONISTS, *ANTAGONISTS, *RELEASE), organism)


def _symbols(genes: tuple[str, ...], organism: str) -> list[str]:
    """Symbols of the organism."""
    if organism == "human":
        return list(genes)
    pairs = genesets.orthologs().set_index("human")["mouse"]
    return [str(pairs[gene]) for gene in genes if pairs[gene]]


class Output(NamedTuple):
    """UMI that ambient RNA does not explain, with their interval; all of one shape."""

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def corrected_output(
    umi: ArrayLike, expected: ArrayLike, largest: ArrayLike, *, level: float
) -> Output:
    """UMI less ambient RNA, from 0, with an interval for both.

    The counts have the exact Poisson interval (Garwood 1936); ambient RNA is taken to lie between
    `largest` and as far below `expected`. The two are put together as in `log2_ratio`.
    """
    seen, ambient, most = (
        np.asarray(values, dtype=np.float64) for values in (umi, expected, largest)
    )
    tail = (1 - level) / 2
    low = np.where(seen > 0, stats.gamma.ppf(tail, np.maximum(seen, 1)), 0.0)
    high = stats.gamma.ppf(1 - tail, seen + 1)
    error = np.minimum(most - ambient, ambient)
    value = seen - ambient
    return Output(
        np.maximum(0.0, value),
        np.maximum(0.0, value - np.hypot(seen - low, most - ambient)),
        np.maximum(0.0, value + np.hypot(high - seen, error)),
    )


def log2_ratio(above: Output, below: Output) -> Output:
    """log2 of one output over another, with the interval of the method of variance estimates.

    Each end puts together, as roots of squares, how far the one output could be lower and the
    other higher (MOVER; Donner and Zou 2012, doi 10.1177/0962280210383082), on the log scale.
    NaN for the ratio where either output is 0, and for an end where that side has no bound.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        a, a_low, a_high = (np.log2(values) for values in above)
        b, b_low, b_high = (np.log2(values) for values in below)
        ratio = a - b
        low = ratio - np.hypot(a - a_low, b_high - b)
        high = ratio + np.hypot(a_high - a, b - b_low)
        # Nothing of the one was seen: the other at its least over the most that this may be.
        low = np.where((below.value == 0) & (above.value > 0), a_low - b_high, low)
        high = np.where((above.value == 0) & (below.value > 0), a_high - b_low, high)
    return Output(*(np.where(np.isfinite(values), values, np.nan) for values in (ratio, low, high)))
