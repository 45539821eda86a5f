"""The packaged tables: cell types, signatures, receptors, orthologues and names of labels."""

from __future__ import annotations

import functools
import importlib.resources
import re
import warnings
from typing import TYPE_CHECKING, Literal

import pandas as pd

from crs_sc import keys
from crs_sc.errors import CrsWarning, InputError, listing
from crs_sc.genesets._user import read_gene_sets, read_markers, read_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

Organism = Literal["human", "mouse"]

TARGET_CYTOKINES = (
    "IL1A", "IL1B", "IL6", "TNF", "CXCL8", "CCL2", "IL18", "IL1RN", "CSF2", "IFNG",
)  # fmt: skip
"""Cytokines of the ledger unless the user names others; in no packaged panel or signature."""

RECEPTOR_ROLES = ("receptor", "co-receptor", "decoy", "antagonist")

# Defined on human blood; the mouse orthologues of their markers are genes of macrophages.
_HUMAN_ONLY = ("Intermediate monocyte", "AS-DC")


_CELL = re.compile(r"\bcells?\b")
# "CD16- NK" is without CD16, "CD14-positive" and "CAR-T" are not.
_WITHOUT = re.compile(r"(?<=\d)(-|neg\b)(?=[\s_]|cd|$)|(?<=\d)neg\b")


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

    Examples
    --------
    >>> import crs_sc as crs
    >>> crs.genesets.orthologs().set_index("human").loc["FCGR3A", "mouse"]
    'Fcgr4'
    """
    return packaged_table("orthologs").copy()


def _to_mouse(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Translate the human symbols of columns; a row without an orthologue is left out."""
    pairs = packaged_table("orthologs")
    pairs = pairs.loc[pairs["mouse"] != "", ["human", "mouse"]]
    for column in columns:
        moved = table.merge(pairs, left_on=column, right_on="human", how="inner")
        table = moved.assign(**{column: moved["mouse"]}).drop(columns=["human", "mouse"])
    return table


def _for_organism(table: pd.DataFrame, organism: str) -> pd.DataFrame:
    """Rows of one organism, with weights as numbers and each gene once in a set and role."""
    rows = table.loc[table["organism"] == organism]
    if organism == "mouse":
        human = table.loc[table["organism"] == "human"]
        borrowed = ~human["set"].isin([*rows["set"].unique(), *_HUMAN_ONLY])
        moved = _to_mouse(human.loc[borrowed], "symbol").assign(organism="mouse")
        rows = pd.concat([moved, rows])
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

    Examples
    --------
    >>> import crs_sc as crs
    >>> table = crs.genesets.load_cell_types(user={"ILC": ["KIT", "TRDC"]})
    >>> table["set"].to_list()[-1]
    'ILC'
    """
    check_organism(organism)
    packaged = _for_organism(packaged_table("cell_types"), organism)
    if user is None:
        return packaged
    added = read_markers(user).assign(organism=organism, source="user")
    usual = added["set"].map(lineages()).fillna(added["set"])
    added["lineage"] = added["lineage"].where(added["lineage"] != "", usual)
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

    Examples
    --------
    >>> import crs_sc as crs
    >>> "il1_response" in set(crs.genesets.load_signatures()["set"])
    True
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

    Examples
    --------
    >>> import crs_sc as crs
    >>> "CD14" in crs.genesets.cell_type_panels()["Classical monocyte"]
    True
    """
    return _markers(load_cell_types(organism=organism))


