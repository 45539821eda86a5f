"""The key figures of a run: which of them there is something to show for, drawn and saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crs_sc import genesets, keys, plotting
from crs_sc.core.parallel import start_map
from crs_sc.io import atomic_path
from crs_sc.report._arms import headline_genes, ordered_arms
from crs_sc.report._key_figure import KeyFigure, organism_of, slug
from crs_sc.report._scores import score_figures
from crs_sc.report._shift_figures import course_figure, shift_figures

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData
    from matplotlib.figure import Figure

    from crs_sc.comparison import Contrast

__all__ = ["key_figures", "write_figures"]


def write_figures(
    adata: AnnData | None,
    tables: Mapping[str, pd.DataFrame],
    folder: Path,
    *,
    contrasts: Sequence[Contrast] = (),
    signatures: Mapping[str, Sequence[str]] | None = None,
    scoring: Mapping[str, int] | None = None,
    bulk: AnnData | None = None,
    dpi: int = 150,
    n_jobs: int = 1,
) -> list[Path]:
    """Draw every key figure that has something to show, as PNG and as SVG.

    The same input gives the same files, byte for byte, on one machine.

    Parameters
    ----------
    adata
        The cohort after annotation; None: only the figures that need no cells.
    tables
        Tables of the contract by name; those that are missing or empty are passed over.
    folder
        Where to write.
    contrasts
        What was compared: gives the order of the arms.
    signatures
        Sets whose scores by subject are shown; the packaged ones if None.
    scoring
        Settings of `subject_scores`, where those of the shifts were not the defaults.
    bulk
        Pseudobulk of the cohort, if it is there already.
    dpi
        Dots per inch of the PNG and of what is rasterised inside the SVG.
    n_jobs
        Processes: the others draw the figures of the tables while those of the cells are drawn
        here. No file depends on it.

    Returns
    -------
    Paths of the files in the order of the report, the PNG of each figure before its SVG.

    Raises
    ------
    InputError
        If the folder cannot be written to.
    """
    filled = _filled(tables)
    arms = _arms(adata, filled, contrasts)
    # The longest table does not travel; its figures are drawn here.
    light = {name: table for name, table in filled.items() if name != "expression"}
    sent = [item.name for item in _table_figures(light, arms)] if n_jobs > 1 else []
    calls = [(light, arms, name, folder, dpi) for name in sent]
    drawn = start_map(_save_of_tables, calls, n_jobs=n_jobs)
    items = key_figures(
        adata,
        tables,
        contrasts=contrasts,
        signatures=signatures,
        scoring=scoring,
        bulk=bulk,
    )
    paths = {item.name: _save(item, folder, dpi=dpi) for item in items if item.name not in sent}
    paths.update(zip(sent, drawn, strict=True))
    return [path for item in items for path in paths[item.name]]


def _save_of_tables(
    tables: Mapping[str, pd.DataFrame],
    arms: list[str] | None,
    name: str,
    folder: Path,
    dpi: int,
) -> list[Path]:
    """Draw one of the figures that need no cells, in whatever process."""
    item = next(item for item in _table_figures(tables, arms) if item.name == name)
    return _save(item, folder, dpi=dpi)


def _save(item: KeyFigure, folder: Path, *, dpi: int) -> list[Path]:
    """Draw a figure, lay it out once, write PNG and SVG without a date in them, and close it."""
    from matplotlib import pyplot as plt

    drawn = item.draw()
    figure: Figure = getattr(drawn, "figure", drawn)
    stem = folder / item.name
    paths = []
    with plotting.style():
        layout = figure.get_layout_engine()
        if layout is not None:
            layout.execute(figure)
            # Not "none", for whose placeholder each `savefig` draws the figure once more.
            figure.set_layout_engine(None)
        box = figure.get_tightbbox().padded(0.08)
        for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
            path = stem.with_name(stem.name + suffix)
            with atomic_path(path) as temporary:
                figure.savefig(temporary, dpi=dpi, metadata=metadata, bbox_inches=box)
            paths.append(path)
    plt.close(figure)
    return paths


def key_figures(
    adata: AnnData | None,
    tables: Mapping[str, pd.DataFrame],
    *,
    contrasts: Sequence[Contrast] = (),
    signatures: Mapping[str, Sequence[str]] | None = None,
    scoring: Mapping[str, int] | None = None,
    bulk: AnnData | None = None,
) -> list[KeyFigure]:
    """Decide from what exists which figures to draw, in the order of the report.

    Parameters
    ----------
    adata, tables, contrasts, signatures, scoring, bulk
        As in `write_figures`.
    """
    filled = _filled(tables)
    arms = _arms(adata, filled, contrasts)
    found = [*_table_figures(filled, arms)]
    if adata is not None and adata.n_obs:
        found += _species_figure(adata)
        found += _cell_figures(adata, filled, arms)
        found += course_figure(adata, filled, arms)
        if contrasts:
            found += score_figures(adata, filled, arms, signatures, bulk=bulk, **scoring or {})
    rank = {name: i for i, name in enumerate(ORDER)}
    return sorted(found, key=lambda item: rank[item.name.partition("--")[0]])


ORDER = (
    "qc_overview",
    "barnyard",
    "umap_population",
    "umap_condition",
    "umap_sample",
    "umap_species",
    "markers",
    "cluster_stability",
    "composition",
    "myeloid_states",
    "source_shares",
    "source_shares_all",
    "producers",
    "ambient_expected",
    "stress_vs_cytokine",
    "receivers",
    "signature_points",
    "shifts_signatures",
    "shifts_genes",
    "stress_adjustment",
    "trajectories",
    "decomposition",
    "waterfall",
    "reversal",
    "volcano",
    "enrichment",
)


def _filled(tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Tables with rows."""
    return {name: table for name, table in tables.items() if not table.empty}


