"""Marker panels of the cell types, how well they fit a profile, and what the cells show of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import genesets, keys
from crs_sc.core.ambient import ambient_of, has_ambient
from crs_sc.core.arrays import FewColumns, group_sums
from crs_sc.core.blocks import columns_of, pass_over
from crs_sc.core.checks import add_note
from crs_sc.errors import InputError, listing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy import sparse

    from crs_sc.genesets._tables import Organism

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
# Relative expression that a required marker must reach.
_REQUIRED_SHARE = 0.5
# Relative expression from which a marker is there.
_SHOWN = 0.25
# Markers that are named as evidence, the strongest first.
_MOST_NAMED = 6


@dataclass(frozen=True)
class Panel:
    """Markers of one cell type, at least one of them positive, as columns of a profile."""

    positive: NDArray[np.intp]
    negative: NDArray[np.intp]
    positive_weight: NDArray[np.float64]
    negative_weight: NDArray[np.float64]
    # Columns that must all reach half of their highest expression.
    required: NDArray[np.intp] = field(default_factory=lambda: np.empty(0, dtype=np.intp))


@dataclass(frozen=True)
class Panels:
    """Cell types with enough markers in the data."""

    types: NDArray[np.str_]
    lineages: NDArray[np.str_]
    compartments: NDArray[np.str_]
    of_type: list[Panel]
    # Without the negative markers that are markers of another type of the lineage: a T cell with
    # CD4 and CD8A is a T cell.
    of_lineage: list[Panel]
    # Genes of the panels as columns of the data; the panels count in positions of this array.
    columns: NDArray[np.intp]


@dataclass(frozen=True)
class Markers:
    """Log-normalised expression and raw counts of the panel genes, `(n_cells, n_genes)`."""

    expression: sparse.csr_matrix
    counts: sparse.csr_matrix
    # Counts of all genes, and sample of each cell.
    depth: NDArray[np.float64]
    sample: NDArray[np.integer]
    # Share of a cell's counts that ambient RNA adds to each gene, shape `(n_samples, n_genes)`.
    ambient: NDArray[np.float64] | None

    def profile(self, codes: NDArray[np.integer], n_groups: int) -> NDArray[np.float64]:
        """Mean expression by group without what ambient RNA explains, `(n_groups, n_genes)`."""
        sums = group_sums(self.expression, codes, n_groups)
        mean = sums / np.maximum(np.bincount(codes, minlength=n_groups), 1)[:, None]
        return np.asarray(mean * self.native_share(codes, n_groups))

    def native_share(self, codes: NDArray[np.integer], n_groups: int) -> NDArray[np.float64]:
        """Share of the UMI that ambient RNA does not explain, 1 where no ambient RNA is known."""
        if self.ambient is None:
            return np.ones((n_groups, self.counts.shape[1]))
        depth = np.zeros((n_groups, len(self.ambient)))
        np.add.at(depth, (codes, self.sample), self.depth)
        seen = group_sums(self.counts, codes, n_groups)
        expected = depth @ self.ambient
        # A gene without UMI has no share, and none is needed.
        return np.asarray(1 - expected / np.maximum(np.maximum(seen, expected), 1e-12))


def read_markers(adata: AnnData, columns: NDArray[np.intp]) -> Markers:
    """Read the panel genes, in one pass over the counts and one over `X`."""
    taken = FewColumns(columns, adata.n_obs, adata.n_vars)
    pass_over(adata, taken)
    counts, rest = taken.result()
    sample, ambient = np.zeros(adata.n_obs, dtype=np.intp), None
    if has_ambient(adata):
        sample, names = pd.factorize(adata.obs[keys.SAMPLE].astype(str), sort=True)
        fraction, profile = ambient_of(adata, list(names))
        shares = profile.to_numpy(dtype=np.float64).T[:, columns]
        ambient = np.nan_to_num(fraction[:, None] * shares)
    return Markers(
        expression=columns_of(adata.X, columns),
        counts=counts,
        depth=rest + np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel(),
        sample=sample,
        ambient=ambient,
    )


def compartments(lineages: NDArray[np.str_]) -> NDArray[np.str_]:
    """Compartment of each lineage."""
    return np.array([_COMPARTMENT.get(str(name), str(name)) for name in lineages], dtype=str)


def make_panels(
    adata: AnnData, table: pd.DataFrame, *, organism: Organism, min_markers: int
) -> Panels:
    """Panels of the types that the data can tell, with a note on those they cannot.

    `table` has the columns of `genesets.load_cell_types`; genes are sought under retired symbols
    and Ensembl ids too. A type needs `min_markers` markers in the data.
    """
    symbols = genesets.match_genes(table["symbol"].unique(), adata.var_names, organism=organism)
    everything = table["set"].unique()
    table = table[table["symbol"].isin(list(symbols))]
    genes = pd.Index(table["symbol"].unique())
    markers = table[table["role"] == "marker"]
    n_markers = markers.groupby("set").size()
    names = [
        str(name)
        for name in everything
        if n_markers.get(name, 0) >= min_markers
        and all(gene in symbols for gene in _CO_EXPRESSED.get(str(name), ()))
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
        adata.var_names.get_indexer(pd.Index([symbols[gene] for gene in genes])),
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


# --- how well the panels fit ---------------------------------------------------------------------


def relative_to(profile: NDArray[np.float64], top: NDArray[np.float64]) -> NDArray[np.float64]:
    """Expression relative to the highest of each gene, at most 1."""
    return np.minimum(profile / top, 1.0)


def panel_scores(relative: NDArray[np.float64], panels: Sequence[Panel]) -> NDArray[np.float64]:
    """Weighted mean of the positive markers less that of the negative ones, -1 to 1.

    Shape `(n_rows, n_types)`; -1 where a required marker is missing.
    """
    scores = [
        _weighted_mean(relative, panel.positive, panel.positive_weight)
        - _weighted_mean(relative, panel.negative, panel.negative_weight)
        for panel in panels
    ]
    return np.where(_lacks_required(relative, panels), -1.0, np.stack(scores, axis=1))


def resampled_scores(
    relative: NDArray[np.float64],
    panels: Sequence[Panel],
    *,
    n_resamples: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Scores with the markers of every panel drawn again, `(n_resamples, n_rows, n_types)`.

    How often a cell type stays best tells whether its call hangs on one or two genes.
    """
    scores = np.empty((n_resamples, relative.shape[0], len(panels)))
    for column, panel in enumerate(panels):
        for i in range(n_resamples):
            up = rng.integers(len(panel.positive), size=len(panel.positive))
            value = _weighted_mean(relative, panel.positive[up], panel.positive_weight[up])
            if len(panel.negative):
                down = rng.integers(len(panel.negative), size=len(panel.negative))
                value = value - _weighted_mean(
                    relative, panel.negative[down], panel.negative_weight[down]
                )
            scores[i, :, column] = value
    return np.where(_lacks_required(relative, panels), -1.0, scores)


