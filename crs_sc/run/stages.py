"""What each stage does in memory: the functions in order, with the config's settings."""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from crs_sc import annotation, clustering, comparison, genesets, keys, preprocessing, sources
from crs_sc.core.parallel import start_map
from crs_sc.errors import CrsWarning, InputError, listing
from crs_sc.io import CohortFiles, read, read_absolute_counts
from crs_sc.run.clusters import cluster_tables, population_tables
from crs_sc.run.config import sections_of
from crs_sc.run.design import design_samples, refuse_unanswerable
from crs_sc.run.opinions import gather_opinions, refuse_unusable_opinions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from anndata import AnnData

    from crs_sc.run.config import RunConfig

__all__ = [
    "absolute_counts",
    "analysed_names",
    "annotate_cohort",
    "attribute_sources",
    "chosen_genes",
    "chosen_scoring",
    "chosen_signatures",
    "cluster_cohort",
    "compare_arms",
    "empty_comparisons",
    "empty_table",
    "genes_of_sources",
    "input_files",
    "order_of_onset",
    "qc_sample",
    "raw_matrices",
    "read_input",
    "refuse_unusable",
]

# Table of a function that does not bear its name.
_TABLE_OF = {"decompose": "decomposition"}


def analysed_organism(config: RunConfig) -> Literal["human", "mouse"]:
    """Organism whose cells are analysed: the first of two."""
    return "mouse" if config.organism.startswith("mouse") else "human"


def chosen_genes(config: RunConfig) -> list[str]:
    """Cytokines of the ledger under their current symbols; those of the organism by default."""
    organism = analysed_organism(config)
    if "genes" not in config.model_fields_set:
        return genesets.target_cytokines(organism=organism)
    resolved = genesets.resolve_symbols(config.genes, organism=organism)
    return list(dict.fromkeys(resolved))


def read_input(config: RunConfig) -> AnnData:
    """Read the files of the config; counts that are declared corrected may be fractional."""
    return read(_source(config), **_reading(config))


def input_files(config: RunConfig) -> CohortFiles:
    """Read cells and genes of the files of the config; the counts are read when asked for."""
    files = CohortFiles(_source(config), **_reading(config))
    for text in files.warned:
        warnings.warn(text, CrsWarning, stacklevel=2)
    return files


def _source(config: RunConfig) -> Path | list[Path]:
    return list(config.input) if len(config.input) > 1 else config.input[0]


def _reading(config: RunConfig) -> dict[str, Any]:
    return {
        "columns": config.columns.mapping(),
        "organism": config.organism,
        "corrected": config.estimate_ambient.corrected,
    }


def raw_matrices(adata: AnnData, config: RunConfig) -> dict[str, Path]:
    """Raw matrix of each sample for which the sample sheet names one."""
    if keys.RAW_PATH not in adata.obs:
        return {}
    named = adata.obs.groupby(keys.SAMPLE, observed=True)[keys.RAW_PATH].first().astype(str)
    folder = config.input[0].parent
    return {str(s): folder / raw for s, raw in named.items() if raw not in ("", "nan")}


def analysed_names(adata: AnnData, config: RunConfig) -> list[str]:
    """Gene symbols of the genome that is analysed, before the species are split."""
    if keys.GENOME not in adata.var:
        return [str(name) for name in adata.var_names]
    own = adata.var[keys.GENOME].astype(str) == analysed_organism(config)
    return [str(symbol) for symbol in adata.var.loc[own, keys.SYMBOL]]


def refuse_missing_genes(adata: AnnData, config: RunConfig) -> None:
    """Raise now, not after an hour, if nothing that is asked for is among the genes.

    Raises
    ------
    InputError
        If no cytokine, no signature gene or no feature of the transgene is in the data.
    """
    names = set(analysed_names(adata, config))
    signature_genes = [gene for genes in chosen_signatures(config).values() for gene in genes]
    for what, genes in (
        ("the genes of the signatures", signature_genes),
        ("the cytokines (genes)", chosen_genes(config)),
        ("the features of the transgene", list(config.transgene)),
    ):
        if genes and not names.intersection(genes):
            msg = (
                f"None of {what} {listing(genes)} is in the data ({len(names)} genes such as "
                f"{listing(sorted(names)[:3])}). Is the organism right, and are these symbols?"
            )
            raise InputError(msg)


