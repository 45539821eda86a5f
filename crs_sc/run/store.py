"""The folder of results: what each stage left in it, and whether that is complete and current.

A stage writes its files atomically and then a stamp: the digest of everything the result depends
on, and the size and digest of each file. A stage is done if its stamp says so and the files are
still those. Without the stamp nothing is trusted, so a run may be killed at any instant.

    work/qc/SAMPLE.h5ad    cells of a sample that passed QC, with their counts
    work/counts.h5ad       counts of all of them, one below the other
    work/STAGE.h5ad        what is known of the cohort after a stage: no matrix of cells x genes
    cohort.h5ad            all of it, with the counts and log-normalised expression
    tables/NAME.tsv        the tables
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from crs_sc import keys
from crs_sc.io import (
    allow_open_files,
    atomic_path,
    open_h5ad,
    read_table,
    write_cohort,
    write_h5ad,
    write_json,
    write_table,
)
from crs_sc.preprocessing import merge_samples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData

__all__ = ["Store", "digest", "file_digest"]

_BLOCK = 1 << 22
_SLOTS = ("obs", "var", "obsm", "varm", "obsp", "uns")


def digest(*parts: Any) -> str:
    """SHA-256 of values that JSON can hold, independent of the order of dictionary keys."""
    text = json.dumps(parts, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, or of all files in a folder with their names."""
    if path.is_dir():
        return digest([(p.name, file_digest(p)) for p in sorted(path.iterdir()) if p.is_file()])
    state = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            state.update(block)
    return state.hexdigest()


