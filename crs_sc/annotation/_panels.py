"""Marker panels of the cell types, as columns of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import genesets
from crs_sc.annotation._marker_scores import Panel
from crs_sc.core.checks import add_note
from crs_sc.errors import InputError, listing

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from crs_sc.genesets._tables import Organism

__all__ = ["Panels", "compartments", "make_panels"]

# Lineages between which cells change by degrees; every other lineage is a compartment of its own.
_COMPARTMENT = {
    "T": "T and NK",
    "NK": "T and NK",
    "Monocyte": "Myeloid",
    "Macrophage": "Myeloid",
    "DC": "Myeloid",
    "Neutrophil": "Myeloid",
}
# Defined by showing both genes at once (Wong 2011, doi:10.1182/blood-2010-12-326355), not by any
# of its own.
_CO_EXPRESSED = {"Intermediate monocyte": ("CD14", "FCGR3A")}


@dataclass(frozen=True)
class Panels:
    """Cell types with enough markers in the data.

    Attributes
    ----------
    types, lineages, compartments
        Names, shape `(n_types,)`.
    of_type
        Panel of each type.
    of_lineage
        The same without the negative markers that are markers of another type of its lineage: a T
        cell with CD4 and CD8A is a T cell.
    columns
        Genes of the panels as columns of the data; the panels count in positions of this array.
    """

    types: NDArray[np.str_]
    lineages: NDArray[np.str_]
    compartments: NDArray[np.str_]
    of_type: list[Panel]
    of_lineage: list[Panel]
    columns: NDArray[np.intp]


def compartments(lineages: NDArray[np.str_]) -> NDArray[np.str_]:
    """Compartment of each lineage."""
    return np.array([_COMPARTMENT.get(str(name), str(name)) for name in lineages], dtype=str)


def make_panels(
    adata: AnnData, table: pd.DataFrame, *, organism: Organism, min_markers: int
) -> Panels:
    """Panels of the types that the data can tell, with a note on those they cannot.

    Parameters
    ----------
    adata
        Cells x genes; genes are found under retired symbols and Ensembl ids too.
    table
        Columns of `genesets.load_cell_types`.
    organism
        Whose names the genes have.
    min_markers
        Fewest markers in the data.

    Raises
    ------
    InputError
        If no type has that many.
    """
    found = genesets.match_genes(table["symbol"].unique(), adata.var_names, organism=organism)
    everything = table["set"].unique()
    table = table[table["symbol"].isin(list(found))]
    genes = pd.Index(table["symbol"].unique())
    markers = table[table["role"] == "marker"]
    n_markers = markers.groupby("set").size()
    names = [
        str(name)
        for name in everything
        if n_markers.get(name, 0) >= min_markers
        and all(gene in found for gene in _CO_EXPRESSED.get(str(name), ()))
    ]
    if not names:
        msg = (
            f"No cell type has {min_markers} markers among the {adata.n_vars} genes "
            f"(such as {listing(adata.var_names[:3])}). Are these {organism} gene symbols?"
        )
        raise InputError(msg)
    too_few = [str(name) for name in everything if str(name) not in names]
    if too_few:
        add_note(
            adata, f"Too few markers in the data to call these cell types: {listing(too_few)}."
        )
    lineages, of_type, of_lineage = [], [], []
    for name in names:
        rows = table[table["set"] == name]
        lineage = rows["lineage"].iloc[0]
        siblings = markers.loc[markers["lineage"] == lineage, "symbol"]
        tells_siblings_apart = (rows["role"] == "negative") & rows["symbol"].isin(siblings)
        lineages.append(str(lineage))
        of_type.append(_panel(rows, genes, required=_CO_EXPRESSED.get(name, ())))
        of_lineage.append(_panel(rows[~tells_siblings_apart], genes, required=()))
    return Panels(
        np.array(names, dtype=str),
        np.array(lineages, dtype=str),
        compartments(np.array(lineages, dtype=str)),
        of_type,
        of_lineage,
        adata.var_names.get_indexer(pd.Index([found[gene] for gene in genes])),
    )


def _panel(rows: pd.DataFrame, genes: pd.Index, *, required: tuple[str, ...]) -> Panel:
    """One panel as positions in `genes`."""
    is_positive = (rows["role"] == "marker").to_numpy()
    position = genes.get_indexer(pd.Index(rows["symbol"]))
    weight = rows["weight"].to_numpy(dtype=np.float64)
    return Panel(
        position[is_positive],
        position[~is_positive],
        weight[is_positive],
        weight[~is_positive],
        genes.get_indexer(pd.Index(required, dtype=str)),
    )
