"""Attribution alone: one file with labels, its counts left on disk, gone over once."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pandas as pd

from crs_sc import comparison, genesets, keys, preprocessing, sources
from crs_sc.core.ambient import has_ambient
from crs_sc.core.blocks import pass_over
from crs_sc.core.memory import CohortSize, attribution_chunk, memory_of
from crs_sc.errors import InputError
from crs_sc.io import write_table
from crs_sc.run.inputs import (
    absolute_counts,
    analysed_organism,
    chosen_signatures,
    covariate_names,
    design_samples,
    input_files,
    refuse_unusable,
)
from crs_sc.run.stages import attribute_sources, empty_table, genes_of_sources

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

    from crs_sc.run.config import RunConfig

__all__ = ["attribute"]

logger = logging.getLogger("crs_sc")


def attribute(config: RunConfig, out: Path) -> list[Path]:
    """Attribute the cytokines of a file whose cells have labels, without holding its counts.

    The cells are taken as they are: quality control, doublets and cell types are the user's. The
    ambient RNA is that of the file where it has one (the cohort of a run), and is estimated
    otherwise, which takes two more passes.

    Parameters
    ----------
    config
        Settings; `columns: label` must name the populations.
    out
        Output folder.

    Returns
    -------
    The tables: producers, production, receivers, ledger, ledger_by_condition, decomposition and
    shifts, as a run writes them.

    Raises
    ------
    CrsError
        If the input cannot be used.
    """
    adata = open_labelled(config)
    logger.info("%d cells x %d genes stay on disk", *adata.shape)
    tables = attribution_tables(adata, config)
    paths = []
    for name, table in tables.items():
        paths.append(out / "tables" / f"{name}.tsv")
        write_table(table, paths[-1])
    return paths


def open_labelled(config: RunConfig) -> AnnData:
    """Open the file of a config, its counts left on disk, its labels as populations.

    Raises
    ------
    InputError
        If no column holds the labels, or the memory is too small.
    """
    if config.columns.label is None:
        msg = (
            "Attribution alone needs the cell types: name their column under `columns: label`, or "
            "let `crs-sc run` find them."
        )
        raise InputError(msg)
    files = input_files(config)
    adata = files.on_disk()
    refuse_unusable(adata, config)
    label = adata.obs[keys.LABEL]
    if label.isna().any():
        label = label.cat.add_categories([keys.UNKNOWN]).fillna(keys.UNKNOWN)
    adata.obs[keys.POPULATION] = label
    lineages = genesets.lineages()
    of_label = [lineages.get(name, name) for name in label.cat.categories]
    adata.obs[keys.LINEAGE] = pd.Categorical(
        pd.Series(of_label, dtype="str").to_numpy()[label.cat.codes]
    )
    n_units = len(design_samples(adata, config))
    size = CohortSize(
        n_cells=adata.n_obs,
        n_genes=adata.n_vars,
        n_values=files.n_values,
        largest_sample=1.0,
        n_groups=n_units * len(label.cat.categories),
    )
    attribution_chunk(size, limit=memory_of(config.memory_limit))
    return adata


def attribution_tables(adata: AnnData, config: RunConfig) -> dict[str, pd.DataFrame]:
    """Compute the tables in one pass over the counts, or three where ambient RNA is not known.

    Parameters
    ----------
    adata
        From `open_labelled`.
    config
        Settings.
    """
    organism = analysed_organism(config)
    counts = absolute_counts(config, samples=adata.obs[keys.SAMPLE].unique())
    if counts is not None:
        sources.weigh_cells(adata, absolute_counts=counts)
    if not has_ambient(adata):
        logger.info("the file has no ambient RNA: it is estimated first")
        preprocessing.estimate_ambient(adata, organism=organism, **config.estimate_ambient)
    min_cells = config.shifts.min_cells
    few = sources.FewGenes(adata, genes_of_sources(config))
    bulk = comparison.PseudobulkPass(adata, covariates=covariate_names(config), min_cells=min_cells)
    pass_over(adata, few, bulk)
    logger.info("went over the counts")
    # One after the other, each released before the next: memory is the larger, not the sum.
    cells = few.cohort()
    del few
    tables = attribute_sources(cells, config)
    del cells
    return tables | _compared(bulk.result(), tables, adata, config)


def _compared(
    bulk: AnnData, tables: dict[str, pd.DataFrame], adata: AnnData, config: RunConfig
) -> dict[str, pd.DataFrame]:
    """Shifts and their decomposition."""
    contrasts = list(config.contrasts)
    if not contrasts:
        return {name: empty_table(name) for name in ("decomposition", "shifts")}
    return {
        "decomposition": comparison.decompose(
            tables["ledger"],
            tables["producers"],
            contrasts=contrasts,
            samples=design_samples(adata, config),
            random_state=config.seed,
            **config.decompose,
        ),
        "shifts": comparison.shifts(
            bulk,
            contrasts=contrasts,
            genes=list(dict.fromkeys(tables["ledger"]["gene"])),
            signatures=chosen_signatures(config),
            random_state=config.seed,
            **config.shifts,
        ),
    }
