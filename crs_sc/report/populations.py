"""Do the populations stand, do other labels agree, and which are potential responders."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import genesets, keys
from crs_sc.plotting import feature_label, population_order
from crs_sc.report.words import cells_named, listed, percent

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


# By how much the clusters of a population may change more with the target genes than with others.
_MOVED = 0.1
# Share of one arm or subject in a group that is worth saying.
_ONE_SOURCE = 0.8
# By how much the neighbours within a batch may lose their label.
_LOST = 0.05


def cluster_sentences(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Say what the clusters can carry."""
    said = []
    if {"clustering", "clusters"} <= set(tables):
        said = _stability(tables["clustering"], tables["clusters"])
    for name, sentence in (
        ("integration", _integration), ("subclusters", _subclusters), ("circularity", _circularity)
    ):  # fmt: skip
        if name in tables:
            said.append(sentence(tables[name]))
    return said + (_overlap(tables["gene_overlap"]) if "gene_overlap" in tables else [])


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
    names, pairs = [], []
    for row in weak.to_dict("records"):
        name, other = row["population"], row["joins_population"]
        names.append(f"{row['cluster']} ({cells_named(name)}, {row['stability']:.2f})")
        if other not in ("", name):
            pairs.append(f"{cells_named(name)} and {cells_named(other)}")
    said += " Not found again with certainty (mean Jaccard coefficient below 0.75): "
    moves = (
        "They are found together with others of their own cell type, which moves nothing on "
        "this page: what it says is keyed to cell types, never to clusters."
    )
    if pairs:
        moves = (
            f"The border between {listed(list(dict.fromkeys(pairs)))} depends on which cells were "
            "sampled; the cell types are decided by markers cell by cell, so look at the markers "
            "of both."
        )
    return [f"{said}{listed(names)}.", moves]


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


_WHO = {
    keys.MARKERS: "The markers, held against your labels",
    "celltypist": "CellTypist",
    "reference": "The labelled reference",
}
_CAVEAT = (
    "Other labels are no independent evidence of truth: a classifier gives every cell one of the "
    "types that it knows. Where one disagrees, look at the markers."
)


def opinion_sentences(opinions: pd.DataFrame) -> list[str]:
    """Say of each opinion how far it agrees, and where it does not."""
    said = []
    for opinion, rows in opinions.groupby("opinion", sort=False):
        whole = rows.loc[rows["population"] == keys.ALL_POPULATIONS].iloc[0]
        parts = rows.loc[rows["population"] != keys.ALL_POPULATIONS]
        text = f"{_WHO.get(str(opinion), str(opinion))}: "
        if whole["n_compared"] == 0:
            said.append(text + "no cell can be compared, because no name of a type is known.")
            continue
        text += f"the same lineage in {percent(whole['lineage_agreement'])}"
        if not np.isnan(whole["agreement"]):
            text += f" and the same type in {percent(whole['agreement'])}"
        text += f" of the {int(whole['n_compared']):,} cells that can be compared."
        against = parts.loc[parts["verdict"] == keys.DISAGREES]
        if len(against):
            named = [
                f"{row['population']} ({percent(row['other_share'])} {row['other_label']})"
                for row in against.to_dict("records")
            ]
            text += f" It disagrees about {listed(named)}."
        elif (parts["verdict"] == keys.AGREES).any():
            text += " It disagrees about the lineage of no population."
        said.append(text)
    return [*said, _CAVEAT] if said else []


# Below this part of the level in the highest population a transcript says little.
_LEAST = 0.1
_RECEPTOR_CAVEAT = (
    "A receptor's transcript is not the receptor on the surface, and receptors have few "
    "transcripts: a population that is not named here may still respond."
)


def responder_sentences(receivers: pd.DataFrame, cytokines: Sequence[str]) -> list[str]:
    """Say of each cytokine which populations express its receptors: the potential responders.

    A population counts if in most arms (of those with enough of its cells) one receptor and every
    co-receptor are above ambient RNA, at a tenth of the highest population's level or more.
    """
    said = []
    for cytokine in cytokines:
        rows = receivers.loc[receivers["cytokine"] == cytokine]
        if not rows.empty:
            said.append(_sentence(cytokine, rows))
    return [*said, _RECEPTOR_CAVEAT] if said else []


def _sentence(cytokine: str, rows: pd.DataFrame) -> str:
    genes = {
        role: list(dict.fromkeys(rows.loc[rows["role"] == role, "gene"]))
        for role in genesets.RECEPTOR_ROLES
    }
    either, every = genes["receptor"], genes["co-receptor"]
    missing = _missing(cytokine, either, every)
    if missing:
        return (
            f"{cytokine}: without {listed(missing)} among the genes of the data, potential "
            "responders cannot be named."
        )
    chain = " and ".join([" or ".join(either), *every])
    able = _holders(rows, either=either, every=every)
    verb = "is" if chain == either[0] or " or " in chain else "are"
    text = f"No population has {chain} above ambient RNA, so no potential responder to "
    text += f"{cytokine} is seen"
    if able:
        text = f"Potential responders to {cytokine} are {_named(able)}: {chain} {verb} above "
        text += "ambient RNA there"
    for role in ("decoy", "antagonist"):
        article = "an" if role[0] == "a" else "a"
        for gene in genes[role]:
            holders = _named(_holders(rows, every=[gene])) or "none"
            text += f"; {gene}, {article} {role}, is in {holders}"
    if cytokine.upper() == "IL6":
        more = [n for n in _holders(rows, every=every) if n not in able]
        if more:
            text += (
                f"; {listed(every)} alone, enough for IL-6 that comes with its soluble receptor, "
                f"is in {_named(more)}"
            )
    return f"{text}."


def _missing(cytokine: str, either: Sequence[str], every: Sequence[str]) -> list[str]:
    """List the genes without which nothing can be said: all receptors, or any co-receptor."""
    both = [genesets.load_receptors(), genesets.load_receptors(organism="mouse")]
    table = next(one for one in both if cytokine in set(one["cytokine"]))
    table = table.loc[table["cytokine"] == cytokine]
    lost = [] if either else table.loc[table["role"] == "receptor", "gene"].tolist()
    partners = table.loc[table["role"] == "co-receptor", "gene"]
    return [*lost, *partners[~partners.isin(every)]]


def _holders(
    rows: pd.DataFrame, *, either: Sequence[str] = (), every: Sequence[str] = ()
) -> list[str]:
    """List the populations that hold one of `either` and all of `every` in most arms."""
    measured = rows.loc[rows["n_subjects"] > 0]
    highest = measured.groupby(["gene", "condition"], observed=True)["cpm"].transform("max")
    held = (measured["state"] == keys.ABOVE_AMBIENT) & (measured["cpm"] >= _LEAST * highest)
    measured = measured.assign(held=held)
    chosen = []
    for population, part in measured.groupby("population", observed=True):
        arms = []
        for _, arm in part.groupby("condition", observed=True):
            found = set(arm.loc[arm["held"], "gene"].astype(str))
            arms.append((not either or bool(found & set(either))) and set(every) <= found)
        if sum(arms) > len(arms) / 2:
            chosen.append(str(population))
    return population_order(chosen)


def _named(populations: Iterable[str]) -> str:
    return listed([cells_named(name) for name in populations])
