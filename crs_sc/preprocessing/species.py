"""Which species a barcode belongs to, where the file holds genes of two genomes.

A droplet with one cell holds UMI of the other genome only from ambient RNA: a share
`contamination x (share of the other genome in ambient RNA)` of its UMI. That share is the same for
all cells of one species in a sample and is read from those that are clearly one cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scipy import optimize

from crs_sc import keys
from crs_sc.core.arrays import RowTotals
from crs_sc.core.blocks import pass_over
from crs_sc.core.checks import add_note, check_obs, store
from crs_sc.errors import InputError, MissingKeyError, listing
from crs_sc.preprocessing._contamination import largest_count

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["analysed_species", "call_species", "select_species"]

Species = Literal["human", "mouse"]

HUMAN = "human"
MOUSE = "mouse"
MIXED = "mixed"
_PREFIX = r"^(?:GRCh\d+|GRCm\d+|hg\d+|mm\d+|human|mouse)_+"
_ALPHA = 1e-3
# Fewer cells of a species do not give a share of their own.
_MIN_CELLS = 5
# Barcodes with less than this part of the usual UMI of a cell may be empty droplets.
_WHOLE_CELL = 0.25
# Cells differ in their ambient RNA by somewhat more than counting noise, and a few UMI stray
# anyway.
_SPREAD = 1.25
_STRAY = 3
# The rarer species may hold this many times ambient RNA that the other species' cells predict.
_MAX_RATIO = 2.0
_MAX_AMBIENT = 0.8


def call_species(
    adata: AnnData,
    *,
    organism: str = "human",
    sample_key: str = keys.SAMPLE,
    min_fraction: float = 0.9,
    min_umi: int = 50,
) -> None:
    """Call each barcode human, mouse or mixed by its share of UMI beyond ambient RNA.

    A droplet with one cell holds UMI of the other genome from ambient RNA alone. Per sample, that
    share is read from the cells that are clearly of one species. A barcode is mixed (cells of both
    species) if its minor genome, less ambient RNA, is more than `1 - min_fraction` of its UMI
    without ambient RNA, and more than counting noise around ambient RNA. Without ambient RNA this
    is the plain rule: a share of UMI inside `(1 - min_fraction, min_fraction)`. Single-genome data
    are all `organism`.

    Parameters
    ----------
    adata
        Cells x genes with raw counts; `var['genome']` says `human` or `mouse` where the file has
        both.
    organism
        `human`, `mouse`, or both joined by `+`: the first is the one that is analysed.
    sample_key
        Column of `obs`; used where there are two genomes.
    min_fraction
        Share of UMI without ambient RNA from which a barcode belongs to one species, above 0.5.
    min_umi
        Barcodes with fewer UMI over both genomes are not called (missing): an empty droplet has
        no species.

    Raises
    ------
    InputError
        If the settings make no sense, or no gene of the analysed genome is in the file.
    MissingKeyError
        If the file has two genomes and no `sample_key`.

    Notes
    -----
    Sets `obs['species']`, `obs['species_fraction']` (UMI of the analysed genome over all UMI of
    the barcode, ambient RNA included) and, under `uns['crs_sc']`, `organism` and `species_call`.
    With two genomes also

    - `species_soup`: by sample, `mouse_in_human` and `human_in_mouse` (share of the UMI of a cell
      that ambient RNA brings from the other genome), `n_human` and `n_mouse` (cells that were
      used), `umi_human` and `umi_mouse` (mean UMI of cells with more human or mouse UMI),
      `scaling` and `scaling_error` (ambient RNA of a cell grows with this power of its UMI, and
      standard error);
    - `droplets`: by barcode that was called, `sample`, `umi_analysed`, `umi_other` and `species`.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort(state="raw")
    >>> crs.pp.call_species(adata)  # the file has no mouse genes
    >>> set(adata.obs["species"])
    {'human'}
    """
    analysed = analysed_species(organism)
    if not 0.5 < min_fraction <= 1:
        msg = f"min_fraction must be above 0.5 and at most 1, got {min_fraction!r}."
        raise InputError(msg)
    if keys.GENOME not in adata.var.columns:
        species = np.full(adata.n_obs, analysed, dtype=object)
        fraction = np.ones(adata.n_obs)
    else:
        check_obs(adata, sample_key=sample_key)
        mask = _genome_mask(adata, analysed)
        kernel = RowTotals(adata.n_obs, mask)
        pass_over(adata, kernel)
        total, own = kernel.total, kernel.masked
        fraction = np.divide(own, total, out=np.full(adata.n_obs, np.nan), where=total > 0)
        sample = adata.obs[sample_key].astype(str).to_numpy()
        called = (total >= min_umi) & (total > 0)
        species, ambient = _species(own, total - own, sample, called, analysed, min_fraction)
        store(adata, keys.SPECIES_AMBIENT, ambient)
        columns = {
            keys.SAMPLE: sample[called],
            "umi_analysed": np.rint(own[called]).astype(np.int64),
            "umi_other": np.rint((total - own)[called]).astype(np.int64),
            keys.SPECIES: species[called].astype(str),
        }
        store(adata, keys.DROPLETS, pd.DataFrame(columns, index=adata.obs_names[called]))
    adata.obs[keys.SPECIES] = pd.Categorical(species, categories=[HUMAN, MOUSE, MIXED])
    adata.obs[keys.SPECIES_FRACTION] = fraction
    store(adata, keys.ORGANISM, analysed)
    store(adata, keys.SPECIES_CALL, {"min_fraction": min_fraction, "min_umi": min_umi})


def select_species(adata: AnnData, *, organism: str = "human") -> AnnData:
    """Keep the genes of the analysed genome, under their plain symbols.

    All barcodes stay: `quality_control` leaves out those that `obs['species']` gives to the other
    species. Genes of the two genomes (IL6 and Il6) are never added up.

    Parameters
    ----------
    adata
        Cells x genes; without `var['genome']` a copy is returned as it is.
    organism
        `human`, `mouse`, or both joined by `+`: the first is the one that is analysed.

    Returns
    -------
    New AnnData. A symbol that occurs twice after its prefix is gone gets `-1`, `-2`, ... from the
    second one on, and a note says so.

    Raises
    ------
    InputError
        If no gene of the analysed genome is in the file.
    MissingKeyError
        If the file has two genomes and the species was not called.

    Examples
    --------
    >>> import crs_sc as crs
    >>> adata = crs.datasets.toy_cohort(state="raw")
    >>> adata.var["genome"] = "human"
    >>> adata.var.loc[["IL6"], "genome"] = "mouse"
    >>> crs.pp.call_species(adata)
    >>> "IL6" in crs.pp.select_species(adata).var_names
    False
    """
    analysed = analysed_species(organism)
    if keys.GENOME not in adata.var.columns:
        return adata.copy()
    if keys.SPECIES not in adata.obs.columns:
        msg = "`obs` has no 'species'. Call crs_sc.pp.call_species before select_species."
        raise MissingKeyError(msg)
    selected = adata[:, _genome_mask(adata, analysed)].copy()
    symbols = _symbols(selected)
    repeated = sorted(set(symbols[symbols.duplicated()]))
    selected.var_names = pd.Index(symbols.astype(str))
    if repeated:
        selected.var_names_make_unique()
        add_note(
            selected,
            f"{len(repeated)} gene symbols occur more than once in the {analysed} genome and were "
            f"numbered: {listing(repeated, most=5)}.",
        )
    return selected


def analysed_species(organism: str) -> Species:
    """First species of `human`, `mouse` or a pair joined by `+`."""
    names = [name.strip().lower() for name in organism.split("+")]
    if not set(names) <= {HUMAN, MOUSE} or len(set(names)) != len(names):
        msg = f"organism must be human, mouse, human+mouse or mouse+human, got {organism!r}."
        raise InputError(msg)
    return "human" if names[0] == HUMAN else "mouse"


def _genome_mask(adata: AnnData, analysed: str) -> NDArray[np.bool_]:
    """Genes of the analysed genome, shape `(n_genes,)`."""
    genome = adata.var[keys.GENOME].astype(str)
    mask = np.asarray(genome == analysed, dtype=bool)
    if not mask.any():
        msg = (
            f"`var['{keys.GENOME}']` has no {analysed} gene. Genomes: {listing(genome.unique())}. "
            "Set `organism` to one of them."
        )
        raise InputError(msg)
    return mask


def _species(
    own: NDArray[np.float64],
    other: NDArray[np.float64],
    sample: NDArray[np.str_],
    called: NDArray[np.bool_],
    analysed: str,
    min_fraction: float,
) -> tuple[NDArray[np.object_], pd.DataFrame]:
    """Species of each barcode (None where it is not called), and ambient RNA of each sample."""
    second = MOUSE if analysed == HUMAN else HUMAN
    species = np.full(len(own), None, dtype=object)
    rows = {}
    for name in np.unique(sample):
        cells = np.flatnonzero(called & (sample == name))
        ambient = species_soup(own[cells], other[cells])
        mostly_own, single = one_species(
            own[cells],
            other[cells],
            other_in_own=ambient.other_in_own,
            own_in_other=ambient.own_in_other,
            min_fraction=min_fraction,
        )
        species[cells] = np.where(single, np.where(mostly_own, analysed, second), MIXED)
        rows[str(name)] = {
            f"{second}_in_{analysed}": ambient.other_in_own,
            f"{analysed}_in_{second}": ambient.own_in_other,
            f"n_{analysed}": ambient.n_own,
            f"n_{second}": ambient.n_other,
            f"umi_{analysed}": ambient.umi_own,
            f"umi_{second}": ambient.umi_other,
            "scaling": ambient.scaling,
            "scaling_error": ambient.scaling_error,
        }
    columns = ["mouse_in_human", "human_in_mouse", "n_human", "n_mouse", "umi_human", "umi_mouse"]
    columns += ["scaling", "scaling_error"]
    table = pd.DataFrame.from_dict(rows, orient="index")[columns]
    table.index.name = keys.SAMPLE
    return species, table


def _symbols(adata: AnnData) -> pd.Series:
    """Plain symbol of each gene: the column where there is one, else the name without prefix."""
    names = adata.var["symbol"] if "symbol" in adata.var.columns else adata.var_names.to_series()
    plain: pd.Series = names.astype(str).str.replace(_PREFIX, "", regex=True)
    return plain


@dataclass(frozen=True)
class SpeciesAmbient:
    """Ambient RNA of the other genome in the cells of each of two species, in one sample.

    Attributes
    ----------
    other_in_own, own_in_other
        Share of the UMI of a cell of one species that ambient RNA brings from the other genome.
    n_own, n_other
        Cells that are clearly of one species.
    umi_own, umi_other
        Their mean UMI over both genomes; missing without a cell.
    scaling, scaling_error
        Power of a cell's UMI with which its ambient RNA grows (0: the same ambient RNA in every
        droplet, 1: in proportion), and its standard error. See `ambient_scaling`.
    """

    other_in_own: float
    own_in_other: float
    n_own: int
    n_other: int
    umi_own: float
    umi_other: float
    scaling: float
    scaling_error: float


def minor_rate(
    minor: NDArray[np.float64], total: NDArray[np.float64]
) -> tuple[float, NDArray[np.bool_]]:
    """Share of the other genome in cells of one species, without droplets that hold two cells.

    Starts from the lower quartile of the cells and takes in those that counting noise around the
    share found so far allows, so that two-cell droplets count only where they are the majority.

    The share (0 without a cell) and which cells it comes from, shape `(n_cells,)`.
    """
    kept = np.ones(len(total), dtype=bool)
    if not len(total):
        return 0.0, kept
    rate = float(np.quantile(minor / total, 0.25))
    for _ in range(10):
        expected = rate * total
        limit = np.maximum(largest_count(expected, _ALPHA), _SPREAD * expected) + _STRAY
        kept = minor <= limit
        if not kept.any():
            break
        found = float(minor[kept].sum() / total[kept].sum())
        if abs(found - rate) <= 1e-6:
            break
        rate = found
    return rate, kept


def ambient_scaling(
    groups: list[tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> tuple[float, float]:
    """Power of a cell's UMI with which its ambient RNA grows, by Poisson likelihood.

    A cell of `n` UMI of its own genome holds `a * n**b` UMI of the other one; `a` differs between
    the species, `b` does not.

    `b` within 0 and 1, and its standard error from counting noise; 0.5 and infinity without a UMI.
    """
    known = [(minor, np.log(major)) for minor, major in groups if minor.sum() > 0]

    def moments(b: float, size: NDArray[np.float64]) -> tuple[float, float]:
        weight = np.exp(b * (size - size.max()))
        mean = float(np.average(size, weights=weight))
        return mean, float(np.average((size - mean) ** 2, weights=weight))

    def score(b: float) -> float:
        return float(sum(minor @ size - minor.sum() * moments(b, size)[0] for minor, size in known))

    information = sum(float(minor.sum()) * moments(0.5, size)[1] for minor, size in known)
    if information <= 0:
        return 0.5, np.inf
    if score(0.0) <= 0 or score(1.0) >= 0:
        return float(score(1.0) >= 0), information**-0.5
    return float(optimize.brentq(score, 0.0, 1.0, xtol=1e-6)), information**-0.5


def species_soup(own: NDArray[np.float64], other: NDArray[np.float64]) -> SpeciesAmbient:
    """Cross-species ambient RNA of one sample.

    The species with more cells is measured. That of the other is measured too, within twice
    what the first one predicts if ambient RNA is made of the sample's cells; with fewer than five
    cells it is the prediction. Where a sample holds no single cell of the rarer species, its
    two-cell droplets may pass for such cells from a contamination of about 0.2.
    """
    total = own + other
    if not len(total):
        return SpeciesAmbient(0.0, 0.0, 0, 0, np.nan, np.nan, 0.5, np.inf)
    # The median UMI lies in a droplet of usual size, however many poor barcodes there are.
    order = np.sort(total)
    usual = order[np.searchsorted(np.cumsum(order), 0.5 * order.sum())]
    whole = total >= _WHOLE_CELL * usual
    own, other, total = own[whole], other[whole], total[whole]
    is_own = own >= other
    rate_own, kept_own = minor_rate(other[is_own], total[is_own])
    rate_other, kept_other = minor_rate(own[~is_own], total[~is_own])
    n_own, n_other = int(kept_own.sum()), int(kept_other.sum())
    scaling = ambient_scaling(
        [
            (other[is_own][kept_own], own[is_own][kept_own]),
            (own[~is_own][kept_other], other[~is_own][kept_other]),
        ]
    )
    share = float(other.sum() / total.sum())
    if max(n_own, n_other) < _MIN_CELLS:
        rate_own = rate_other = 0.0
    elif n_own >= n_other:
        predicted = rate_own * (1 - share) / share if share > 0 else 0.0
        rate_other = _bounded(rate_other, n_other, predicted)
    else:
        predicted = rate_other * share / (1 - share) if share < 1 else 0.0
        rate_own = _bounded(rate_own, n_own, predicted)
    scale = min(1.0, _MAX_AMBIENT / max(rate_own + rate_other, 1e-12))
    means = [float(total[m].mean()) if m.any() else np.nan for m in (is_own, ~is_own)]
    rates = (rate_own * scale, rate_other * scale)
    return SpeciesAmbient(*rates, n_own, n_other, means[0], means[1], *scaling)


def _bounded(rate: float, n_cells: int, predicted: float) -> float:
    """Share of the rarer species, kept near the prediction."""
    return min(rate, _MAX_RATIO * predicted) if n_cells >= _MIN_CELLS else predicted


def one_species(
    own: NDArray[np.float64],
    other: NDArray[np.float64],
    *,
    other_in_own: float,
    own_in_other: float,
    min_fraction: float,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which species the larger part of a barcode is, and whether it is all of it.

    The minor genome is taken as a second cell if it is more than `1 - min_fraction` of the UMI
    without ambient RNA and more than counting noise (one in a thousand) around ambient RNA.

    Whether it is mostly the own species, and whether it is one species, `(n_barcodes,)` each.
    """
    total = own + other
    from_other, from_own = other_in_own * total, own_in_other * total
    mostly_own = own - from_own >= other - from_other
    minor = np.where(mostly_own, other, own)
    ambient = np.where(mostly_own, from_other, from_own)
    native = total * (1 - other_in_own - own_in_other)
    # The tolerance keeps 0.1 <= 1 - 0.9 true in floating point.
    small = minor - ambient <= (1 - min_fraction) * native + 1e-9 * total
    return mostly_own, small | (minor <= largest_count(ambient, _ALPHA))
