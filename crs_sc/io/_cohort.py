"""The files of a cohort as one: cells and genes first, counts when they are asked for."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from crs_sc import keys
from crs_sc.core.blocks import STORED_COUNTS
from crs_sc.core.checks import add_note, sample_table, store
from crs_sc.errors import CrsWarning, InputError, listing
from crs_sc.io._files import by_cell, one_error, open_file, require_counts
from crs_sc.io._genes import Remarks, check_organism_name, check_orientation, label_genes
from crs_sc.io._matrix import Reading, settle
from crs_sc.io._obs import canonical_obs, check_in_all_files, check_mapping
from crs_sc.io._sheet import resolve_source

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray

    from crs_sc.io._files import RawFile
    from crs_sc.io._sheet import Entry

__all__ = ["CohortFiles", "read"]


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

    Examples
    --------
    >>> import tempfile
    >>> import crs_sc as crs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     crs.io.write_h5ad(crs.datasets.toy_cohort(state="raw"), f"{folder}/cells.h5ad")
    ...     adata = crs.io.read(f"{folder}/cells.h5ad", columns={"batch": None})
    >>> adata.uns["crs_sc"]["matrix"]
    "layers['counts']"
    """
    files = CohortFiles(source, columns=columns, organism=organism, corrected=corrected, keep=True)
    adata = files.read()
    for text in files.warned:
        warnings.warn(text, CrsWarning, stacklevel=2)
    return adata


@dataclass(frozen=True)
class _Part:
    """One file of the cohort: as it is, its cells with the sheet's columns, its genes labelled.

    `gene` has the row of `var` for each gene of the file.
    """

    entry: Entry
    obs: pd.DataFrame
    var: pd.DataFrame
    gene: NDArray[np.intp]
    raw: RawFile

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self.entry.path