class Store:
    """Files of a run, and the last cohort, pseudobulk and tables still in memory.

    Parameters
    ----------
    out
        The folder.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._work = out / "work"
        self._held: tuple[str, AnnData] | None = None
        self._bulk: AnnData | None = None
        self._tables: dict[str, pd.DataFrame] = {}

    # --- where things are ---------------------------------------------------------------------

    @property
    def cohort_file(self) -> Path:
        """The cohort with everything in it."""
        return self.out / "cohort.h5ad"

    def table_file(self, name: str) -> Path:
        """Path of a table of `keys.TABLES`."""
        return self.out / "tables" / f"{name}.tsv"

    def sample_file(self, name: str) -> Path:
        """Cells of one sample after QC."""
        return self._work / "qc" / f"{_file_name(name)}.h5ad"

    def _stage_file(self, name: str) -> Path:
        return self._work / f"{name}.h5ad"

    @property
    def _counts_file(self) -> Path:
        return self._work / "counts.h5ad"

    def _counts(self) -> Any:
        """Open the counts of all samples and leave them on disk."""
        import h5py
        from anndata.io import sparse_dataset

        return sparse_dataset(h5py.File(self._counts_file)["X"])

    # --- cells --------------------------------------------------------------------------------

    def write_sample(self, name: str, cells: AnnData) -> Path:
        """Write the cells of one sample after QC."""
        import anndata as ad

        path = self.sample_file(name)
        known = {slot: getattr(cells, slot) for slot in ("obs", "var", "varm", "uns")}
        # In `X`, where `concat_on_disk` looks for them.
        write_h5ad(ad.AnnData(cells.layers[keys.COUNTS], **known), path)
        return path

    def merge(self, samples: Sequence[str]) -> AnnData:
        """Put the samples together: counts in one file on disk, all else in memory."""
        from anndata.experimental import concat_on_disk

        files = [self.sample_file(name) for name in samples]
        parts = [_without_counts(path) for path in files]
        adata = merge_samples(parts)
        filled = [path for path, part in zip(files, parts, strict=True) if part.n_obs]
        # All of them are open at a time.
        allow_open_files(len(filled))
        with atomic_path(self._counts_file) as temporary:
            concat_on_disk(filled, temporary, merge="same")
        adata.layers[keys.COUNTS] = self._counts()
        return adata

    def cohort(self, *, after: str) -> AnnData:
        """Return the cohort as a stage left it: all genes, the counts on disk.

        After `sources` it is the `cohort.h5ad`, of which `X` is on disk too.
        """
        import anndata as ad

        if self._held is None or self._held[0] != after:
            if after == "sources":
                adata = open_h5ad(self.cohort_file)
            else:
                adata = ad.read_h5ad(self._stage_file(after))
                adata.layers[keys.COUNTS] = self._counts()
            self._held = (after, adata)
        return self._held[1]

    def keep(self, stage: str, adata: AnnData) -> list[Path]:
        """Write what is known of the cohort after a stage, its counts left where they are."""
        import anndata as ad

        self._held, self._bulk = (stage, adata), None
        known = ad.AnnData(shape=adata.shape, **{name: getattr(adata, name) for name in _SLOTS})
        write_h5ad(known, self._stage_file(stage))
        return [self._stage_file(stage), *([self._counts_file] if stage == "cluster" else [])]

    def keep_cohort(self, adata: AnnData, *, target_sum: float) -> Path:
        """Write the cohort with its counts and log-normalised expression; hold it no longer."""
        self._held, self._bulk = None, None
        write_cohort(adata, self.cohort_file, target_sum=target_sum)
        return self.cohort_file

    def pseudobulk(self, make: Callable[[AnnData], AnnData]) -> AnnData:
        """UMI by subject and population of the cohort, made once."""
        if self._bulk is None:
            self._bulk = make(self.cohort(after="sources"))
        return self._bulk

    # --- tables -------------------------------------------------------------------------------

    def keep_tables(self, tables: Mapping[str, pd.DataFrame], *, n_jobs: int) -> list[Path]:
        """Write tables by name."""
        for name, table in tables.items():
            self._tables[name] = write_table(table, self.table_file(name), n_jobs=n_jobs)
        return [self.table_file(name) for name in tables]

    def table(self, name: str) -> pd.DataFrame:
        """Return a table of `keys.TABLES`."""
        if name not in self._tables:
            self._tables[name] = read_table(self.table_file(name))
        return self._tables[name]

    def tables(self) -> dict[str, pd.DataFrame]:
        """All tables."""
        return {name: self.table(name) for name in keys.TABLES}

    # --- stamps -------------------------------------------------------------------------------

    def _stamp_file(self, name: str) -> Path:
        """Stamp of a stage; that of one sample's QC is named `qc/SAMPLE`."""
        folder, _, last = name.rpartition("/")
        return self._work / folder / f"{_file_name(last)}.json"

    def stamp(self, name: str) -> dict[str, Any] | None:
        """Return the stamp of a stage, None if there is no readable one."""
        try:
            content = json.loads(self._stamp_file(name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def files(self, name: str) -> list[Path]:
        """Files that a finished stage left."""
        stamp = self.stamp(name) or {"files": {}}
        return [self.out / file for file in stamp["files"]]

    def is_current(self, name: str, key: str) -> bool:
        """Whether the stage was finished with this key and its files are still those."""
        stamp = self.stamp(name)
        if stamp is None or stamp.get("key") != key:
            return False
        for file, known in stamp["files"].items():
            path = self.out / file
            if not path.is_file() or path.stat().st_size != known["size"]:
                return False
            if file_digest(path) != known["sha256"]:
                return False
        return True

    def finish(self, name: str, key: str, files: Iterable[Path], **facts: Any) -> None:
        """Stamp a stage as done.

        Parameters
        ----------
        name
            The stage.
        key
            Digest of all that the result depends on.
        files
            What the stage wrote, already complete.
        **facts
            What else the stamp should say, such as the seconds it took.
        """
        known = {
            str(path.relative_to(self.out)): {
                "size": path.stat().st_size,
                "sha256": file_digest(path),
            }
            for path in files
        }
        write_json({"stage": name, "key": key, "files": known, **facts}, self._stamp_file(name))

    def input_digest(self, path: Path) -> str:
        """Digest of a file of the user; it is read again only if the file was touched since.

        Every job of a workflow asks, and a cohort of a million cells takes a minute to read.
        """
        state = path.stat()
        seen = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
        note = self._work / "inputs" / f"{digest(str(path.resolve()))[:16]}.json"
        try:
            known = json.loads(note.read_text(encoding="utf-8"))
            if known["state"] == seen:
                return str(known["sha256"])
        except (OSError, ValueError, KeyError, TypeError):
            # Not looked at yet, or not by this version.
            known = {}
        known |= {"path": str(path), "state": seen, "sha256": file_digest(path)}
        write_json(known, note)
        return str(known["sha256"])


def _without_counts(path: Path) -> AnnData:
    """Read all of a sample but its counts."""
    import anndata as ad
    import h5py
    from anndata.io import read_elem

    with h5py.File(path) as file:
        return ad.AnnData(**{name: read_elem(file[name]) for name in ("obs", "var", "varm", "uns")})


def _file_name(name: str) -> str:
    """Name of a sample as a file name, distinct for distinct names."""
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
    return safe if safe == name and not name.startswith(".") else f"{safe}-{digest(name)[:8]}"