def lineages() -> dict[str, str]:
    """Lineage of each population of the vocabulary, with `CAR T` and `Unknown`.

    Returns
    -------
    Lineage by population.

    Examples
    --------
    >>> import crs_sc as crs
    >>> crs.genesets.lineages()["Classical monocyte"]
    'Monocyte'
    """
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

    Returns
    -------
    Genes by name of the signature.

    Raises
    ------
    InputError
        If the organism or a name is unknown, or the user's gene sets cannot be read.

    Examples
    --------
    >>> import crs_sc as crs
    >>> list(crs.genesets.signatures(names=["hla_dr"], user={"mine": ["IL6"]}))
    ['hla_dr', 'mine']
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

    Returns
    -------
    Symbols, in the order of the human ones.

    Raises
    ------
    InputError
        If the organism is unknown.

    Examples
    --------
    >>> import crs_sc as crs
    >>> crs.genesets.target_cytokines(organism="mouse")[:3]
    ['Il1a', 'Il1b', 'Il6']
    """
    check_organism(organism)
    table = pd.DataFrame({"symbol": TARGET_CYTOKINES})
    return (table if organism == "human" else _to_mouse(table, "symbol"))["symbol"].to_list()


def load_receptors(*, organism: Organism = "human") -> pd.DataFrame:
    """Receptor side of each cytokine, one row a cytokine and gene.

    Parameters
    ----------
    organism
        `human` or `mouse`. A pair without orthologues is left out: the mouse has no CXCL8.

    Returns
    -------
    DataFrame with columns cytokine, gene, role and source. A cell can respond to a cytokine
    with any one `receptor` and every `co-receptor`; a `decoy` binds it without a signal, an
    `antagonist` takes its place at the receptor.

    Raises
    ------
    InputError
        If the organism is unknown.

    Examples
    --------
    >>> import crs_sc as crs
    >>> table = crs.genesets.load_receptors().set_index(["cytokine", "gene"])
    >>> table.loc[("IL1B", "IL1R2"), "role"]
    'decoy'
    """
    check_organism(organism)
    table = packaged_table("receptors").copy()
    return table if organism == "human" else _to_mouse(table, "cytokine", "gene")


def load_label_names(*, user: str | Path | None = None) -> pd.DataFrame:
    """Labels that others use and the population, or only lineage, that each one means.

    Parameters
    ----------
    user
        TSV file with the columns `label` and `population`; its rows come before the packaged ones.

    Returns
    -------
    DataFrame with columns label, population (a population or a lineage) and source. Upper and
    lower case, spaces, signs, a plural and the word "cells" make no difference to a label.

    Raises
    ------
    InputError
        If the user's file cannot be read, or lacks a column or a value.

    Examples
    --------
    >>> import crs_sc as crs
    >>> crs.genesets.load_label_names().columns.to_list()
    ['label', 'population', 'source']
    """
    packaged = packaged_table("label_names").copy()
    if user is None:
        return packaged
    columns = ["label", "population"]
    added = read_rows(user, columns, what="names of labels")[columns]
    if (added == "").any(axis=None):
        msg = f"{user}: a label or its population is empty. Take that row out."
        raise InputError(msg)
    added = added.assign(source="user")
    return pd.concat([added, packaged], ignore_index=True)


def name_labels(labels: Iterable[str], *, user: str | Path | None = None) -> dict[str, str]:
    """Give each label the name of its population or lineage.

    Parameters
    ----------
    labels
        Labels as a classifier or a colleague wrote them.
    user
        More names (see :func:`load_label_names`).

    Returns
    -------
    Label -> population, or lineage where the label says no more; labels that no table knows are
    left out.

    Raises
    ------
    InputError
        If the user's file cannot be used.

    Examples
    --------
    >>> import crs_sc as crs
    >>> crs.genesets.name_labels(["CD14+ Monocytes", "my cells"])
    {'CD14+ Monocytes': 'Classical monocyte'}
    """
    table = load_label_names(user=user)
    vocabulary = [name for pair in lineages().items() for name in pair]
    ours = pd.DataFrame({"label": vocabulary, "population": vocabulary, "source": "vocabulary"})
    is_user = table["source"] == "user"
    names = pd.concat([table[is_user], ours, table[~is_user]])
    names = names.assign(plain=names["label"].map(_plain)).drop_duplicates("plain")
    known = dict(zip(names["plain"], names["population"], strict=True))
    plain = {label: _plain(label) for label in map(str, labels)}
    return {label: known[name] for label, name in plain.items() if name in known}


def _plain(label: str) -> str:
    """Label without what is only spelling."""
    text = _WITHOUT.sub(" without ", label.casefold())
    text = _CELL.sub(" ", text)
    words = re.split(r"[^0-9a-z]+", text)
    return "".join(word.removesuffix("s") if len(word) > 3 else word for word in words)
