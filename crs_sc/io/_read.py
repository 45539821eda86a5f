"""Read a cohort from files into the one AnnData that everything else starts from."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc.errors import CrsWarning, InputError
from crs_sc.io._cohort import CohortFiles, check_organism_name, require_counts
from crs_sc.io._formats import open_file
from crs_sc.io._genes import Remarks, find_genomes, guess_organism, label_genes
from crs_sc.io._sheet import is_sheet

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

    from crs_sc.io._kind import Kind

__all__ = ["FileDescription", "describe_file", "empty_droplet_profile", "read"]


@dataclass(frozen=True)
class FileDescription:
    """What one file holds, for guesses about a config.

    Attributes
    ----------
    path, kind
        Where it is, and its format by content.
    n_cells, n_genes
        Size.
    obs
        The file's own columns, indexed by cell name.
    var_names
        Gene names as in the file.
    genomes
        `human`, `mouse`, both, or none where neither can be told by prefix or Ensembl id.
    organism
        Guess of `human`, `mouse` or `human+mouse`; None where the names say nothing.
    counts
        Which matrix holds raw counts, such as `X`; None if none does.
    states
        What each matrix that was looked at holds, in words.
    """

    path: Path
    kind: Kind
    n_cells: int
    n_genes: int
    obs: pd.DataFrame
    var_names: pd.Index
    genomes: tuple[str, ...]
    organism: str | None
    counts: str | None
    states: dict[str, str]


def read(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    columns: Mapping[str, str | None] | None = None,
    organism: str = "human",
    corrected: bool = False,
) -> AnnData:
    """Read a cohort: raw counts, and the user's columns under the names that the package uses.

    Parameters
    ----------
    source
        An h5ad, a 10x `.h5`, a 10x matrix folder, a list of those, or a sample sheet (`.tsv` or
        `.csv`) with a column `path`, relative to the sheet's folder. The sheet's other columns
        become columns of `obs` for all cells of that file, before the file's own.
    columns
        Canonical name (sample, subject, condition, timepoint, batch, label, sampling_weight) ->
        the user's column; None: do not use a column of that name. A canonical name that is left
        out uses the column of that name where there is one.
    organism
        `human`, `mouse`, or both joined by `+` for data with genes of two genomes (the first is
        the one analysed).
    corrected
        The counts were corrected for ambient RNA (CellBender, SoupX): fractions in
        `layers["counts"]`, `X` and `raw.X` are rounded to whole UMI, and a note says so. Matrices
        whose cells all have one total, or that are logarithms, are still refused. Whole counts are
        taken as they are.

    Returns
    -------
    New AnnData, cells x genes. `X` is empty until normalisation.

    - `layers["counts"]`: CSR float32 of whole numbers. They are looked for in `layers["counts"]`,
      `X`, the other layers and `raw.X`; `uns["crs_sc"]["matrix"]` says where they were.
    - `obs`: the canonical columns as categories of strings (weights as float), then the user's
      columns. A user's column with a name that the package writes is kept as `<name>_original`.
      Without a sample column each file is one sample, named by the file; without a subject the
      sample is the subject; without a condition all cells are in the condition `all`.
    - `var`: names are current symbols, `original_name`, `gene_id` where known. With two genomes
      the names stay as in the file, and `genome` and `symbol` are added. Counts of genes with
      the same symbol are added up.
    - `uns["crs_sc"]`: `matrix`, `organism`, `notes`.

    Embeddings, other layers, `.raw` and other `uns` of the files are left behind. Where files
    have different genes, those in all of them are kept. Where files of one sample each have the
    same barcodes, all cells are named `SAMPLE_BARCODE`.

    Raises
    ------
    MissingKeyError
        If a mapped column is not there.
    InputError
        If a file is not there, damaged or of another format; if no matrix holds whole counts, or
        one holds counts beside NaN, negative, fractional or impossible values; if cells have
        duplicate names, missing values in a mapped column, or the matrix is transposed; if the
        files do not share half of their genes; or if a sample has two subjects or conditions.

    Warns
    -----
    CrsWarning
        If genes were left out, names were damaged by a spreadsheet, ids could not be named, or
        the counts were in a layer of another name.
    """
    files = CohortFiles(source, columns=columns, organism=organism, corrected=corrected, keep=True)
    adata = files.read()
    for text in files.warned:
        warnings.warn(text, CrsWarning, stacklevel=2)
    return adata


def describe_file(path: str | os.PathLike[str]) -> FileDescription:
    """Look at one file: columns, genes, organism, and where its counts are.

    All values of the matrices are read, up to the first that holds counts, but none is kept.

    Parameters
    ----------
    path
        An h5ad, a 10x `.h5` or a 10x matrix folder.

    Raises
    ------
    InputError
        If the file cannot be read, or holds counts beside values that are none.
    """
    path = Path(path).expanduser()
    if is_sheet(path):
        msg = f"'{path}' is a sample sheet. Name one of the files in it."
        raise InputError(msg)
    raw = open_file(path, keep=False)
    genomes = find_genomes(raw.var)
    return FileDescription(
        path=path,
        kind=raw.kind,
        n_cells=len(raw.obs),
        n_genes=len(raw.var),
        obs=raw.obs,
        var_names=raw.var.index,
        genomes=tuple(name for name in ("human", "mouse") if (genomes == name).any()),
        organism=guess_organism(raw.var) if len(raw.var) else None,
        counts=raw.where,
        states=raw.states,
    )


def empty_droplet_profile(
    path: str | os.PathLike[str], *, max_umi: int = 100, organism: str = "human"
) -> pd.Series:
    """Profile of ambient RNA from the empty droplets of a raw (unfiltered) 10x matrix.

    Parameters
    ----------
    path
        Raw matrix: 10x `.h5`, 10x matrix folder or h5ad.
    max_umi
        A droplet with more UMI than this may hold a cell and is left out.
    organism
        As for `read`.

    Returns
    -------
    Share of UMI by gene, named as `read` names the genes of that file; sums to 1.

    Raises
    ------
    InputError
        If the file cannot be read, or has no droplet with 1 to `max_umi` UMI.
    """
    check_organism_name(organism)
    raw = open_file(Path(path).expanduser())
    counts, _ = require_counts(raw)
    genes = label_genes(raw.var, organism=organism, path=raw.path.name, remarks=Remarks())
    totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    empty = (totals > 0) & (totals <= max_umi)
    if not empty.any():
        msg = (
            f"'{raw.path}' has no droplet with 1 to {max_umi} UMI (the smallest has "
            f"{totals.min():.0f}). Give the raw matrix, not the filtered one."
        )
        raise InputError(msg)
    sums = np.asarray(empty.astype(np.float64) @ counts).ravel()
    by_gene = np.bincount(genes.codes, weights=sums, minlength=len(genes.var))
    return pd.Series(by_gene / by_gene.sum(), index=genes.var.index, name=raw.path.name)