class CohortFiles:
    """The files of a cohort, their cells and genes labelled.

    Parameters
    ----------
    source, columns, organism, corrected
        As for `read`.
    keep
        Read all counts now, and judge what the matrices hold by all of their values; else by their
        beginning, and by the cells that are read later.

    Attributes
    ----------
    warned
        What the user is to be told.
    obs, var
        Cells and genes of the cohort.
    n_values
        Counts that the files store.

    Examples
    --------
    >>> import tempfile
    >>> import crs_sc as crs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     crs.io.write_h5ad(crs.datasets.toy_cohort(state="raw"), f"{folder}/cells.h5ad")
    ...     files = crs.io.CohortFiles(f"{folder}/cells.h5ad")
    ...     first = next(iter(files.sample_sizes()))
    ...     one = files.read([first])
    >>> one.n_obs == files.sample_sizes()[first]
    True
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        columns: Mapping[str, str | None] | None = None,
        organism: str = "human",
        corrected: bool = False,
        keep: bool = False,
    ) -> None:
        check_organism_name(organism)
        mapping, remarks = check_mapping(columns), Remarks()
        reading = Reading(corrected=corrected, rows=None if keep else np.empty(0, dtype=np.intp))
        self._parts = [
            _load(entry, reading, organism=organism, remarks=remarks)
            for entry in resolve_source(source)
        ]
        self._keep, self._organism, self._corrected = keep, organism, corrected
        _check_default_samples(self._parts, mapping)
        check_in_all_files(mapping, {part.path: part.obs.columns for part in self._parts})
        genes = _common_genes(self._parts, remarks)
        names, tables = zip(*((part.entry.name, part.obs) for part in self._parts), strict=True)
        self.obs = canonical_obs(
            pd.concat(tables, ignore_index=True),
            mapping,
            default_sample=pd.Series(np.repeat(names, [*map(len, tables)]), dtype="str"),
        )
        self.obs.index = _cell_names(self._parts, self.obs[keys.SAMPLE])
        self.var = self._parts[0].var.loc[genes].copy()
        self.warned = list(dict.fromkeys(remarks.warned))
        self.n_values = sum(part.raw.n_stored for part in self._parts)
        self._notes = remarks.notes

    def sample_sizes(self) -> dict[str, int]:
        """Cells of each sample, sorted by name."""
        sizes = self.obs[keys.SAMPLE].value_counts()
        return {str(name): int(sizes[name]) for name in sorted(sizes.index)}

    def header(self) -> AnnData:
        """Cells and genes without counts."""
        return self._cohort(self.obs.copy(), None)

    def read(self, samples: Sequence[str] | None = None) -> AnnData:
        """Cells x genes with counts, as `read` describes it.

        Parameters
        ----------
        samples
            Only the cells of these samples; from h5ad and 10x `.h5` only these are read.

        Raises
        ------
        InputError
            If there is no such sample, or its counts are damaged.
        """
        wanted = np.ones(len(self.obs), dtype=bool)
        if samples is not None:
            known = self.obs[keys.SAMPLE].cat.categories
            if absent := [name for name in samples if name not in known]:
                msg = f"There is no sample {listing(absent)}. Samples: {listing(known)}."
                raise InputError(msg)
            wanted = self.obs[keys.SAMPLE].isin(list(samples)).to_numpy()
        blocks, start = [], 0
        for part in self._parts:
            rows = np.flatnonzero(wanted[start : start + len(part.obs)])
            start += len(part.obs)
            if len(rows):
                blocks.append(self._counts(part, rows))
        counts = blocks[0] if len(blocks) == 1 else settle(sparse.vstack(blocks, format="csr"))
        if wanted.all():
            return self._cohort(self.obs, counts)
        obs = self.obs[wanted].copy()
        for name in obs.select_dtypes("category"):
            obs[name] = obs[name].cat.remove_unused_categories()
        return self._cohort(obs, counts)

    def on_disk(self) -> AnnData:
        """Cells x genes whose counts stay in the file, for `core.blocks.count_chunks`.

        They are `layers["counts"]` where each column of the file is one gene. Else `obsm` and `uns`
        have the matrix as it is and the gene of each column. Ambient RNA comes with them where the
        file has it. One pass over the counts finds out whether they are sound.

        Raises
        ------
        InputError
            If the cohort is not one h5ad of one genome with counts stored by cell.
        """
        import h5py

        if len(self._parts) > 1 or keys.GENOME in self.var:
            what = "genes of two genomes" if keys.GENOME in self.var else "several files"
            msg = (
                f"Counts can stay on disk in one h5ad of one genome; this cohort is {what}. Run "
                "`crs-sc run`, and go on with its cohort.h5ad."
            )
            raise InputError(msg)
        adata, raw = self._cohort(self.obs, None), self._parts[0].raw
        where = str(raw.where)
        with one_error(raw.path):
            file = h5py.File(raw.path, "r")
            place = where.replace("layers['", "layers/").replace("']", "").replace(".", "/")
            matrix = by_cell(file[place], raw.path, where)
            genes = np.full(matrix.shape[1], -1, dtype=np.int32)
            genes[slice(None) if raw.columns is None else raw.columns] = self._parts[0].gene
            if np.array_equal(genes, np.arange(adata.n_vars)):
                adata.layers[keys.COUNTS] = matrix
            else:
                adata.obsm[STORED_COUNTS] = matrix
                store(adata, STORED_COUNTS, genes)
            if where != "raw.X":
                _take_ambient(adata, file, genes)
        return adata

    def _counts(self, part: _Part, rows: NDArray[np.intp]) -> sparse.csr_matrix:
        """Read the counts of some cells on the genes of the cohort."""
        is_whole = len(rows) == len(part.obs)
        if self._keep:
            counts, _ = require_counts(part.raw)
            counts = counts if is_whole else counts[rows]
        else:
            reading = Reading(corrected=self._corrected, rows=None if is_whole else rows)
            counts, now = require_counts(open_file(part.path, reading))
            if now != part.raw.where:
                msg = (
                    f"'{part.path}' holds counts in {part.raw.where} at its beginning, but for "
                    f"other cells in {now}. Write one matrix of counts into layers['counts']."
                )
                raise InputError(msg)
            counts = _fold(counts, part.gene, len(part.var))
        if part.var.index.equals(self.var.index):
            return counts
        return settle(counts[:, part.var.index.get_indexer(self.var.index)])

    def _cohort(self, obs: pd.DataFrame, counts: sparse.csr_matrix | None) -> AnnData:
        import anndata as ad

        layers = {} if counts is None else {keys.COUNTS: counts}
        # The names are known to be unique; anndata would look at a million of them once more.
        with ad.settings.override(restrict_index_types=False):
            adata = ad.AnnData(obs=obs, var=self.var.copy(), layers=layers)
        where = {str(part.raw.where) for part in self._parts}
        named = (f"{part.path.name}: {part.raw.where}" for part in self._parts)
        store(adata, keys.MATRIX, where.pop() if len(where) == 1 else "; ".join(named))
        store(adata, keys.ORGANISM, self._organism)
        store(adata, keys.NOTES, [])
        for note in self._notes:
            add_note(adata, note)
        sample_table(adata)
        return adata


def _load(entry: Entry, reading: Reading, *, organism: str, remarks: Remarks) -> _Part:
    """Read one file: counts if asked for, labelled genes, its own columns and the sheet's."""
    raw = open_file(entry.path, reading)
    counts, where = require_counts(raw)
    remarks.notes.extend(raw.notes)
    if where.startswith("layers") and where != f"layers['{keys.COUNTS}']":
        remarks.warn(
            f"{entry.path.name}: X holds no counts; they were taken from {where}, the first layer "
            "of whole numbers."
        )
    if not raw.obs.index.is_unique:
        twice = raw.obs.index[raw.obs.index.duplicated()]
        msg = (
            f"'{entry.path}' has {len(twice)} duplicate cell names, such as '{twice[0]}'. Were "
            "samples put together without a prefix? Make them unique (sample and barcode)."
        )
        raise InputError(msg)
    check_orientation(raw.obs.index, raw.var.index, path=entry.path)
    var, gene = label_genes(raw.var, organism=organism, path=entry.path.name, remarks=remarks)
    obs = raw.obs.copy()
    for column, value in entry.columns.items():
        if column in obs.columns:
            remarks.warn(
                f"{entry.path.name}: column '{column}' was taken from the sample sheet, not from "
                "the file."
            )
        obs[column] = value
    return _Part(entry, obs, var, gene, replace(raw, counts=_fold(counts, gene, len(var))))


