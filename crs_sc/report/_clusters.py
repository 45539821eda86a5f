"""Do the populations stand: stability, batches, myeloid groups and circularity in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from crs_sc import keys
from crs_sc.plotting import feature_label
from crs_sc.report._format import cells_named, listed, percent

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CLUSTER_TABLES", "cluster_sentences"]

# In the order of the page.
CLUSTER_TABLES = (
    "clusters",
    "clustering",
    "subclusters",
    "integration",
    "circularity",
    "gene_overlap",
)

# By how much the clusters of a population may change more with the target genes than with others.
_MOVED = 0.1
# Share of one arm or subject in a group that is worth saying.
_ONE_SOURCE = 0.8
# By how much the neighbours within a batch may lose their label.
_LOST = 0.05


def cluster_sentences(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Say what the clusters can carry.

    Parameters
    ----------
    tables
        Those of `clustering`, `clusters`, `subclusters`, `integration`, `circularity` and
        `gene_overlap` that have rows.
    """
    said = []
    if {"clustering", "clusters"} <= set(tables):
        said += _stability(tables["clustering"], tables["clusters"])
    if "integration" in tables:
        said.append(_integration(tables["integration"]))
    if "subclusters" in tables:
        said.append(_subclusters(tables["subclusters"]))
    if "circularity" in tables:
        said.append(_circularity(tables["circularity"]))
    if "gene_overlap" in tables:
        said += _overlap(tables["gene_overlap"])
    return said


def _stability(clustering: pd.DataFrame, clusters: pd.DataFrame) -> list[str]:
    chosen = clustering.loc[clustering["chosen"].astype(bool)].iloc[0]
    said = (
        f"{len(clusters)} clusters at resolution {chosen['resolution']:g}, one of "
        f"{len(clustering)} that were tried; random subsamples of the cells give the same clusters "
        f"to an adjusted Rand index of {chosen['stability_whole']:.2f}."
    )
    weak = clusters.loc[clusters["state"].isin([keys.DOUBTFUL, keys.UNSTABLE])]
    if weak.empty:
        return [f"{said} Every cluster with enough cells to tell is found again."]
    named = listed(
        [
            f"{row['cluster']} ({cells_named(row['population'])}, {row['stability']:.2f})"
            for row in weak.to_dict("records")
        ]
    )
    lines = [
        f"{said} Not found again with certainty (mean Jaccard coefficient below 0.75): {named}."
    ]
    other = weak.loc[
        (weak["joins_population"] != "") & (weak["joins_population"] != weak["population"])
    ]
    pairs = list(
        dict.fromkeys(
            f"{cells_named(row['population'])} and {cells_named(row['joins_population'])}"
            for row in other.to_dict("records")
        )
    )
    if pairs:
        lines.append(
            f"The border between {listed(pairs)} depends on which cells were sampled; the cell "
            "types are decided by markers cell by cell, so look at the markers of both."
        )
    else:
        lines.append(
            "They are found together with others of their own cell type, which moves nothing on "
            "this page: what it says is keyed to cell types, never to clusters."
        )
    return lines


def _integration(table: pd.DataFrame) -> str:
    row = table.loc[table["batch"] == keys.ALL_BATCHES].iloc[0]
    names = len(table) - 1
    mixed = f"Of {names} batches, a cell has {percent(row['mixing_before'])} of the neighbours from"
    mixed += " other batches that it would have in a random mixture"
    if row["status"] == keys.CONFOUNDED:
        mixed += "; each batch has cells of one arm only, so this may be batch or treatment"
    if pd.isna(row["mixing_after"]):
        return f"{mixed}. Not integrated."
    before, after = row["conservation_before"], row["conservation_after"]
    said = (
        f"{mixed}; after integration by harmony {percent(row['mixing_after'])}. Within its own "
        f"batch a cell's neighbours have its label in {percent(after)} (before: {percent(before)})"
    )
    if after < before - _LOST:
        return f"{said}: the integration merges groups that are apart within a batch."
    return f"{said}, so the groups within a batch are kept. No test reads the integrated values."


def _subclusters(table: pd.DataFrame) -> str:
    found = table.loc[table["state"] == keys.STABLE]
    said = (
        f"The myeloid cells alone, on the genes that vary among them, fall into {len(table)} "
        f"clusters, of which {len(found)} are found again in subsamples"
    )
    names = []
    for row in found.to_dict("records"):
        state = str(row["myeloid_state"]).replace("_", " ")
        name = cells_named(row["population"]) + (f", {state}" if state else "")
        for kind in ("condition", "subject"):
            if row[f"{kind}_share"] >= _ONE_SOURCE:
                name += f", {percent(row[f'{kind}_share'])} from {row[kind]}"
        names.append(f"{row['cluster']} ({name})")
    return said + (f": {listed(names)}." if names else ".")


def _circularity(table: pd.DataFrame) -> str:
    whole = table.loc[table["population"] == keys.ALL_POPULATIONS].iloc[0]
    said = (
        "The target cytokines do not take part in the clustering. With them it would give the same "
        f"clusters to an adjusted Rand index of {whole['ari']:.2f}"
    )
    if not pd.isna(whole["ari_control"]):
        said += f" ({whole['ari_control']:.2f} with as many other genes of like expression)"
    own = table.loc[table["population"] != keys.ALL_POPULATIONS]
    # Where no other genes are left to compare with, nothing but the target genes may matter.
    mean, low = own["agreement_control"].fillna(1.0), own["agreement_control_low"].fillna(1.0)
    moved = own.loc[(own["agreement"] < mean - _MOVED) & (own["agreement"] < low)]
    if moved.empty:
        return f"{said}; no population would be regrouped."
    names = listed([cells_named(name) for name in moved["population"]])
    return f"{said}. It would regroup {names}, so who is called so must rest on the markers."


def _overlap(table: pd.DataFrame) -> list[str]:
    own = table.loc[table["gene_set"] != keys.TARGET_GENES]
    said = []
    markers = own.loc[own["marker_of"].astype(str) != ""].groupby("gene_set", sort=False).size()
    if len(markers):
        named = listed([f"{feature_label(str(name))} ({n})" for name, n in markers.items()])
        said.append(
            f"Signatures with genes that also name cell types: {named}. A shift of these within a "
            "population can in part be a shift of who is called so."
        )
    targets = table.loc[
        (table["gene_set"] == keys.TARGET_GENES)
        & (table["is_selected"].astype(bool) | (table["marker_of"].astype(str) != "")),
        "gene",
    ]
    if len(targets):
        said.append(
            f"Circular: {listed(list(targets))} were used to find or to name the populations."
        )
    return said