def _arms(
    adata: AnnData | None, tables: Mapping[str, pd.DataFrame], contrasts: Sequence[Contrast]
) -> list[str] | None:
    """Arms in order; None without contrasts, so that no arm is painted as the reference."""
    if not contrasts:
        return None
    values: list[str] = []
    if adata is not None and keys.CONDITION in adata.obs.columns:
        values += adata.obs[keys.CONDITION].astype(str).unique().tolist()
    for name in ("qc", "ledger"):
        if name in tables:
            values += tables[name]["condition"].astype(str).unique().tolist()
    return ordered_arms(contrasts, values)


def _table_figures(tables: Mapping[str, pd.DataFrame], arms: list[str] | None) -> list[KeyFigure]:
    found = []

    def add(name: str, draw: Callable[..., Any], table: str, **settings: Any) -> None:
        found.append(KeyFigure(name, lambda: draw(tables[table], **settings)))

    if "qc" in tables:
        add("qc_overview", plotting.qc_overview, "qc", conditions=arms)
    if {"clusters", "clustering"} <= set(tables):
        add(
            "cluster_stability",
            plotting.cluster_stability,
            "clusters",
            clustering=tables["clustering"],
        )
    if "ledger" in tables:
        genes = headline_genes(tables["ledger"])
        add("source_shares", plotting.source_shares, "ledger", genes=genes, conditions=arms)
        others = [gene for gene in dict.fromkeys(tables["ledger"]["gene"]) if gene not in genes]
        if others:
            add(
                "source_shares_all",
                plotting.source_shares,
                "ledger",
                genes=others,
                conditions=arms,
            )
        add("composition", plotting.composition, "ledger", conditions=arms)
    if "producers" in tables:
        add(
            "producers",
            plotting.producer_dotplot,
            "producers",
            production=tables.get("production"),
            conditions=arms,
        )
        add("ambient_expected", plotting.ambient_expected, "producers")
    found += _receiver_figures(tables, arms)
    return found + shift_figures(tables)


def _receiver_figures(
    tables: Mapping[str, pd.DataFrame], arms: list[str] | None
) -> list[KeyFigure]:
    """One figure for each headline cytokine that has receptors in the data."""
    if not {"receivers", "ledger_by_condition"} <= set(tables):
        return []
    shares = tables["ledger_by_condition"]
    known = set(tables["receivers"]["cytokine"])

    def draw(cytokine: str) -> Callable[[], Any]:
        return lambda: plotting.producers_to_receivers(
            tables["receivers"],
            cytokine=cytokine,
            ledger_by_condition=shares,
            production=tables.get("production"),
            conditions=arms,
        )

    return [
        KeyFigure(f"receivers--{slug(cytokine)}", draw(cytokine))
        for cytokine in headline_genes(shares)
        if cytokine in known
    ]


def _species_figure(adata: AnnData) -> list[KeyFigure]:
    """Both genomes of all droplets, or of the kept cells where nothing else is known."""
    stored = adata.uns.get(keys.UNS, {})
    call = stored.get(keys.SPECIES_CALL, {})
    settings: dict[str, Any] = {n: float(call[n]) for n in ("min_fraction",) if n in call}
    droplets = stored.get(keys.DROPLETS)
    if droplets is not None and len(droplets):
        return [KeyFigure("barnyard", lambda: plotting.barnyard(droplets, **settings))]
    if not {keys.SPECIES_FRACTION, keys.N_UMI, keys.SPECIES} <= set(adata.obs.columns):
        return []
    if not (adata.obs[keys.SPECIES_FRACTION].to_numpy(dtype=float) < 1).any():
        return []
    return [KeyFigure("barnyard", lambda: plotting.barnyard(adata, **settings))]


def _cell_figures(
    adata: AnnData, tables: Mapping[str, pd.DataFrame], arms: list[str] | None
) -> list[KeyFigure]:
    found = []
    obs = adata.obs

    def add(name: str, draw: Callable[..., Any], **settings: Any) -> None:
        found.append(KeyFigure(name, lambda: draw(adata, **settings)))

    if keys.UMAP in adata.obsm:
        for column in (keys.POPULATION, keys.CONDITION, keys.SAMPLE, keys.SPECIES):
            several = column in obs.columns and obs[column].astype(str).nunique() > 1
            if several or (column == keys.POPULATION and column in obs.columns):
                add(f"umap_{column}", plotting.umap, color=column, conditions=arms)
    if keys.POPULATION in obs.columns:
        panels = genesets.cell_type_panels(organism=organism_of(adata))
        present = set(obs[keys.POPULATION].astype(str))
        if any(name in present and adata.var_names.isin(panels[name]).any() for name in panels):
            add("markers", plotting.marker_dotplot, markers=panels)
    if keys.MYELOID_STATE in obs.columns and obs[keys.MYELOID_STATE].notna().any():
        add("myeloid_states", plotting.myeloid_states, conditions=arms)
    scores = adata.obsm.get(keys.SIGNATURE_SCORES)
    if "ledger" in tables and scores is not None and "dissociation_stress" in scores:
        gene = headline_genes(tables["ledger"])[0]
        myeloid = obs[keys.LINEAGE].isin(keys.MYELOID_LINEAGES).any()
        if myeloid:
            add(
                "stress_vs_cytokine",
                plotting.stress_vs_cytokine,
                ledger=tables["ledger"],
                gene=gene,
                conditions=arms,
            )
    return found