def absolute_counts(config: RunConfig, *, samples: Iterable[str]) -> pd.DataFrame | None:
    """Cells per microlitre of these samples, None if the config names no table.

    Raises
    ------
    InputError
        If the table cannot be used, or lacks a sample.
    """
    if config.absolute_counts is None:
        return None
    table = read_absolute_counts(config.absolute_counts)
    return sources.check_absolute_counts(table, samples=samples)


def chosen_signatures(config: RunConfig) -> dict[str, list[str]]:
    """Signatures of the config: packaged ones, all or by name, and the user's own."""
    return genesets.signatures(
        organism=analysed_organism(config), names=config.signatures, user=config.gene_sets
    )


def chosen_scoring(config: RunConfig) -> dict[str, int]:
    """Choose the settings of the shifts that say which cells and genes make a score."""
    return config.shifts.model_dump(include={"min_cells", "min_count", "min_genes"})


def qc_sample(
    adata: AnnData, config: RunConfig, *, empty_profiles: Mapping[str, pd.Series] | None = None
) -> AnnData:
    """Species, QC, ambient RNA and doublets of one sample; returns the cells that passed."""
    organism = analysed_organism(config)
    preprocessing.call_species(adata, organism=organism, **config.call_species)
    cells = preprocessing.select_species(adata, organism=organism)
    preprocessing.quality_control(cells, **config.quality_control)
    preprocessing.estimate_ambient(
        cells,
        organism=organism,
        empty_profiles=empty_profiles,
        **config.estimate_ambient,
    )
    preprocessing.call_doublets(cells, random_state=config.seed, **config.call_doublets)
    return preprocessing.filter_cells(cells)


def cluster_cohort(
    adata: AnnData, config: RunConfig, *, n_jobs: int = 1
) -> dict[str, pd.DataFrame]:
    """Normalise, select genes, embed and cluster; returns the tables."""
    preprocessing.normalize(adata, **config.normalize)
    preprocessing.select_genes(
        adata,
        exclude=[*chosen_genes(config), *config.transgene],
        **config.select_genes,
    )
    clustering.embed(adata, with_layout=False, random_state=config.seed, **config.embed)
    # Nothing depends on the map but figures: it is laid out beside the clusters.
    maps = start_map(
        clustering.umap_positions,
        [(*clustering.layout_input(adata), config.seed)],
        n_jobs=n_jobs,
    )
    clustering.cluster(
        adata,
        random_state=config.seed,
        n_jobs=n_jobs,
        **config.cluster,
    )
    adata.obsm[keys.UMAP] = next(maps)
    return cluster_tables(adata, config)


def annotate_cohort(
    adata: AnnData, config: RunConfig, *, n_jobs: int = 1
) -> dict[str, pd.DataFrame]:
    """Score signatures, name cell types and myeloid states; returns the tables."""
    organism = analysed_organism(config)
    signatures = chosen_signatures(config)
    annotation.score_signatures(adata, signatures=signatures, **config.score_signatures)
    annotation.annotate(
        adata,
        organism=organism,
        label_key=keys.LABEL if config.columns.label else None,
        random_state=config.seed,
        n_jobs=n_jobs,
        **config.annotate,
    )
    if config.transgene:
        annotation.call_transgene(
            adata,
            transgene=config.transgene,
            **config.call_transgene,
        )
    annotation.call_myeloid_states(adata, **config.call_myeloid_states)
    panels = genesets.cell_type_panels(organism=organism)
    genes = chosen_genes(config)
    tables = population_tables(
        adata, config, genes=genes, signatures=signatures, panels=panels, n_jobs=n_jobs
    )
    return tables | {
        "qc": preprocessing.qc_table(adata),
        "populations": adata.uns[keys.UNS][keys.POPULATIONS],
        "opinions": gather_opinions(adata, config, genes=genes),
        "coverage": genesets.coverage({**panels, **signatures}, adata.var_names),
    }


def genes_of_sources(config: RunConfig) -> list[str]:
    """Genes that `attribute_sources` looks at: cytokines, receptors and those of the IL-1 tone."""
    organism = analysed_organism(config)
    receptors = genesets.load_receptors(organism=organism)["gene"]
    return [*chosen_genes(config), *receptors, *sources.tone_genes(organism=organism)]


