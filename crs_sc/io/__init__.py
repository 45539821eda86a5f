"""Read what the user has, and write what a run leaves."""

from __future__ import annotations

from crs_sc.io._absolute import read_absolute_counts
from crs_sc.io._atomic import atomic_path, write_json, write_text
from crs_sc.io._cohort import CohortFiles
from crs_sc.io._gene_names import gene_symbols
from crs_sc.io._lazy import open_h5ad
from crs_sc.io._open_files import allow_open_files
from crs_sc.io._read import FileDescription, describe_file, empty_droplet_profile, read
from crs_sc.io._sheet import source_files
from crs_sc.io._state import MatrixState, matrix_state
from crs_sc.io._tables import read_table, write_table
from crs_sc.io._write import write_cohort, write_h5ad

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