def _lacks_required(relative: NDArray[np.float64], panels: Sequence[Panel]) -> NDArray[np.bool_]:
    """Where a required marker stays below half, shape `(n_rows, n_types)`."""
    return np.stack(
        [(relative[:, panel.required] < _REQUIRED_SHARE).any(axis=1) for panel in panels], axis=1
    )


def _weighted_mean(
    relative: NDArray[np.float64], columns: NDArray[np.intp], weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mean over the columns, 0 without any; shape `(n_rows,)`."""
    if len(columns) == 0:
        return np.zeros(relative.shape[0])
    return np.asarray(relative[:, columns] @ weight / weight.sum())


# --- what speaks for a type ----------------------------------------------------------------------


def n_shown(
    relative: NDArray[np.float64], panels: Sequence[Panel], best: Sequence[int]
) -> NDArray[np.int64]:
    """Count the markers of its type that each part shows; every part has a type."""
    shown = [
        int((level[panels[code].positive] >= _SHOWN).sum())
        for level, code in zip(relative, best, strict=True)
    ]
    return np.array(shown, dtype=np.int64)


def marker_evidence(
    relative: NDArray[np.float64],
    panels: Sequence[Panel],
    genes: Sequence[str],
    best: Sequence[int],
) -> list[str]:
    """Name the markers that speak most for the type of each part, and those that speak against.

    For example "MPO, AZU1, CTSG; against it CD14"; empty for parts without a type (-1 in `best`).
    """

    def strongest(
        level: NDArray[np.float64], columns: NDArray[np.intp], weight: NDArray[np.float64]
    ) -> str:
        order = columns[np.argsort(-(weight * level[columns]), kind="stable")]
        return ", ".join([genes[int(i)] for i in order if level[i] >= _SHOWN][:_MOST_NAMED])

    named = []
    for level, code in zip(relative, best, strict=True):
        if code < 0:
            named.append("")
            continue
        panel = panels[code]
        against = strongest(level, panel.negative, panel.negative_weight)
        named.append(
            strongest(level, panel.positive, panel.positive_weight)
            + (f"; against it {against}" if against else "")
        )
    return named
