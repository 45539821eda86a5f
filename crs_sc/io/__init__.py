"""Read what the user has, and write what a run leaves."""

from __future__ import annotations

from crs_sc.io._cohort import CohortFiles, read
from crs_sc.io._files import (
    FileDescription,
    describe_file,
    empty_droplet_profile,
    gene_symbols,
    open_h5ad,
)
from crs_sc.io._matrix import MatrixState, matrix_state
from crs_sc.io._sheet import source_files
from crs_sc.io._tables import read_absolute_counts, read_table, write_table
from crs_sc.io._write import (
    allow_open_files,
    atomic_path,
    write_cohort,
    write_h5ad,
    write_json,
    write_text,
)

__all__ = [
    "CohortFiles",
    "FileDescription",
    "MatrixState",
    "allow_open_files",
    "atomic_path",
    "describe_file",
    "empty_droplet_profile",
    "gene_symbols",
    "matrix_state",
    "open_h5ad",
    "read",
    "read_absolute_counts",
    "read_table",
    "source_files",
    "write_cohort",
    "write_h5ad",
    "write_json",
    "write_table",
    "write_text",
]
