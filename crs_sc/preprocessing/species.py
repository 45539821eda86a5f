"""Which species a barcode belongs to, where the file holds genes of two genomes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.core.arrays import RowTotals
from crs_sc.core.blocks import pass_over
from crs_sc.core.checks import add_note, check_obs, store
from crs_sc.errors import InputError, MissingKeyError, listing
from crs_sc.preprocessing._species_kernels import one_species, species_soup

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["analysed_species", "call_species", "select_species"]

Species = Literal["human", "mouse"]

HUMAN = "human"
MOUSE = "mouse"
MIXED = "mixed"
_PREFIX = r"^(?:GRCh\d+|GRCm\d+|hg\d+|mm\d+|human|mouse)_+"


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
