"""Which species a barcode belongs to, where the file holds genes of two genomes.

A droplet with one cell holds UMI of the other genome only from ambient RNA: a share
`contamination x (share of the other genome in ambient RNA)` of its UMI. That share is the same for
all cells of one species in a sample and is read from those that are clearly one cell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

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

    from crs_sc.preprocessing._contamination import Floats, Mask

__all__ = ["analysed_species", "call_species", "select_species"]

Species = Literal["human", "mouse"]

HUMAN = "human"
MOUSE = "mouse"
MIXED = "mixed"
_PREFIX = r"^(?:GRCh\d+|GRCm\d+|hg\d+|mm\d+|human|mouse)_+"
_ALPHA = 1e-3
# Fewer cells of a species do not give a share.
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
        total, main = kernel.total, kernel.masked
        fraction = np.divide(main, total, out=np.full(adata.n_obs, np.nan), where=total > 0)
        sample = adata.obs[sample_key].astype(str).to_numpy()
        called = (total >= min_umi) & (total > 0)
        species, ambient = _species(main, total - main, sample, called, analysed, min_fraction)
        store(adata, keys.SPECIES_AMBIENT, ambient)
        columns = {
            keys.SAMPLE: sample[called],
            "umi_analysed": np.rint(main[called]).astype(np.int64),
            "umi_other": np.rint((total - main)[called]).astype(np.int64),
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
    # The column where there is one, else the name without the prefix of the genome.
    has_symbol = "symbol" in selected.var.columns
    names = selected.var["symbol"] if has_symbol else selected.var_names.to_series()
    symbols = names.astype(str).str.replace(_PREFIX, "", regex=True)
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


def _genome_mask(adata: AnnData, analysed: str) -> Mask:
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
    main: Floats,
    other: Floats,
    sample: NDArray[np.str_],
    called: Mask,
    analysed: Species,
    min_fraction: float,
) -> tuple[NDArray[np.object_], pd.DataFrame]:
    """Species of each barcode (None where it is not called), and ambient RNA of each sample."""
    second = MOUSE if analysed == HUMAN else HUMAN
    species = np.full(len(main), None, dtype=object)
    rows = {}
    for name in np.unique(sample):
        cells = np.flatnonzero(called & (sample == name))
        ambient = species_ambient(main[cells], other[cells])
        mostly_main, single = one_species(
            main[cells], other[cells], ambient, min_fraction=min_fraction
        )
        species[cells] = np.where(single, np.where(mostly_main, analysed, second), MIXED)
        rows[str(name)] = ambient
    table = pd.DataFrame.from_dict(rows, orient="index", columns=ambient_columns(analysed))
    table.index.name = keys.SAMPLE
    return species, table[ambient_columns("human")]


class SpeciesAmbient(NamedTuple):
    """Ambient RNA of the other genome in the cells of each of two species, in one sample.

    Shares of the UMI of a cell of one species that ambient RNA brings from the other genome; cells
    that are clearly of one species, and their mean UMI over both genomes (missing without a cell);
    power of a cell's UMI with which its ambient RNA grows (0: the same ambient RNA in every
    droplet, 1: in proportion), and its standard error: see `ambient_scaling`.
    """

    other_in_main: float
    main_in_other: float
    n_main: int
    n_other: int
    umi_main: float
    umi_other: float
    scaling: float
    scaling_error: float


def ambient_columns(analysed: str) -> list[str]:
    """Names of the fields of `SpeciesAmbient` in the table of the samples."""
    second = MOUSE if analysed == HUMAN else HUMAN
    shares = [f"{second}_in_{analysed}", f"{analysed}_in_{second}"]
    by_species = [f"{what}_{name}" for what in ("n", "umi") for name in (analysed, second)]
    return [*shares, *by_species, "scaling", "scaling_error"]


def minor_rate(minor: Floats, total: Floats) -> tuple[float, Mask]:
    """Share of the other genome in cells of one species, without droplets that hold two cells.

    Starts from the lower quartile of the cells and takes in those that counting noise around the
    latest share allows, so that two-cell droplets count only where they are the majority.

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
        latest = float(minor[kept].sum() / total[kept].sum())
        if abs(latest - rate) <= 1e-6:
            break
        rate = latest
    return rate, kept


