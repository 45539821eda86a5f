"""The files of a cohort as one: cells and genes first, counts when they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from crs_sc import keys
from crs_sc.core.checks import add_note, sample_table, store
from crs_sc.errors import InputError, listing
from crs_sc.io._formats import open_file
from crs_sc.io._genes import Remarks, check_orientation, label_genes
from crs_sc.io._matrix import settle
from crs_sc.io._obs import canonical_obs, check_in_all_files, check_mapping
from crs_sc.io._sheet import resolve_source

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from crs_sc.io._formats import RawFile
    from crs_sc.io._sheet import Entry

__all__ = ["CohortFiles", "check_organism_name", "require_counts"]

ORGANISMS = ("human", "mouse", "human+mouse", "mouse+human")


@dataclass(frozen=True)
class _Part:
    """One file of the cohort, its genes labelled.

    Attributes
    ----------
    entry
        The file.
    obs, var
        Its cells with the columns of the sample sheet, and its genes.
    codes
        Gene of each column of the counts.
    columns
        Position of each of these columns in the file; None where they are those of the file.
    counts
        Cells x genes, where they were asked for.
    where
        Which matrix of the file holds them.
    n_stored
        Values of that matrix, as stored.
    """

    entry: Entry
    obs: pd.DataFrame
    var: pd.DataFrame
    codes: NDArray[np.integer]
    columns: NDArray[np.intp] | None
    counts: sparse.csr_matrix
    where: str
    n_stored: int


def check_organism_name(organism: str) -> None:
    if organism not in ORGANISMS:
        msg = f"organism must be one of {', '.join(ORGANISMS)}, got {organism!r}."
        raise InputError(msg)


def require_counts(raw: RawFile) -> tuple[sparse.csr_matrix, str]:
    """Return the counts of a file and where they were, or say what there is instead."""
    has_cells = min(len(raw.obs), len(raw.var)) > 0
    if raw.counts is not None and raw.where is not None and has_cells:
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


def _load(entry: Entry, *, organism: str, corrected: bool, keep: bool, remarks: Remarks) -> _Part:
    """Read one file: counts if asked for, labelled genes, its own columns and the sheet's."""
    rows = None if keep else np.empty(0, dtype=np.intp)
    raw = open_file(entry.path, corrected=corrected, rows=rows)
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
    return _Part(entry, obs, genes.var, genes.codes, raw.columns, counts, where, raw.n_stored)


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


def _on_genes(part: _Part, counts: sparse.csr_matrix, genes: pd.Index) -> sparse.csr_matrix:
    """Give the counts of one file on the genes of the cohort."""
    if part.var.index.equals(genes):
        return counts
    return settle(counts[:, part.var.index.get_indexer(genes)])


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
    if len(parts) == 1:
        return parts[0].obs.index
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
        mapping = check_mapping(columns)
        remarks = Remarks()
        self._parts = [
            _load(entry, organism=organism, corrected=corrected, keep=keep, remarks=remarks)
            for entry in resolve_source(source)
        ]
        self._keep, self._organism, self._corrected = keep, organism, corrected
        _check_default_samples(self._parts, mapping)
        check_in_all_files(mapping, {part.entry.path: part.obs.columns for part in self._parts})
        genes = _common_genes(self._parts, remarks)
        self.obs = canonical_obs(
            pd.concat([part.obs for part in self._parts], ignore_index=True),
            mapping,
            default_sample=_default_samples(self._parts),
        )
        self.obs.index = _cell_names(self._parts, self.obs[keys.SAMPLE])
        self.var = self._parts[0].var.loc[genes].copy()
        self.warned = list(dict.fromkeys(remarks.warned))
        self.n_values = sum(part.n_stored for part in self._parts)
        self._notes = remarks.notes

    def sample_sizes(self) -> dict[str, int]:
        """Cells of each sample, sorted by name."""
        sizes = self.obs[keys.SAMPLE].astype(str).value_counts()
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
                blocks.append(_on_genes(part, self._counts(part, rows), self.var.index))
        counts = blocks[0] if len(blocks) == 1 else settle(sparse.vstack(blocks, format="csr"))
        if wanted.all():
            return self._cohort(self.obs, counts)
        obs = self.obs[wanted].copy()
        for name in obs.columns[[isinstance(kind, pd.CategoricalDtype) for kind in obs.dtypes]]:
            obs[name] = obs[name].cat.remove_unused_categories()
        return self._cohort(obs, counts)

    def on_disk(self) -> AnnData:
        """Cells x genes whose counts stay in the file.

        Ambient RNA comes with them where the file has it. One pass over the counts finds out
        whether they are sound (`_chunks.count_chunks`).

        Raises
        ------
        InputError
            If the cohort is not one h5ad of one genome with counts stored by cell.
        """
        from crs_sc.io._mapped import leave_on_disk

        if len(self._parts) > 1 or keys.GENOME in self.var:
            what = "genes of two genomes" if keys.GENOME in self.var else "several files"
            msg = (
                f"Counts can stay on disk in one h5ad of one genome; this cohort is {what}. Run "
                "`crs-sc run`, and go on with its cohort.h5ad."
            )
            raise InputError(msg)
        part = self._parts[0]
        adata = self._cohort(self.obs, None)
        leave_on_disk(
            adata, part.entry.path, where=part.where, codes=part.codes, columns=part.columns
        )
        return adata

    def _counts(self, part: _Part, rows: NDArray[np.intp]) -> sparse.csr_matrix:
        """Read the counts of some cells on the genes of their file."""
        if self._keep:
            return part.counts if len(rows) == len(part.obs) else part.counts[rows]
        some = rows if len(rows) < len(part.obs) else None
        raw = open_file(part.entry.path, corrected=self._corrected, rows=some)
        counts, where = require_counts(raw)
        if where != part.where:
            msg = (
                f"'{part.entry.path}' holds counts in {part.where} at its beginning, but for "
                f"other cells in {where}. Write one matrix of counts into layers['counts']."
            )
            raise InputError(msg)
        return _fold(counts, part.codes, len(part.var))

    def _cohort(self, obs: pd.DataFrame, counts: sparse.csr_matrix | None) -> AnnData:
        import anndata as ad

        layers = {} if counts is None else {keys.COUNTS: counts}
        # The names are known to be unique; anndata would look at a million of them once more.
        with ad.settings.override(restrict_index_types=False):
            adata = ad.AnnData(obs=obs, var=self.var.copy(), layers=layers)
        where = dict.fromkeys(part.where for part in self._parts)
        named = [f"{part.entry.path.name}: {part.where}" for part in self._parts]
        store(adata, keys.MATRIX, next(iter(where)) if len(where) == 1 else "; ".join(named))
        store(adata, keys.ORGANISM, self._organism)
        store(adata, keys.NOTES, [])
        for note in self._notes:
            add_note(adata, note)
        sample_table(adata)
        return adata
