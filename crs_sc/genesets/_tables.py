"""The packaged tables of cell types, signatures and orthologues."""

from __future__ import annotations

import functools
import importlib.resources
import warnings
from typing import TYPE_CHECKING, Literal

import pandas as pd

from crs_sc import keys
from crs_sc.errors import CrsWarning, InputError, listing
from crs_sc.genesets._user import read_gene_sets, read_markers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = [
    "TARGET_CYTOKINES",
    "Organism",
    "cell_type_panels",
    "check_organism",
    "lineages",
    "load_cell_types",
    "load_signatures",
    "orthologs",
    "packaged_table",
    "signatures",
    "target_cytokines",
]

Organism = Literal["human", "mouse"]

TARGET_CYTOKINES = (
    "IL1A",
    "IL1B",
    "IL6",
    "TNF",
    "CXCL8",
    "CCL2",
    "IL18",
    "IL1RN",
    "CSF2",
    "IFNG",
)
"""Cytokines of the ledger unless the user names others; in no packaged panel or signature."""

# Defined on human blood; the mouse orthologues of their markers are genes of macrophages.
_HUMAN_ONLY = ("Intermediate monocyte", "AS-DC")


@functools.cache
def packaged_table(name: str) -> pd.DataFrame:
    """Read one of the packaged tables; every column is a string and empty stays empty."""
    with importlib.resources.files("crs_sc").joinpath("data", f"{name}.tsv").open() as handle:
        return pd.read_csv(handle, sep="\t", dtype=str, keep_default_na=False)


def check_organism(organism: str) -> None:
    """Raise unless the organism is one that the tables cover."""
    if organism not in ("human", "mouse"):
        msg = f"organism must be 'human' or 'mouse', got {organism!r}."
        raise InputError(msg)


def orthologs() -> pd.DataFrame:
    """Human genes of the packaged tables and their mouse orthologues.

    Returns
    -------
    DataFrame with columns `human`, `mouse` (empty: none) and `source`. A gene has one row for
    each of its orthologues.
    """
    return packaged_table("orthologs").copy()


def _to_mouse(table: pd.DataFrame) -> pd.DataFrame:
    """Translate the symbols of human rows; a gene without an orthologue is left out."""
    pairs = packaged_table("orthologs")
    pairs = pairs.loc[pairs["mouse"] != "", ["human", "mouse"]]
    moved = table.merge(pairs, left_on="symbol", right_on="human", how="inner")
    moved["symbol"] = moved["mouse"]
    moved["organism"] = "mouse"
    return moved.drop(columns=["human", "mouse"])


def _for_organism(table: pd.DataFrame, organism: str) -> pd.DataFrame:
    """Rows of one organism, with weights as numbers and each gene once in a set and role."""
    rows = table.loc[table["organism"] == organism]
    if organism == "mouse":
        human = table.loc[table["organism"] == "human"]
        borrowed = ~human["set"].isin([*rows["set"].unique(), *_HUMAN_ONLY])
        rows = pd.concat([_to_mouse(human.loc[borrowed]), rows])
        order = {name: i for i, name in enumerate(table["set"].unique())}
        rows = rows.sort_values("set", key=lambda column: column.map(order), kind="stable")
    rows = rows.drop_duplicates(["set", "role", "symbol"], ignore_index=True)
    return rows.assign(weight=rows["weight"].astype(float))


