"""Other opinions about the cell types, as the config asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crs_sc import annotation, genesets, keys
from crs_sc.io import CohortFiles, read

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData

    from crs_sc.run.config import RunConfig

__all__ = ["gather_opinions", "refuse_unusable_opinions"]


def gather_opinions(adata: AnnData, config: RunConfig, *, genes: list[str]) -> pd.DataFrame:
    """Ask everyone whom the config names, and compare their opinions with the populations.

    Parameters
    ----------
    adata
        The annotated cohort; `obsm["opinions"]` is added to it if there are opinions.
    config
        Settings.
    genes
        Cytokines of the ledger, which must not decide what a cell is.

    Returns
    -------
    The table `opinions`, without rows if nobody was asked.
    """
    organism: Any = config.organism.partition("+")[0]
    if config.columns.label:
        annotation.add_marker_opinion(
            adata,
            organism=organism,
            settings=dict(config.annotate),
            random_state=config.seed,
        )
    if config.label_reference is not None:
        annotation.transfer_labels(
            adata,
            reference=read(config.label_reference, **_reading(config)),
            organism=organism,
            exclude=[*genes, *config.transgene],
            random_state=config.seed,
            **_without_key(config),
        )
    if config.celltypist_model is not None:
        annotation.celltypist_labels(
            adata,
            model=config.celltypist_model,
            **config.celltypist_labels,
        )
    return annotation.compare_opinions(adata, label_names=config.label_names)


def refuse_unusable_opinions(config: RunConfig, names: Sequence[str]) -> list[str]:
    """Raise before any work is done for an opinion that could not be had later.

    Parameters
    ----------
    config
        Settings.
    names
        Gene symbols of the cohort.

    Returns
    -------
    What will be asked, a line each.

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
        files = CohortFiles(config.label_reference, **_reading(config))
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


def _without_key(config: RunConfig) -> dict[str, Any]:
    """Leave the column out of the settings of the transfer: reading has renamed it."""
    return config.transfer_labels.model_dump(exclude={"reference_key"})


def _reading(config: RunConfig) -> dict[str, Any]:
    """How the reference is read: symbols as the cohort has them, labels in `obs["label"]`."""
    column = config.transfer_labels.reference_key
    return {"columns": {keys.LABEL: column}, "organism": config.organism.partition("+")[0]}
