"""Which species a barcode belongs to, where the file holds genes of two genomes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc._checks import add_note, counts_matrix, store
from crs_sc.errors import InputError, MissingKeyError, listing

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["call_species", "select_species"]

HUMAN = "human"
MOUSE = "mouse"
MIXED = "mixed"
_PREFIX = r"^(?:GRCh\d+|GRCm\d+|hg\d+|mm\d+|human|mouse)_+"


def call_species(
    adata: AnnData,
    *,
    organism: str = "human",
    min_fraction: float = 0.9,
    min_umi: int = 50,
) -> None:
    """Call each barcode human, mouse or mixed by its share of UMI.

    A share inside `(1 - min_fraction, min_fraction)` is a droplet with cells of both species.
    Single-genome data are all `organism`.

    Parameters
    ----------
    adata
        Cells x genes with raw counts; `var['genome']` says `human` or `mouse` where the file has
        both.
    organism
        `human`, `mouse`, or both joined by `+`: the first is the one that is analysed.
    min_fraction
        Share of UMI from which a barcode belongs to one species, above 0.5.
    min_umi
        Barcodes with fewer UMI over both genomes are not called (missing): an empty droplet has
        no species.

    Raises
    ------
    InputError
        If the settings make no sense, or no gene of the analysed genome is in the file.

    Notes
    -----
    Sets `obs['species']`, `obs['species_fraction']` (UMI of the analysed genome over all UMI of
    the barcode) and, under `uns['crs_sc']`, `organism` and `species_call`.
    """
    analysed = _analysed(organism)
    if not 0.5 < min_fraction <= 1:
        msg = f"min_fraction must be above 0.5 and at most 1, got {min_fraction!r}."
        raise InputError(msg)
    if keys.GENOME not in adata.var.columns:
        species = np.full(adata.n_obs, analysed, dtype=object)
        fraction = np.ones(adata.n_obs)
    else:
        mask = _genome_mask(adata, analysed)
        counts = counts_matrix(adata)
        total = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
        own = np.asarray(counts @ mask.astype(np.float64)).ravel()
        fraction = np.divide(own, total, out=np.full(adata.n_obs, np.nan), where=total > 0)
        species = _species(fraction, total, analysed, min_fraction, min_umi)
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
    analysed = _analysed(organism)
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


def _analysed(organism: str) -> str:
    """First species of `human`, `mouse` or a pair joined by `+`."""
    names = [name.strip().lower() for name in organism.split("+")]
    if not set(names) <= {HUMAN, MOUSE} or len(set(names)) != len(names):
        msg = f"organism must be human, mouse, human+mouse or mouse+human, got {organism!r}."
        raise InputError(msg)
    return names[0]


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
    fraction: NDArray[np.float64],
    total: NDArray[np.float64],
    analysed: str,
    min_fraction: float,
    min_umi: int,
) -> NDArray[np.object_]:
    """Species of each barcode; None below `min_umi`."""
    other = MOUSE if analysed == HUMAN else HUMAN
    species = np.full(len(fraction), MIXED, dtype=object)
    species[fraction >= min_fraction] = analysed
    # The tolerance keeps 0.1 <= 1 - 0.9 true in floating point.
    species[fraction <= 1 - min_fraction + 1e-9] = other
    species[~(total >= min_umi)] = None
    return species


def _symbols(adata: AnnData) -> pd.Series:
    """Plain symbol of each gene: the column where there is one, else the name without prefix."""
    names = adata.var["symbol"] if "symbol" in adata.var.columns else adata.var_names.to_series()
    plain: pd.Series = names.astype(str).str.replace(_PREFIX, "", regex=True)
    return plain
