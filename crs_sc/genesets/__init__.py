"""Gene sets, symbols and gene families: what the package knows about genes, all of it as data.

The tables in `crs_sc/data` hold one row a gene with its source. Mouse panels and signatures are
the human ones through `orthologs.tsv`, except for the populations that have rows of their own.
"""

from __future__ import annotations

from crs_sc.genesets._names import (
    coverage,
    haemoglobin_genes,
    immune_receptor_genes,
    immunoglobulin_genes,
    kept_out,
    match_genes,
    mitochondrial_genes,
    overview,
    resolve_symbols,
    sex_genes,
)
from crs_sc.genesets._tables import (
    RECEPTOR_ROLES,
    TARGET_CYTOKINES,
    cell_type_panels,
    lineages,
    load_cell_types,
    load_label_names,
    load_receptors,
    load_signatures,
    name_labels,
    orthologs,
    signatures,
    target_cytokines,
)
from crs_sc.genesets._user import read_gene_sets, read_gmt, read_markers

__all__ = [
    "RECEPTOR_ROLES",
    "TARGET_CYTOKINES",
    "cell_type_panels",
    "coverage",
    "haemoglobin_genes",
    "immune_receptor_genes",
    "immunoglobulin_genes",
    "kept_out",
    "lineages",
    "load_cell_types",
    "load_label_names",
    "load_receptors",
    "load_signatures",
    "match_genes",
    "mitochondrial_genes",
    "name_labels",
    "orthologs",
    "overview",
    "read_gene_sets",
    "read_gmt",
    "read_markers",
    "resolve_symbols",
    "sex_genes",
    "signatures",
    "target_cytokines",
]
