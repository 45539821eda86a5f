"""What each stage does in memory: the functions in order, with the config's settings.

The cohort that goes from stage to stage has all genes and leaves its counts on disk. What a stage
looks at more closely it takes into memory: all cells with few genes (`few_genes`, whose last column
is the sum of all others, so that the depth of a cell stays), or few cells with all genes.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from crs_sc import annotation, clustering, comparison, genesets, keys, preprocessing, sources
from crs_sc.core.blocks import rows_of
from crs_sc.core.condense import condense
from crs_sc.core.parallel import start_map
from crs_sc.io import empty_droplet_profile, read
from crs_sc.run.config import sections_of
from crs_sc.run.inputs import (
    absolute_counts,
    analysed_organism,
    chosen_genes,
    chosen_signatures,
    covariate_names,
    design_samples,
    raw_matrices,
    reference_settings,
    refuse_unanswerable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from anndata import AnnData

    from crs_sc.run.config import RunConfig

    type Tables = dict[str, pd.DataFrame]

__all__ = [
    "annotate_cohort",
    "attribute_sources",
    "check_other_labels",
    "cluster_cohort",
    "compare_arms",
    "empty_table",
    "genes_of_sources",
    "make_pseudobulk",
    "qc_sample",
    "sources_of_cohort",
]

# Cells of the test for circularity.
_MAX_CIRCULAR = 3_000


def few_genes(adata: AnnData, genes: Iterable[str], config: RunConfig) -> AnnData:
    """Take some genes of all cells into memory, normalised, with all that is known of the cells.

    Parameters
    ----------
    adata
        The cohort, its counts on disk.
    genes
        Symbols.
    config
        Settings.
    """
    wanted = adata.var_names[adata.var_names.isin(list(genes))]
    few = condense(adata, genes=list(wanted))
    if keys.HIGHLY_VARIABLE in adata.var:
        selected = adata.var[keys.HIGHLY_VARIABLE].reindex(few.var_names, fill_value=False)
        few.var[keys.HIGHLY_VARIABLE] = selected.to_numpy(dtype=bool)
    few.obsm.update(adata.obsm)
    few.obsp.update(adata.obsp)
    preprocessing.normalize(few, **config.normalize)
    return few


def give_back(few: AnnData, adata: AnnData) -> None:
    """Write into the cohort what became known of its cells."""
    adata.obs, adata.uns = few.obs, few.uns
    adata.obsm.update(few.obsm)
    adata.obsp.update(few.obsp)
    for name, values in few.varm.items():
        if isinstance(values, np.ndarray):
            whole = np.zeros((adata.n_vars, values.shape[1]))
            places = adata.var_names.get_indexer(few.var_names)
            whole[places[places >= 0]] = values[places >= 0]
            adata.varm[name] = whole


def few_cells(adata: AnnData, cells: np.ndarray[Any, np.dtype[np.intp]]) -> AnnData:
    """Take some cells with all of their genes into memory."""
    import anndata as ad

    counts = rows_of(adata.layers[keys.COUNTS], cells)
    part = ad.AnnData(obs=adata.obs.iloc[cells].copy(), var=adata.var, uns=dict(adata.uns))
    part.layers[keys.COUNTS] = counts
    return part


def qc_sample(adata: AnnData, config: RunConfig) -> AnnData:
    """Species, QC, ambient RNA and doublets of one sample; returns the cells that passed."""
    organism = analysed_organism(config)
    empty_profiles = {
        name: empty_droplet_profile(raw, organism=config.organism)
        for name, raw in raw_matrices(adata, config).items()
    }
    preprocessing.call_species(adata, organism=organism, **config.call_species)
    cells = preprocessing.select_species(adata, organism=organism)
    preprocessing.quality_control(cells, **config.quality_control)
    preprocessing.estimate_ambient(
        cells, organism=organism, empty_profiles=empty_profiles, **config.estimate_ambient
    )
    preprocessing.call_doublets(cells, random_state=config.seed, **config.call_doublets)
    return preprocessing.filter_cells(cells)


def cluster_cohort(adata: AnnData, config: RunConfig, *, n_jobs: int = 1) -> Tables:
    """Select genes, embed and cluster; returns the tables."""
    preprocessing.select_genes(
        adata, exclude=[*chosen_genes(config), *config.transgene], **config.select_genes
    )
    few = few_genes(adata, adata.var_names[adata.var[keys.HIGHLY_VARIABLE]], config)
    clustering.embed(few, with_layout=False, random_state=config.seed, **config.embed)
    # Nothing depends on the map but figures: it is laid out beside the clusters.
    maps = start_map(
        clustering.umap_positions,
        [(*clustering.layout_input(few), config.seed)],
        n_jobs=n_jobs,
    )
    clustering.cluster(few, random_state=config.seed, n_jobs=n_jobs, **config.cluster)
    few.obsm[keys.UMAP] = next(maps)
    give_back(few, adata)
    labels = keys.LABEL if config.columns.label else None
    return {
        "clustering": adata.uns[keys.UNS][keys.CLUSTERING],
        "integration": clustering.integration_table(
            adata, label_key=labels, random_state=config.seed
        ),
    }


def annotate_cohort(adata: AnnData, config: RunConfig, *, n_jobs: int = 1) -> Tables:
    """Score signatures, name cell types and myeloid states; returns the tables."""
    organism = analysed_organism(config)
    genes, signatures = chosen_genes(config), chosen_signatures(config)
    annotation.score_signatures(adata, signatures=signatures, **config.score_signatures)
    symbols = genesets.load_cell_types(organism=organism)["symbol"].unique()
    markers = genesets.match_genes(symbols, adata.var_names, organism=organism)
    few = few_genes(adata, [*markers.values(), *config.transgene], config)
    annotation.annotate(
        few,
        organism=organism,
        label_key=keys.LABEL if config.columns.label else None,
        random_state=config.seed,
        n_jobs=n_jobs,
        **config.annotate,
    )
    if config.transgene:
        annotation.call_transgene(few, transgene=config.transgene, **config.call_transgene)
    annotation.call_myeloid_states(few, **config.call_myeloid_states)
    if config.columns.label:
        annotation.add_marker_opinion(
            few, organism=organism, settings=dict(config.annotate), random_state=config.seed
        )
    clustering.subcluster(
        few,
        counts=adata,
        # Not on what is measured in them later.
        exclude=[*genes, *config.transgene],
        random_state=config.seed,
        n_jobs=n_jobs,
        **config.subcluster,
    )
    give_back(few, adata)
    del few
    panels = genesets.cell_type_panels(organism=organism)
    return {
        "clusters": clustering.cluster_table(adata),
        "subclusters": clustering.subcluster_table(adata),
        "circularity": circularity_of_cohort(adata, config),
        "gene_overlap": clustering.gene_overlap(
            adata, signatures=signatures, markers=panels, genes=genes
        ),
        "qc": preprocessing.qc_table(adata),
        "populations": adata.uns[keys.UNS][keys.POPULATIONS],
        "opinions": check_other_labels(adata, config),
        "coverage": genesets.coverage({**panels, **signatures}, adata.var_names),
    }


def circularity_of_cohort(adata: AnnData, config: RunConfig) -> pd.DataFrame:
    """Cluster some cells with and without the cytokines, beside genes like them from all genes."""
    size = min(_MAX_CIRCULAR, adata.n_obs)
    chosen = np.random.default_rng(config.seed).choice(adata.n_obs, size, replace=False)
    part = few_cells(adata, np.sort(chosen))
    preprocessing.normalize(part, **config.normalize)
    return clustering.circularity(part, genes=chosen_genes(config), random_state=config.seed)


def check_other_labels(adata: AnnData, config: RunConfig) -> pd.DataFrame:
    """Compare the populations with what the reference and CellTypist make of the cells.

    Returns
    -------
    The table `opinions`, without rows if the config names neither, nor labels of the user.
    """
    if config.label_reference is not None:
        annotation.transfer_labels(
            adata,
            reference=read(config.label_reference, **reference_settings(config)),
            organism=analysed_organism(config),
            exclude=[*chosen_genes(config), *config.transgene],
            random_state=config.seed,
            # Reading has renamed the column.
            **config.transfer_labels.model_dump(exclude={"reference_key"}),
        )
    if config.celltypist_model is not None:
        annotation.celltypist_labels(
            adata, model=config.celltypist_model, **config.celltypist_labels
        )
    return annotation.compare_opinions(adata, label_names=config.label_names)


def genes_of_sources(config: RunConfig) -> list[str]:
    """Genes that `attribute_sources` looks at: cytokines, receptors and those of the IL-1 tone."""
    organism = analysed_organism(config)
    receptors = genesets.load_receptors(organism=organism)["gene"]
    return [*chosen_genes(config), *receptors, *sources.tone_genes(organism=organism)]


def sources_of_cohort(adata: AnnData, config: RunConfig) -> Tables:
    """Call producers and write the ledger of the cohort; returns the tables."""
    # One pass over the counts instead of one by each function.
    few = condense(adata, genes=genes_of_sources(config))
    tables = attribute_sources(few, config)
    give_back(few, adata)
    return tables


def attribute_sources(adata: AnnData, config: RunConfig) -> Tables:
    """Weigh the cells, call producers and write the ledger; returns the tables.

    On the genes of `genes_of_sources` alone (`tl.condense`) it gives the same.
    """
    organism, genes = analysed_organism(config), chosen_genes(config)
    counts = absolute_counts(config, samples=adata.obs[keys.SAMPLE].unique())
    if counts is not None:
        sources.weigh_cells(adata, absolute_counts=counts)
    weight_key = keys.SAMPLING_WEIGHT if keys.SAMPLING_WEIGHT in adata.obs else None
    sources.call_producers(adata, genes=genes, **config.call_producers)
    ledger = sources.ledger(
        adata, genes=genes, weight_key=weight_key, random_state=config.seed, **config.ledger
    )
    producers = sources.producers(adata)
    return {
        "producers": producers,
        "production": sources.production(producers, **config.production),
        "receivers": sources.receivers(adata, organism=organism, **config.receivers),
        "il1_tone": sources.il1_tone(adata, organism=organism, **config.il1_tone),
        "ledger": ledger,
        "ledger_by_condition": sources.ledger_by_condition(
            ledger, random_state=config.seed, **config.ledger_by_condition
        ),
    }


def make_pseudobulk(adata: AnnData, config: RunConfig) -> AnnData:
    """Sum up the UMI by subject and population, in one pass over the counts."""
    return comparison.pseudobulk(
        adata, covariates=covariate_names(config), min_cells=config.shifts.min_cells
    )


def compare_arms(
    adata: AnnData,
    bulk: Callable[[], AnnData],
    config: RunConfig,
    *,
    tables: Callable[[str], pd.DataFrame],
    n_jobs: int,
) -> Tables:
    """Test every contrast; returns the tables.

    Parameters
    ----------
    adata
        The cohort after its sources.
    bulk
        Makes its pseudobulk.
    config
        Settings.
    tables
        Gives a table of the stage before.
    n_jobs
        Processes.
    """
    samples = design_samples(adata, config)
    refuse_unanswerable(samples, config)
    ledger = tables("ledger")
    onset = order_of_onset(ledger, samples, config)
    if not config.contrasts:
        names = [*sections_of("compare"), "scores", "exclusions"]
        renamed = ["decomposition" if name == "decompose" else name for name in names]
        return {name: empty_table(name) for name in renamed} | {"onset": onset}
    contrasts, signatures = list(config.contrasts), chosen_signatures(config)
    seed: dict[str, Any] = {"random_state": config.seed}
    scored: dict[str, Any] = {
        "contrasts": contrasts,
        "genes": list(dict.fromkeys(ledger["gene"])),
        "signatures": signatures,
    }
    calls: dict[str, Callable[[], pd.DataFrame]] = {
        "shifts": partial(comparison.shifts, bulk(), **scored, **seed, **config.shifts),
        "arm_by_time": partial(
            comparison.arm_by_time, bulk(), **scored, **seed, **config.arm_by_time
        ),
        "reversal": partial(comparison.reversal, bulk(), **scored, **config.reversal),
        "decomposition": partial(
            comparison.decompose,
            ledger,
            tables("producers"),
            contrasts=contrasts,
            samples=samples,
            **seed,
            **config.decompose,
        ),
        "composition": partial(
            comparison.composition, bulk(), contrasts=contrasts, **seed, **config.composition
        ),
    }
    # All in one call, so that the pseudobulk travels once.
    others = start_map(_results_of, [(calls,)], n_jobs=n_jobs)
    expression = comparison.expression(
        bulk(), contrasts=contrasts, n_jobs=n_jobs, **config.expression
    )
    enrichment = comparison.enrichment(
        expression, gene_sets=signatures, n_jobs=n_jobs, **seed, **config.enrichment
    )
    scores = comparison.subject_scores(
        bulk(),
        signatures=signatures,
        **config.shifts.model_dump(include={"min_cells", "min_count", "min_genes"}),
    )
    return {
        "onset": onset,
        **next(others),
        "expression": expression,
        "enrichment": enrichment,
        "scores": scores.reindex(columns=keys.TABLES["scores"].names),
        "exclusions": comparison.exclusions(
            bulk(), contrasts=contrasts, min_cells=config.shifts.min_cells
        ),
    }


def _results_of(calls: Mapping[str, Callable[[], pd.DataFrame]]) -> Tables:
    return {name: call() for name, call in calls.items()}


def order_of_onset(ledger: pd.DataFrame, samples: pd.DataFrame, config: RunConfig) -> pd.DataFrame:
    """Order of two cytokines in each subject; empty without time points or without one of them."""
    settings: dict[str, Any] = dict(**config.onset)
    known = set(ledger["gene"])
    for name in ("first", "second"):
        genes = list(settings[name])
        if analysed_organism(config) == "mouse":
            pairs = genesets.orthologs()
            genes += pairs.loc[pairs["human"].isin(genes), "mouse"].tolist()
        settings[name] = [gene for gene in genes if gene in known]
    has_times = keys.TIMEPOINT in samples and samples[keys.TIMEPOINT].nunique() > 1
    if not (has_times and settings["first"] and settings["second"]):
        return empty_table("onset")
    return comparison.onset(ledger, samples=samples, random_state=config.seed, **settings)


def empty_table(name: str) -> pd.DataFrame:
    """Table of the contract without rows."""
    return pd.DataFrame(columns=keys.TABLES[name].names)