def _fold(counts: sparse.csr_matrix, gene: NDArray[np.intp], n_genes: int) -> sparse.csr_matrix:
    """Add up the columns that became one gene."""
    if len(gene) == n_genes:
        return counts
    ones, rows = np.ones(len(gene), dtype=np.float32), np.arange(len(gene) + 1)
    return settle(counts @ sparse.csr_matrix((ones, gene, rows), shape=(len(gene), n_genes)))


def _common_genes(parts: Sequence[_Part], remarks: Remarks) -> pd.Index:
    """Genes that all files have, in the order of the first file."""
    first = parts[0]
    common = first.var.index
    for part in parts[1:]:
        if (keys.GENOME in part.var) != (keys.GENOME in first.var):
            one, two = (first, part) if keys.GENOME in part.var else (part, first)
            msg = (
                f"'{two.path}' has genes of two genomes and '{one.path}' of one. "
                "Align all samples to the same reference."
            )
            raise InputError(msg)
        both = int(first.var.index.isin(part.var.index).sum())
        smaller = min(len(first.var), len(part.var))
        if both < 0.5 * smaller:
            msg = (
                f"'{first.path}' and '{part.path}' share {both} of {smaller} genes: "
                f"{listing(first.var.index[:3])} against {listing(part.var.index[:3])}. Are the "
                "names of one kind (symbols or Ensembl ids) and of one organism?"
            )
            raise InputError(msg)
        common = common[common.isin(part.var.index)]
    everything = pd.Index(pd.unique(np.concatenate([part.var.index for part in parts])))
    lost = everything[~everything.isin(common)]
    if len(lost):
        remarks.warn(
            f"{len(lost)} of {len(everything)} genes are not in every file and were left out: "
            f"{listing(lost)}."
        )
    if len(common) == 0:
        msg = f"No gene is in all {len(parts)} files."
        raise InputError(msg)
    return common


def _check_default_samples(parts: Sequence[_Part], mapping: Mapping[str, str | None]) -> None:
    """Raise if two files would become one sample because their names are the same."""
    column = mapping.get(keys.SAMPLE, keys.SAMPLE)
    if mapping.get(keys.SAMPLE) is not None:
        return
    unnamed = [part.entry for part in parts if column is None or column not in part.obs.columns]
    names = [entry.name for entry in unnamed]
    twice = [entry for entry in unnamed if names.count(entry.name) > 1]
    if twice:
        msg = (
            f"Several files would be sample '{twice[0].name}': "
            f"{listing(entry.path for entry in twice)}. Give a sample sheet with a column `sample`."
        )
        raise InputError(msg)


def _cell_names(parts: Sequence[_Part], samples: pd.Series) -> pd.Index:
    """Names of all cells: as in the files, or with the sample before them where files clash."""
    if len(parts) == 1:
        return parts[0].obs.index
    held = np.concatenate([part.obs.index.to_numpy() for part in parts])
    names: pd.Index = pd.Index(held, dtype="str")
    if names.is_unique:
        return names
    file = np.repeat(np.arange(len(parts)), [len(part.obs) for part in parts])
    of_file = [tuple(values) for values in samples.groupby(file, observed=True).unique()]
    prefixed: pd.Index = pd.Index(samples.astype(str).to_numpy() + "_" + held, dtype="str")
    is_sample_each = {*map(len, of_file)} == {1} and len(set(of_file)) == len(of_file)
    if is_sample_each and prefixed.is_unique:
        return prefixed
    twice = names[names.duplicated()]
    msg = (
        f"{len(twice)} cell names are in more than one file, such as '{twice[0]}', and the files "
        "are not one sample each. Make the names unique (sample and barcode)."
    )
    raise InputError(msg)


def _take_ambient(adata: AnnData, file: Any, genes: NDArray[np.int32]) -> None:
    """Take over profile and contamination, where the file has both for all samples."""
    from anndata.io import read_elem

    place, table = f"varm/{keys.AMBIENT_PROFILE}", f"uns/{keys.UNS}/{keys.CONTAMINATION}"
    if place not in file or table not in file:
        return
    profile, contamination = read_elem(file[place]), read_elem(file[table])
    samples = [str(name) for name in adata.obs[keys.SAMPLE].cat.categories]
    if set(samples) - (set(map(str, profile.columns)) & set(map(str, contamination.index))):
        return
    shares = np.zeros((adata.n_vars, len(samples)))
    kept = genes >= 0
    np.add.at(shares, genes[kept], profile[samples].to_numpy(dtype=np.float64)[kept])
    adata.varm[keys.AMBIENT_PROFILE] = pd.DataFrame(shares, index=adata.var_names, columns=samples)
    store(adata, keys.CONTAMINATION, contamination)
