"""Names of genes: retired symbols, Ensembl ids, families, and what the data can see."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.genesets._tables import (
    TARGET_CYTOKINES,
    Organism,
    check_organism,
    load_cell_types,
    load_signatures,
    packaged_table,
    signatures,
    target_cytokines,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_ENSEMBL = re.compile(r"^(ENS(?:MUS)?G\d{11})\.\d+$")
_CONSTANT = r"(?:IGH(?:[ADEM]|[AG]\d[A-C]?|EP\d|GP)|IGKC|IGLC\d)$"
_IMMUNOGLOBULIN = re.compile(rf"^(?:IG[HKL][VDJ][\dI(]|{_CONSTANT})", re.IGNORECASE)
# mm10 still calls the mouse gamma chain Tcrg.
_IMMUNE_RECEPTOR = re.compile(
    rf"^(?:(?:TR[ABDG]|IG[HKL])[VDJ][\dI(]|TCRG-[VJ]|{_CONSTANT})", re.IGNORECASE
)
_MITOCHONDRIAL = re.compile(r"^(?:MT|mt)-")
_HAEMOGLOBIN = re.compile(r"^(?:HB(?:A1|A2|B|D|E1|G1|G2|M|Q1|Z)|Hb(?:[ab]-.+|q1[ab]))$")
_HUMAN_SEX = (
    "DDX3Y", "EIF1AY", "KDM5D", "NLGN4Y", "PRKY", "RPS4Y1", "RPS4Y2", "TMSB4Y", "TSIX", "TTTY14",
    "TTTY15", "TXLNGY", "USP9Y", "UTY", "XIST", "ZFY",
)  # fmt: skip
_MOUSE_SEX = ("Ddx3y", "Eif2s3y", "Kdm5d", "Tsix", "Usp9y", "Uty", "Xist", "Zfy1", "Zfy2")
_SEX = frozenset((*_HUMAN_SEX, *_MOUSE_SEX))


@functools.cache
def _current_names(organism: str) -> dict[str, str]:
    """Retired symbol or Ensembl id -> current symbol."""
    names: dict[str, str] = {}
    for table, column in (("aliases", "alias"), ("gene_ids", "gene_id")):
        rows = packaged_table(table)
        rows = rows[rows["organism"] == organism]
        names |= dict(zip(rows[column], rows["symbol"], strict=True))
    return names


@functools.cache
def _other_names(organism: str) -> dict[str, list[str]]:
    """Names that each current symbol also goes by: retired symbols, then Ensembl ids."""
    names: dict[str, list[str]] = {}
    for other, symbol in _current_names(organism).items():
        names.setdefault(symbol, []).append(other)
    return names


def _unversioned(name: str) -> str:
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

    Examples
    --------
    >>> import crs_sc as crs
    >>> crs.genesets.resolve_symbols(["IL8", "ENSG00000136244"])
    ['CXCL8', 'IL6']
    """
    check_organism(organism)
    current = _current_names(organism)
    return [current.get(_unversioned(str(name)), str(name)) for name in names]


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

    Examples
    --------
    >>> import crs_sc as crs
    >>> crs.genesets.match_genes(["CXCL8", "IL6"], ["IL8", "ACTB"])
    {'CXCL8': 'IL8'}
    """
    check_organism(organism)
    present: dict[str, str] = {}
    for name in map(str, var_names):
        present.setdefault(_unversioned(name), name)
        present[name] = name
    others = _other_names(organism)
    matched = {}
    for gene in dict.fromkeys(map(str, genes)):
        (symbol,) = resolve_symbols([gene], organism=organism)
        candidates = (gene, _unversioned(gene), symbol, *others.get(symbol, ()))
        hit = next((other for other in candidates if other in present), None)
        if hit is not None:
            matched[gene] = present[hit]
    return matched


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

    Examples
    --------
    >>> import crs_sc as crs
    >>> table = crs.genesets.coverage({"mine": ["IL6", "TNF"]}, ["IL6", "ACTB"])
    >>> table["missing"].to_list()
    ['TNF']
    """
    sets = {name: list(dict.fromkeys(genes)) for name, genes in gene_sets.items()}
    wanted = dict.fromkeys(gene for genes in sets.values() for gene in genes)
    found = match_genes(wanted, var_names, organism=organism)
    missing = {name: [g for g in genes if g not in found] for name, genes in sets.items()}
    rows = [
        (name, len(genes), len(genes) - len(missing[name]), ",".join(missing[name]))
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

    Examples
    --------
    >>> import crs_sc as crs
    >>> table = crs.genesets.overview(["CD14", "LYZ"])
    >>> int(table.set_index("gene_set").loc["Classical monocyte", "n_found"])
    2
    """
    types = load_cell_types(organism=organism).query("role == 'marker'")
    rows = pd.concat([types, load_signatures(organism=organism)]).groupby("set", sort=False)
    packaged = {str(name): genes.to_list() for name, genes in rows["symbol"]}
    mine = {} if user is None else signatures(organism=organism, names=[], user=user)
    sets = packaged | mine
    table = coverage(sets, [] if var_names is None else var_names, organism=organism)
    if var_names is None:
        table["n_found"] = pd.array([pd.NA] * len(table), dtype="Int64")
        table["missing"] = ""
    names = table["gene_set"]
    is_user = names.isin(mine)
    kind = np.where(names.isin(types["set"]), "cell type", "signature")
    table.insert(1, "kind", np.where(is_user, "user", kind))
    table.insert(2, "lineage", names.map(rows["lineage"].first()).where(~is_user, ""))
    sources = rows["source"].agg(lambda column: "; ".join(column.unique()))
    table["sources"] = names.map(sources).where(~is_user, "user")
    return table


def _symbols(var_names: Iterable[str]) -> list[str]:
    """Names with the known Ensembl ids of either organism brought to symbols."""
    ids = _current_names("human") | _current_names("mouse")
    bare = ((str(name), _unversioned(str(name))) for name in var_names)
    return [ids.get(key, name) if key.startswith("ENS") else name for name, key in bare]


def _mask(pattern: re.Pattern[str], var_names: Iterable[str]) -> NDArray[np.bool_]:
    """Which names match the pattern."""
    return np.array([pattern.match(name) is not None for name in _symbols(var_names)], dtype=bool)


def mitochondrial_genes(var_names: Iterable[str]) -> NDArray[np.bool_]:
    """Which genes lie on the mitochondrial genome (`MT-` human, `mt-` mouse, or Ensembl id).

    Parameters
    ----------
    var_names
        Names of the genes.

    Returns
    -------
    Boolean array, one value a gene. By Ensembl id only the 13 protein-coding genes are known.

    Examples
    --------
    >>> import crs_sc as crs
    >>> crs.genesets.mitochondrial_genes(["MT-CO1", "IL6"]).tolist()
    [True, False]
    """
    return _mask(_MITOCHONDRIAL, var_names)


def immune_receptor_genes(var_names: Iterable[str]) -> NDArray[np.bool_]:
    """Which genes differ between clones: V, D and J segments, and immunoglobulin constants.

    Parameters
    ----------
    var_names
        Names of the genes. Constant regions of T-cell receptors (TRAC) are not included.

    Returns
    -------
    Boolean array, one value a gene.

    Examples
    --------
    >>> import crs_sc as crs
    >>> crs.genesets.immune_receptor_genes(["TRAV1-2", "TRAC"]).tolist()
    [True, False]
    """
    return _mask(_IMMUNE_RECEPTOR, var_names)


def immunoglobulin_genes(var_names: Iterable[str]) -> NDArray[np.bool_]:
    """Which genes are segments or constant regions of immunoglobulins.

    Parameters
    ----------
    var_names
        Names of the genes. JCHAIN, which pDC express too, is not included.

    Returns
    -------
    Boolean array, one value a gene.

    Examples
    --------
    >>> import crs_sc as crs
    >>> crs.genesets.immunoglobulin_genes(["IGHM", "JCHAIN"]).tolist()
    [True, False]
    """
    return _mask(_IMMUNOGLOBULIN, var_names)


def haemoglobin_genes(var_names: Iterable[str]) -> NDArray[np.bool_]:
    """Which genes are haemoglobin chains.

    Parameters
    ----------
    var_names
        Names of the genes.

    Returns
    -------
    Boolean array, one value a gene.

    Examples
    --------
    >>> import crs_sc as crs
    >>> crs.genesets.haemoglobin_genes(["HBB", "HBEGF"]).tolist()
    [True, False]
    """
    return _mask(_HAEMOGLOBIN, var_names)


def sex_genes(var_names: Iterable[str]) -> NDArray[np.bool_]:
    """Which genes tell the sexes apart: XIST, TSIX and expressed genes of the Y chromosome.

    Parameters
    ----------
    var_names
        Names of the genes.

    Returns
    -------
    Boolean array, one value a gene.

    Examples
    --------
    >>> import crs_sc as crs
    >>> crs.genesets.sex_genes(["XIST", "RPS4X"]).tolist()
    [True, False]
    """
    return np.array([name in _SEX for name in _symbols(var_names)], dtype=bool)


def kept_out(names: pd.Index, *, exclude: Sequence[str] = ()) -> dict[str, NDArray[np.bool_]]:
    """Mark the genes that no embedding is to follow, by reason.

    Parameters
    ----------
    names
        Of the genes of the data.
    exclude
        More genes to keep out.

    Returns
    -------
    For each reason a mask of shape `(n_genes,)`: target cytokines (they are measured later),
    immune-receptor, sex and mitochondrial genes, and those named by the user.

    Examples
    --------
    >>> import pandas as pd
    >>> import crs_sc as crs
    >>> masks = crs.genesets.kept_out(pd.Index(["IL6", "LYZ", "XIST"]))
    >>> masks["target cytokines"].tolist(), masks["sex genes"].tolist()
    ([True, False, False], [False, False, True])
    """
    cytokines = [*TARGET_CYTOKINES, *target_cytokines(organism="mouse")]
    return {
        "target cytokines": names.isin(match_genes(cytokines, names).values()),
        "immune-receptor genes": immune_receptor_genes(names),
        "sex genes": sex_genes(names),
        "mitochondrial genes": mitochondrial_genes(names),
        "genes named by the user": names.isin(match_genes(exclude, names).values()),
    }
