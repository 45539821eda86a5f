"""Names of genes: retired symbols, Ensembl ids, and what the data can see."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

import pandas as pd

from crs_sc import keys
from crs_sc.genesets._tables import (
    Organism,
    check_organism,
    load_cell_types,
    load_signatures,
    packaged_table,
    signatures,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

__all__ = ["coverage", "current_names", "match_genes", "overview", "resolve_symbols", "unversioned"]

_ENSEMBL = re.compile(r"^(ENS(?:MUS)?G\d{11})\.\d+$")


@functools.cache
def current_names(organism: str) -> dict[str, str]:
    """Retired symbol or Ensembl id -> current symbol."""
    aliases, ids = packaged_table("aliases"), packaged_table("gene_ids")
    aliases = aliases.loc[aliases["organism"] == organism]
    ids = ids.loc[ids["organism"] == organism]
    return dict(zip(aliases["alias"], aliases["symbol"], strict=True)) | dict(
        zip(ids["gene_id"], ids["symbol"], strict=True)
    )


@functools.cache
def _other_names(organism: str) -> dict[str, tuple[str, ...]]:
    """Names that each current symbol also goes by: retired symbols, then Ensembl ids."""
    names: dict[str, list[str]] = {}
    for other, symbol in current_names(organism).items():
        names.setdefault(symbol, []).append(other)
    return {symbol: tuple(others) for symbol, others in names.items()}


def unversioned(name: str) -> str:
    """Ensembl id without its version; any other name as it is."""
    match = _ENSEMBL.match(name)
    return match.group(1) if match else name


def resolve_symbols(names: Iterable[str], *, organism: Organism = "human") -> list[str]:
    """Bring names of genes to current symbols.

    Parameters
    ----------
    names
        Symbols, retired symbols or Ensembl ids, with or without version.
    organism
        `human` or `mouse`.

    Returns
    -------
    One name for each name: the current symbol where the tables know a retired symbol or an id,
    else the name itself.

    Raises
    ------
    InputError
        If the organism is unknown.

    Notes
    -----
    The tables cover the packaged gene sets, the target cytokines with their receptors, and the
    mitochondrial, immunoglobulin, haemoglobin and sex-linked genes. Other genes pass unchanged.
    """
    check_organism(organism)
    current = current_names(organism)
    return [current.get(unversioned(str(name)), str(name)) for name in names]


def match_genes(
    genes: Iterable[str], var_names: Iterable[str], *, organism: Organism = "human"
) -> dict[str, str]:
    """Find genes in the data under the name that the data give them.

    Parameters
    ----------
    genes
        Wanted genes: symbols (current or retired) or Ensembl ids.
    var_names
        Names of the genes in the data.
    organism
        `human` or `mouse`.

    Returns
    -------
    Wanted gene -> name in the data, in the order of `genes`; genes that the data lack are left
    out. A gene under its own name comes before a retired or current name of it.

    Raises
    ------
    InputError
        If the organism is unknown.
    """
    check_organism(organism)
    present: dict[str, str] = {}
    for name in map(str, var_names):
        present.setdefault(unversioned(name), name)
        present[name] = name
    others = _other_names(organism)
    found = {}
    for gene in dict.fromkeys(map(str, genes)):
        (symbol,) = resolve_symbols([gene], organism=organism)
        candidates = (gene, unversioned(gene), symbol, *others.get(symbol, ()))
        hit = next((other for other in candidates if other in present), None)
        if hit is not None:
            found[gene] = present[hit]
    return found


def coverage(
    gene_sets: Mapping[str, Iterable[str]],
    var_names: Iterable[str],
    *,
    organism: Organism = "human",
) -> pd.DataFrame:
    """How much of each gene set the data can see.

    Parameters
    ----------
    gene_sets
        Name of the set -> its genes.
    var_names
        Names of the genes in the data; retired symbols and Ensembl ids count as found.
    organism
        `human` or `mouse`.

    Returns
    -------
    DataFrame with the columns of `keys.COVERAGE_TABLE`, in the order of `gene_sets`.

    Raises
    ------
    InputError
        If the organism is unknown.
    """
    sets = {name: list(dict.fromkeys(genes)) for name, genes in gene_sets.items()}
    wanted = dict.fromkeys(gene for genes in sets.values() for gene in genes)
    found = match_genes(wanted, var_names, organism=organism)
    rows = [
        (
            name,
            len(genes),
            sum(gene in found for gene in genes),
            ",".join(gene for gene in genes if gene not in found),
        )
        for name, genes in sets.items()
    ]
    table = pd.DataFrame(rows, columns=keys.COVERAGE_TABLE.names)
    return table.astype({"gene_set": str, "n_genes": int, "n_found": int, "missing": str})


def overview(
    var_names: Iterable[str] | None = None,
    *,
    organism: Organism = "human",
    user: str | Path | Mapping[str, Sequence[str]] | None = None,
) -> pd.DataFrame:
    """List the gene sets, their sources, and how much of each the data can see.

    Parameters
    ----------
    var_names
        Names of the genes in the data; without them nothing is counted as found.
    organism
        `human` or `mouse`.
    user
        More signatures (see `read_gene_sets`).

    Returns
    -------
    DataFrame with one row a set: gene_set, kind (`cell type`, `signature` or `user`), lineage
    (empty for a signature), n_genes, n_found (missing without `var_names`), missing and sources.

    Raises
    ------
    InputError
        If the organism is unknown, or the user's gene sets cannot be read.
    """
    types = load_cell_types(organism=organism)
    rows = pd.concat([types[types["role"] == "marker"], load_signatures(organism=organism)])
    sources = rows.groupby("set")["source"].agg(lambda found: "; ".join(dict.fromkeys(found)))
    lineage = rows.drop_duplicates("set").set_index("set")["lineage"]
    packaged = {
        str(name): part["symbol"].tolist() for name, part in rows.groupby("set", sort=False)
    }
    own = {} if user is None else signatures(organism=organism, names=[], user=user)
    sets = packaged | own
    table = coverage(sets, [] if var_names is None else var_names, organism=organism)
    if var_names is None:
        table["n_found"] = pd.array([pd.NA] * len(table), dtype="Int64")
        table["missing"] = ""
    kind = dict.fromkeys(packaged, "signature") | dict.fromkeys(types["set"], "cell type")
    kind |= dict.fromkeys(own, "user")
    names = table["gene_set"]
    table.insert(1, "kind", names.map(kind))
    table.insert(2, "lineage", ["" if name in own else lineage[name] for name in names])
    table["sources"] = ["user" if name in own else sources[name] for name in names]
    return table