def ambient_scaling(groups: list[tuple[Floats, Floats]]) -> tuple[float, float]:
    """Power of a cell's UMI with which its ambient RNA grows, by Poisson likelihood.

    A cell of `n` UMI of its own genome holds `a * n**b` UMI of the other one; `a` differs between
    the species, `b` does not.

    `b` within 0 and 1, and its standard error from counting noise; 0.5 and infinity without a UMI.
    """
    known = [(minor, np.log(major)) for minor, major in groups if minor.sum() > 0]

    def moments(b: float, size: Floats) -> tuple[float, float]:
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


def species_ambient(main: Floats, other: Floats) -> SpeciesAmbient:
    """Cross-species ambient RNA of one sample.

    The species with more cells is measured. That of the other is measured too, within twice
    what the first one predicts if ambient RNA is made of the sample's cells; with fewer than five
    cells it is the prediction. Where a sample holds no single cell of the rarer species, its
    two-cell droplets may pass for such cells from a contamination of about 0.2.
    """
    total = main + other
    if not len(total):
        return SpeciesAmbient(0.0, 0.0, 0, 0, np.nan, np.nan, 0.5, np.inf)
    # The median UMI lies in a droplet of usual size, however many poor barcodes there are.
    order = np.sort(total)
    usual = order[np.searchsorted(np.cumsum(order), 0.5 * order.sum())]
    whole = total >= _WHOLE_CELL * usual
    main, other, total = main[whole], other[whole], total[whole]
    is_main = main >= other
    # Of each species the UMI of the other genome and of its own, in cells that hold no second one.
    rates, groups, umi = [], [], []
    for cells, minor, major in ((is_main, other, main), (~is_main, main, other)):
        rate, kept = minor_rate(minor[cells], total[cells])
        rates.append(rate)
        groups.append((minor[cells][kept], major[cells][kept]))
        umi.append(float(total[cells].mean()) if cells.any() else np.nan)
    n_main, n_other = (len(minor) for minor, _ in groups)
    share = float(other.sum() / total.sum())
    shares = (1 - share, share)
    if max(n_main, n_other) < _MIN_CELLS:
        rates = [0.0, 0.0]
    else:
        common, rare = (0, 1) if n_main >= n_other else (1, 0)
        predicted = rates[common] * shares[common] / shares[rare] if shares[rare] > 0 else 0.0
        is_measured = min(n_main, n_other) >= _MIN_CELLS
        rates[rare] = min(rates[rare], _MAX_RATIO * predicted) if is_measured else predicted
    scale = min(1.0, _MAX_AMBIENT / max(sum(rates), 1e-12))
    in_main, in_other = (rate * scale for rate in rates)
    umi_main, umi_other = umi
    scaling, error = ambient_scaling(groups)
    return SpeciesAmbient(in_main, in_other, n_main, n_other, umi_main, umi_other, scaling, error)


def one_species(
    main: Floats, other: Floats, ambient: SpeciesAmbient, *, min_fraction: float
) -> tuple[Mask, Mask]:
    """Whether the larger part of a barcode is the main species, and whether it is one species.

    The minor genome is taken as a second cell if it is more than `1 - min_fraction` of the UMI
    without ambient RNA and more than counting noise (one in a thousand) around ambient RNA.
    """
    total = main + other
    from_other, from_main = ambient.other_in_main * total, ambient.main_in_other * total
    mostly_main = main - from_main >= other - from_other
    minor = np.where(mostly_main, other, main)
    expected = np.where(mostly_main, from_other, from_main)
    native = total * (1 - ambient.other_in_main - ambient.main_in_other)
    # The tolerance keeps 0.1 <= 1 - 0.9 true in floating point.
    small = minor - expected <= (1 - min_fraction) * native + 1e-9 * total
    return mostly_main, small | (minor <= largest_count(expected, _ALPHA))