def attribute_sources(adata: AnnData, config: RunConfig) -> dict[str, pd.DataFrame]:
    """Weigh the cells, call producers and write the ledger; returns the tables.

    On the genes of `genes_of_sources` alone (`sources.condense`) it gives the same.
    """
    counts = absolute_counts(config, samples=adata.obs[keys.SAMPLE].unique())
    if counts is not None:
        sources.weigh_cells(adata, absolute_counts=counts)
    weight_key = keys.SAMPLING_WEIGHT if keys.SAMPLING_WEIGHT in adata.obs else None
    genes = chosen_genes(config)
    sources.call_producers(adata, genes=genes, **config.call_producers)
    ledger = sources.ledger(
        adata,
        genes=genes,
        weight_key=weight_key,
        random_state=config.seed,
        **config.ledger,
    )
    producers = sources.producers(adata)
    return {
        "producers": producers,
        "production": sources.production(producers, **config.production),
        "receivers": sources.receivers(
            adata,
            organism=analysed_organism(config),
            **config.receivers,
        ),
        "il1_tone": sources.il1_tone(adata, organism=analysed_organism(config), **config.il1_tone),
        "ledger": ledger,
        "ledger_by_condition": sources.ledger_by_condition(
            ledger,
            random_state=config.seed,
            **config.ledger_by_condition,
        ),
    }


def compare_arms(
    bulk: AnnData,
    config: RunConfig,
    *,
    samples: pd.DataFrame,
    ledger: pd.DataFrame,
    producers: pd.DataFrame,
    n_jobs: int,
) -> dict[str, pd.DataFrame]:
    """Test every contrast; returns the tables."""
    contrasts = list(config.contrasts)
    signatures = chosen_signatures(config)
    seed = {"random_state": config.seed}
    scored = {
        "contrasts": contrasts,
        "genes": list(dict.fromkeys(ledger["gene"])),
        "signatures": signatures,
    }

    def call(function: Callable[..., pd.DataFrame], *given: Any, **settings: Any) -> Any:
        return partial(function, *given, **settings, **getattr(config, function.__name__))

    calls = {
        "shifts": call(comparison.shifts, bulk, **scored, **seed),
        "arm_by_time": call(comparison.arm_by_time, bulk, **scored, **seed),
        "reversal": call(comparison.reversal, bulk, **scored),
        "decomposition": call(
            comparison.decompose, ledger, producers, contrasts=contrasts, samples=samples, **seed
        ),
        "composition": call(comparison.composition, bulk, contrasts=contrasts, **seed),
    }
    # All in one call, so that the pseudobulk travels once.
    others = start_map(_results_of, [(calls,)], n_jobs=n_jobs)
    expression = call(comparison.expression, bulk, contrasts=contrasts, n_jobs=n_jobs)()
    enrichment = call(
        comparison.enrichment, expression, gene_sets=signatures, n_jobs=n_jobs, **seed
    )()
    scoring = chosen_scoring(config)
    scores = comparison.subject_scores(bulk, signatures=signatures, **scoring)
    return {
        **next(others),
        "expression": expression,
        "enrichment": enrichment,
        "scores": scores.reindex(columns=keys.TABLES["scores"].names),
        "exclusions": comparison.exclusions(
            bulk, contrasts=contrasts, min_cells=scoring["min_cells"]
        ),
    }


def _results_of(calls: Mapping[str, Callable[[], pd.DataFrame]]) -> dict[str, pd.DataFrame]:
    return {name: call() for name, call in calls.items()}


def empty_comparisons() -> dict[str, pd.DataFrame]:
    """Tables of `compare_arms` where there is nothing to compare."""
    tables = [_TABLE_OF.get(name, name) for name in sections_of("compare") if name != "onset"]
    return {name: empty_table(name) for name in [*tables, "scores", "exclusions"]}


def order_of_onset(ledger: pd.DataFrame, samples: pd.DataFrame, config: RunConfig) -> pd.DataFrame:
    """Order of two cytokines in each subject; empty without time points or without one of them."""
    settings: dict[str, Any] = dict(config.onset)
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


def refuse_unusable(adata: AnnData, config: RunConfig) -> None:
    """Raise before any work is done for what would stop it later.

    Raises
    ------
    CrsError
        For a design that cannot be answered, absolute counts that cannot be used, or a cohort
        without any gene that is asked for.
    """
    samples = design_samples(adata, config)
    refuse_unanswerable(samples, config)
    absolute_counts(config, samples=samples.index)
    refuse_missing_genes(adata, config)
    refuse_unusable_opinions(config, analysed_names(adata, config))
