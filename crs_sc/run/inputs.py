"""The input of a run: its files, what the config asks of them, and whether that can be answered."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal

from crs_sc import annotation, comparison, genesets, keys, sources
from crs_sc.core.checks import sample_table
from crs_sc.errors import CrsWarning, DesignError, InputError, listing
from crs_sc.io import CohortFiles, read_absolute_counts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData

    from crs_sc.run.config import RunConfig

__all__ = [
    "absolute_counts",
    "analysed_names",
    "analysed_organism",
    "chosen_genes",
    "chosen_signatures",
    "covariate_names",
    "design_samples",
    "input_files",
    "raw_matrices",
    "reference_settings",
    "refuse_unanswerable",
    "refuse_unusable",
    "unanswerable",
    "usable_labels",
]


def input_files(config: RunConfig) -> CohortFiles:
    """Cells and genes of the files of the config; the counts are read when they are asked for.

    Counts that are declared corrected may be fractional.
    """
    files = CohortFiles(
        list(config.input) if len(config.input) > 1 else config.input[0],
        columns=config.columns.mapping(),
        organism=config.organism,
        corrected=config.estimate_ambient.corrected,
    )
    for text in files.warned:
        warnings.warn(text, CrsWarning, stacklevel=2)
    return files


def refuse_unusable(adata: AnnData, config: RunConfig) -> None:
    """Raise before any work is done for what would stop it later.

    Raises
    ------
    CrsError
        For a design that cannot be answered, absolute counts or labels that cannot be used, or a
        cohort without any gene that is asked for.
    """
    samples = design_samples(adata, config)
    refuse_unanswerable(samples, config)
    absolute_counts(config, samples=samples.index)
    names = analysed_names(adata, config)
    signature_genes = [gene for genes in chosen_signatures(config).values() for gene in genes]
    for what, genes in (
        ("the genes of the signatures", signature_genes),
        ("the cytokines (genes)", chosen_genes(config)),
        ("the features of the transgene", list(config.transgene)),
    ):
        if genes and not set(names).intersection(genes):
            msg = (
                f"None of {what} {listing(genes)} is in the data ({len(names)} genes such as "
                f"{listing(sorted(names)[:3])}). Is the organism right, and are these symbols?"
            )
            raise InputError(msg)
    usable_labels(config, names)


# --- what the config asks -------------------------------------------------------------------------


def analysed_organism(config: RunConfig) -> Literal["human", "mouse"]:
    """Organism whose cells are analysed: the first of two."""
    return "mouse" if config.organism.startswith("mouse") else "human"


def analysed_names(adata: AnnData, config: RunConfig) -> list[str]:
    """Gene symbols of the genome that is analysed, before the species are split."""
    if keys.GENOME not in adata.var:
        return [str(name) for name in adata.var_names]
    is_analysed = adata.var[keys.GENOME].astype(str) == analysed_organism(config)
    return [str(symbol) for symbol in adata.var.loc[is_analysed, keys.SYMBOL]]


def chosen_genes(config: RunConfig) -> list[str]:
    """Cytokines of the ledger under their current symbols; those of the organism by default."""
    organism = analysed_organism(config)
    if "genes" not in config.model_fields_set:
        return genesets.target_cytokines(organism=organism)
    return list(dict.fromkeys(genesets.resolve_symbols(config.genes, organism=organism)))


def chosen_signatures(config: RunConfig) -> dict[str, list[str]]:
    """Signatures of the config: packaged ones, all or by name, and the user's own."""
    return genesets.signatures(
        organism=analysed_organism(config), names=config.signatures, user=config.gene_sets
    )


def raw_matrices(adata: AnnData, config: RunConfig) -> dict[str, Path]:
    """Raw matrix of each sample for which the sample sheet names one."""
    if keys.RAW_PATH not in adata.obs:
        return {}
    named = adata.obs.groupby(keys.SAMPLE, observed=True)[keys.RAW_PATH].first().astype(str)
    folder = config.input[0].parent
    return {str(s): folder / raw for s, raw in named.items() if raw not in ("", "nan")}


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


def reference_settings(config: RunConfig) -> dict[str, Any]:
    """How the labelled reference is read: symbols as in the cohort, labels in `obs["label"]`."""
    column = config.transfer_labels.reference_key
    return {"columns": {keys.LABEL: column}, "organism": analysed_organism(config)}


def usable_labels(config: RunConfig, names: Sequence[str]) -> list[str]:
    """Say which other labels the cell types will be checked against, a line each.

    Parameters
    ----------
    config
        Settings.
    names
        Gene symbols of the cohort.

    Raises
    ------
    CrsError
        If CellTypist is not installed, the reference cannot be read, has no such column or shares
        no genes, or the names of labels cannot be used.
    """
    lines = []
    if config.columns.label:
        lines.append(f"Your labels ({config.columns.label}) are held against the markers.")
    if config.label_reference is not None:
        # Its counts are left where they are until they are needed.
        files = CohortFiles(config.label_reference, **reference_settings(config))
        annotation.shared_genes(names, files.var.index)
        labels = files.obs[keys.LABEL].nunique()
        lines.append(
            f"Labels of a reference: {len(files.obs)} cells, {labels} labels, "
            f"from '{config.label_reference}'."
        )
    if config.celltypist_model is not None:
        annotation.require_celltypist()
        lines.append(f"CellTypist with the model '{config.celltypist_model}'.")
    if config.label_names is not None:
        genesets.load_label_names(user=config.label_names)
    return lines


# --- the design -----------------------------------------------------------------------------------


def covariate_names(config: RunConfig) -> list[str]:
    """Covariates of all contrasts, each once."""
    return list(dict.fromkeys(name for one in config.contrasts for name in one.covariates))


def design_samples(adata: AnnData, config: RunConfig) -> pd.DataFrame:
    """Table of the samples with the covariates of the contrasts."""
    return sample_table(adata, covariates=covariate_names(config))


def unanswerable(design: pd.DataFrame, config: RunConfig) -> dict[str, str]:
    """Say of each contrast that gives no number at all why it does not.

    Parameters
    ----------
    design
        From `check_design`.
    config
        Settings.

    Returns
    -------
    Reason by name: confounded, or an arm without a subject (at every time point).
    """
    reasons = {}
    for contrast in config.contrasts:
        names = design["contrast"]
        rows = design[(names == contrast.name) | names.str.startswith(f"{contrast.name}@")]
        bad = rows[rows["status"] == keys.CONFOUNDED]
        if bad.empty and (rows[["n_reference", "n_treated"]].min(axis=1) == 0).all():
            bad = rows
        if len(bad):
            reasons[str(bad["contrast"].iloc[0])] = str(bad["note"].iloc[0])
    return reasons


def refuse_unanswerable(samples: pd.DataFrame, config: RunConfig) -> None:
    """Raise if a contrast names what is not there, or cannot be answered at all.

    Raises
    ------
    DesignError
        Naming the contrast and how to mend it.
    """
    if not config.contrasts:
        return
    design = comparison.check_design(samples, contrasts=list(config.contrasts))
    for name, why in unanswerable(design, config).items():
        mend = "Leave out the contrast, or its `paired` or `covariates` if they are the reason."
        if "told apart" in why:
            mend = "Leave out `columns: batch`, if it is not a batch, a covariate, or the contrast."
        msg = f"Contrast '{name}' cannot be answered: {why}. {mend}"
        raise DesignError(msg)
