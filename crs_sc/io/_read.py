"""Read a cohort from files into the one AnnData that everything else starts from."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from crs_sc import keys
from crs_sc._checks import add_note, sample_table, store
from crs_sc.errors import CrsWarning, InputError, listing
from crs_sc.io._formats import RawFile, open_file
from crs_sc.io._genes import (
    Remarks,
    check_orientation,
    find_genomes,
    guess_organism,
    label_genes,
)
from crs_sc.io._matrix import settle
from crs_sc.io._obs import canonical_obs, check_in_all_files, check_mapping
from crs_sc.io._sheet import Entry, is_sheet, resolve_source

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

    from crs_sc.io._formats import Kind

__all__ = ["FileDescription", "describe_file", "empty_droplet_profile", "read"]

ORGANISMS = ("human", "mouse", "human+mouse", "mouse+human")


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


@dataclass(frozen=True)
class _Part:
    """One file of the cohort, its genes labelled."""

    entry: Entry
    obs: pd.DataFrame
    var: pd.DataFrame
    counts: sparse.csr_matrix
    where: str


def _check_organism_name(organism: str) -> None:
    if organism not in ORGANISMS:
        msg = f"organism must be one of {', '.join(ORGANISMS)}, got {organism!r}."
        raise InputError(msg)


def _require_counts(raw: RawFile) -> tuple[sparse.csr_matrix, str]:
    """Return the counts of a file and where they were, or say what there is instead."""
    if raw.counts is not None and raw.where is not None and min(raw.counts.shape) > 0:
        return raw.counts, raw.where
    if len(raw.obs) == 0 or len(raw.var) == 0:
        msg = f"'{raw.path}' has {len(raw.obs)} cells and {len(raw.var)} genes: nothing to read."
        raise InputError(msg)
    held = "; ".join(f"{name}: {state}" for name, state in raw.states.items()) or "no matrix"
    msg = (
        f"'{raw.path}' has no raw counts. It holds {held}. Whole UMI numbers are needed: put them "
        "into layers['counts'] or X. If these are counts that were corrected for ambient RNA, "
        "declare them with corrected=True."
    )
    raise InputError(msg)


def _fold(counts: sparse.csr_matrix, codes: np.ndarray, n_genes: int) -> sparse.csr_matrix:
    """Add up the columns that became one gene."""
    if n_genes == counts.shape[1]:
        return counts
    ones = np.ones(len(codes), dtype=np.float32)
    to_gene = sparse.csr_matrix((ones, (np.arange(len(codes)), codes)), shape=(len(codes), n_genes))
    return settle(counts @ to_gene)


def _load(entry: Entry, *, organism: str, corrected: bool, remarks: Remarks) -> _Part:
    """Read one file: counts, labelled genes, the file's own columns and the sheet's."""
    raw = open_file(entry.path, corrected=corrected)
    counts, where = _require_counts(raw)
    remarks.notes.extend(raw.notes)
    if where.startswith("layers") and where != f"layers['{keys.COUNTS}']":
        remarks.warn(
            f"{entry.path.name}: X holds no counts; they were taken from {where}, the first layer "
            "of whole numbers."
        )
    twice = raw.obs.index[raw.obs.index.duplicated()]
    if len(twice):
        msg = (
            f"'{entry.path}' has {len(twice)} duplicate cell names, such as '{twice[0]}'. Were "
            "samples put together without a prefix? Make them unique (sample and barcode)."
        )
        raise InputError(msg)
    check_orientation(raw.obs.index, raw.var.index, path=entry.path)
    genes = label_genes(raw.var, organism=organism, path=entry.path.name, remarks=remarks)
    counts = _fold(counts, genes.codes, len(genes.var))
    obs = raw.obs.copy()
    for column, value in entry.columns.items():
        if column in obs.columns:
            remarks.warn(
                f"{entry.path.name}: column '{column}' was taken from the sample sheet, not from "
                "the file."
            )
        obs[column] = value
    return _Part(entry, obs, genes.var, counts, where)


def _common_genes(parts: Sequence[_Part], remarks: Remarks) -> pd.Index:
    """Genes that all files have, in the order of the first file."""
    first = parts[0]
    common = first.var.index
    for part in parts[1:]:
        if (keys.GENOME in part.var) != (keys.GENOME in first.var):
            one, two = (first, part) if keys.GENOME in part.var else (part, first)
            msg = (
                f"'{two.entry.path}' has genes of two genomes and '{one.entry.path}' of one. "
                "Align all samples to the same reference."
            )
            raise InputError(msg)
        both = int(first.var.index.isin(part.var.index).sum())
        smaller = min(len(first.var), len(part.var))
        if both < 0.5 * smaller:
            msg = (
                f"'{first.entry.path}' and '{part.entry.path}' share {both} of {smaller} genes: "
                f"{listing(first.var.index[:3])} against {listing(part.var.index[:3])}. Are the "
                "names of one kind (symbols or Ensembl ids) and of one organism?"
            )
            raise InputError(msg)
        common = common[common.isin(part.var.index)]
    everything = dict.fromkeys(name for part in parts for name in part.var.index)
    if len(common) < len(everything):
        shared = set(common)
        lost = [name for name in everything if name not in shared]
        remarks.warn(
            f"{len(lost)} of {len(everything)} genes are not in every file and were left out: "
            f"{listing(lost)}."
        )
    if len(common) == 0:
        msg = f"No gene is in all {len(parts)} files."
        raise InputError(msg)
    return common


def _stack(parts: Sequence[_Part], genes: pd.Index) -> sparse.csr_matrix:
    blocks = []
    for part in parts:
        same = part.var.index.equals(genes)
        columns = part.var.index.get_indexer(genes)
        blocks.append(part.counts if same else settle(part.counts[:, columns]))
    return blocks[0] if len(blocks) == 1 else settle(sparse.vstack(blocks, format="csr"))


def _default_samples(parts: Sequence[_Part]) -> pd.Series:
    names = [part.entry.name for part in parts]
    return pd.Series(np.repeat(names, [len(part.obs) for part in parts]), dtype="str")


def _check_default_samples(parts: Sequence[_Part], mapping: Mapping[str, str | None]) -> None:
    """Raise if two files would become one sample because their names are the same."""
    column = mapping.get(keys.SAMPLE, keys.SAMPLE)
    unnamed = [part.entry for part in parts if column is None or column not in part.obs.columns]
    if mapping.get(keys.SAMPLE) is not None:
        return
    names = [entry.name for entry in unnamed]
    twice = [entry.path for entry in unnamed if names.count(entry.name) > 1]
    if twice:
        msg = (
            f"Several files would be sample '{_first_repeated(names)}': {listing(twice)}. Give a "
            "sample sheet with a column `sample`."
        )
        raise InputError(msg)


def _first_repeated(names: Sequence[str]) -> str:
    return next(name for name in names if names.count(name) > 1)


def _cell_names(parts: Sequence[_Part], samples: pd.Series) -> pd.Index:
    """Names of all cells: as in the files, or with the sample before them where files clash."""
    held = np.concatenate([part.obs.index.to_numpy() for part in parts])
    names: pd.Index = pd.Index(held, dtype="str")
    if names.is_unique:
        return names
    file = np.repeat(np.arange(len(parts)), [len(part.obs) for part in parts])
    by_file = samples.groupby(file, observed=True).unique()
    own = [tuple(values) for values in by_file]
    if all(len(values) == 1 for values in own) and len(set(own)) == len(own):
        prefixed: pd.Index = pd.Index(samples.astype(str).to_numpy() + "_" + held, dtype="str")
        if prefixed.is_unique:
            return prefixed
    twice = names[names.duplicated()]
    msg = (
        f"{len(twice)} cell names are in more than one file, such as '{twice[0]}', and the files "
        "are not one sample each. Make the names unique (sample and barcode)."
    )
    raise InputError(msg)


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
    import anndata as ad

    _check_organism_name(organism)
    mapping = check_mapping(columns)
    remarks = Remarks()
    parts = [
        _load(entry, organism=organism, corrected=corrected, remarks=remarks)
        for entry in resolve_source(source)
    ]
    _check_default_samples(parts, mapping)
    check_in_all_files(mapping, {part.entry.path: part.obs.columns for part in parts})
    genes = _common_genes(parts, remarks)
    obs = canonical_obs(
        pd.concat([part.obs for part in parts], ignore_index=True),
        mapping,
        default_sample=_default_samples(parts),
    )
    obs.index = _cell_names(parts, obs[keys.SAMPLE])
    var = parts[0].var.loc[genes].copy()
    adata = ad.AnnData(obs=obs, var=var, layers={keys.COUNTS: _stack(parts, genes)})
    where = dict.fromkeys(part.where for part in parts)
    named = [f"{part.entry.path.name}: {part.where}" for part in parts]
    store(adata, keys.MATRIX, next(iter(where)) if len(where) == 1 else "; ".join(named))
    store(adata, keys.ORGANISM, organism)
    store(adata, keys.NOTES, [])
    for note in remarks.notes:
        add_note(adata, note)
    sample_table(adata)
    for text in dict.fromkeys(remarks.warned):
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
    """Profile of the soup from the empty droplets of a raw (unfiltered) 10x matrix.

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
    _check_organism_name(organism)
    raw = open_file(Path(path).expanduser())
    counts, _ = _require_counts(raw)
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