def load_cell_types(
    *,
    organism: Organism = "human",
    user: str | Path | Mapping[str, Sequence[str]] | None = None,
) -> pd.DataFrame:
    """Markers of the cell types, one row a gene.

    Parameters
    ----------
    organism
        `human` or `mouse`.
    user
        More cell types (see `read_markers`), after the packaged ones; `annotate` takes the result
        as `gene_sets`. One that has the name of a packaged type takes its place. Where no lineage
        is given, it is that of the packaged type of that name, or else the type itself.

    Returns
    -------
    DataFrame with columns symbol, set (the population), role (`marker` or `negative`), lineage,
    weight (0 to 1), organism and source. The source of a negative names the list in which the
    gene marks another population.

    Raises
    ------
    InputError
        If the organism is unknown, or the user's markers cannot be read.
    """
    check_organism(organism)
    packaged = _for_organism(packaged_table("cell_types"), organism)
    if user is None:
        return packaged
    added = read_markers(user).assign(organism=organism, source="user")
    known = lineages()
    given = added["lineage"] != ""
    added["lineage"] = added["lineage"].where(
        given, added["set"].map(lambda name: known.get(name, name))
    )
    targets = [gene for gene in target_cytokines(organism=organism) if gene in set(added["symbol"])]
    if targets:
        warnings.warn(
            f"Markers that are also cytokines of the ledger: {listing(targets)}. A cell type that "
            "is defined by what it makes cannot be asked who makes it.",
            CrsWarning,
            stacklevel=2,
        )
    kept = packaged[~packaged["set"].isin(added["set"])]
    return pd.concat([kept, added[packaged.columns]], ignore_index=True)


def load_signatures(*, organism: Organism = "human") -> pd.DataFrame:
    """Genes of the signatures, one row a gene.

    Parameters
    ----------
    organism
        `human` or `mouse`.

    Returns
    -------
    DataFrame with columns symbol, set (the signature), role, lineage (empty), weight, organism
    and source.

    Raises
    ------
    InputError
        If the organism is unknown.
    """
    check_organism(organism)
    return _for_organism(packaged_table("signatures"), organism)


def cell_type_panels(*, organism: Organism = "human") -> dict[str, list[str]]:
    """Markers of each population, in the order of the table.

    Parameters
    ----------
    organism
        `human` or `mouse`. The mouse has no panel for intermediate monocytes and AS-DC.

    Returns
    -------
    Population -> genes that it expresses. `load_cell_types` has the weights, and the genes that
    rule a population out.

    Raises
    ------
    InputError
        If the organism is unknown.
    """
    return _markers(load_cell_types(organism=organism))


def lineages() -> dict[str, str]:
    """Lineage of each population of the vocabulary, with `CAR T` and `Unknown`."""
    table = packaged_table("cell_types").drop_duplicates("set")
    packaged = dict(zip(table["set"], table["lineage"], strict=True))
    return packaged | {keys.CAR_T: "T", keys.UNKNOWN: keys.UNKNOWN}


def signatures(
    *,
    organism: Organism = "human",
    names: Sequence[str] | None = None,
    user: str | Path | Mapping[str, Sequence[str]] | None = None,
) -> dict[str, list[str]]:
    """Genes of each signature, in the order of the table.

    Parameters
    ----------
    organism
        `human` or `mouse`.
    names
        Packaged signatures to take, in this order; all of them if None.
    user
        More gene sets (see `read_gene_sets`), after the packaged ones. One that has the name of
        a packaged signature takes its place.

    Raises
    ------
    InputError
        If the organism or a name is unknown, or the user's gene sets cannot be read.
    """
    packaged = _markers(load_signatures(organism=organism))
    if names is not None:
        unknown = [name for name in names if name not in packaged]
        if unknown:
            msg = f"No signature {listing(unknown)}. Signatures: {listing(packaged, most=99)}."
            raise InputError(msg)
        packaged = {name: packaged[name] for name in names}
    return packaged if user is None else packaged | read_gene_sets(user)


def _markers(table: pd.DataFrame) -> dict[str, list[str]]:
    """Marker genes of each set, in the order of the table."""
    rows = table.loc[table["role"] == "marker"]
    return {str(name): part["symbol"].tolist() for name, part in rows.groupby("set", sort=False)}


def target_cytokines(*, organism: Organism = "human") -> list[str]:
    """Cytokines of the ledger unless the user names others, as symbols of the organism.

    Parameters
    ----------
    organism
        `human` or `mouse`. The mouse has no CXCL8.

    Raises
    ------
    InputError
        If the organism is unknown.
    """
    check_organism(organism)
    if organism == "human":
        return list(TARGET_CYTOKINES)
    pairs = packaged_table("orthologs")
    moved = pairs.loc[pairs["mouse"] != ""].groupby("human")["mouse"].agg(list).to_dict()
    return [mouse for gene in TARGET_CYTOKINES for mouse in moved.get(gene, [])]
