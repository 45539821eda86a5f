"""`crs-sc check`: say whether the input and the design are sound, and change nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from crs_sc import genesets, keys
from crs_sc.comparison import (
    PseudobulkPass,
    check_design,
    detectable_effect,
    shifts,
    subjects_per_arm,
)
from crs_sc.core.blocks import counts_matrix
from crs_sc.core.memory import memory_lines, memory_of, size_of, stage_memory
from crs_sc.errors import InputError, listing
from crs_sc.io import empty_droplet_profile
from crs_sc.run.inputs import (
    absolute_counts,
    analysed_names,
    analysed_organism,
    chosen_genes,
    chosen_signatures,
    covariate_names,
    design_samples,
    input_files,
    raw_matrices,
    unanswerable,
    usable_labels,
)

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from crs_sc.io import CohortFiles
    from crs_sc.run.config import RunConfig

__all__ = ["check_report"]

_REFUSED = "Mend the design before a run."
# A signature of which less is in the data says little.
_LOW_COVERAGE = 0.5


def check_report(config: RunConfig) -> tuple[str, bool]:
    """Read the input and describe it.

    Parameters
    ----------
    config
        Settings.

    Returns
    -------
    text
        For the user.
    is_sound
        False if a run would end in an error, or a contrast cannot be answered at all.

    Raises
    ------
    CrsError
        If the input cannot be used.
    """
    files = input_files(config)
    adata = files.header()
    samples = design_samples(adata, config)
    depth, bulk = _go_over_counts(files, config)
    gene_lines, has_genes = _gene_lines(adata, config)
    design_lines, verdict = _design_lines(samples, bulk, config)
    lines = [
        (
            f"Input: {adata.n_obs} cells x {adata.n_vars} genes, {depth:.0f} UMI a cell (median), "
            f"counts from {adata.uns[keys.UNS][keys.MATRIX]}."
        ),
        *_ambient_lines(adata, config),
        *_memory_lines(files, config),
        "",
        *_sample_lines(adata, samples),
        *_count_lines(adata, samples, config),
        "",
        *gene_lines,
        *usable_labels(config, analysed_names(adata, config)),
        "",
        *design_lines,
    ]
    lines += [f"note: {note}" for note in adata.uns[keys.UNS].get(keys.NOTES, [])]
    if not has_genes:
        verdict = "Mend the genes before a run."
    return "\n".join([*lines, "", verdict]), has_genes and verdict != _REFUSED


def _go_over_counts(files: CohortFiles, config: RunConfig) -> tuple[float, AnnData | None]:
    """Read one sample after the other; the median depth, and the pseudobulk of labelled cells."""
    import anndata as ad

    obs = files.obs.iloc[np.argsort(files.obs[keys.SAMPLE].astype(str), kind="stable")]
    bulk, done = None, 0
    if config.contrasts and keys.LABEL in obs and obs[keys.LABEL].notna().any():
        labelled = obs[obs[keys.LABEL].notna()]
        bulk = PseudobulkPass(
            ad.AnnData(obs=labelled, var=files.var),
            population_key=keys.LABEL,
            covariates=covariate_names(config),
            min_cells=config.shifts.min_cells,
        )
    depth = []
    for sample in files.sample_sizes():
        cells = files.read([sample])
        counts = counts_matrix(cells)
        depth.append(np.asarray(counts.sum(axis=1)).ravel())
        if bulk is not None:
            counts = counts[cells.obs[keys.LABEL].notna().to_numpy()]
            bulk.add(slice(done, done + counts.shape[0]), counts)
            done += counts.shape[0]
    return float(np.median(np.concatenate(depth))), None if bulk is None else bulk.result()


def _memory_lines(files: CohortFiles, config: RunConfig) -> list[str]:
    """Say what memory a run will need by stage, and whether it may have it."""
    size = size_of(files.sample_sizes(), n_genes=len(files.var), n_values=files.n_values)
    needed = stage_memory(size)
    limit = memory_of(config.memory_limit)
    lines = memory_lines(needed, limit=limit)
    if max(needed.values()) > limit:
        lines.append("A run would stop for want of memory; `crs-sc attribute` needs far less.")
    return lines


def _ambient_lines(adata: AnnData, config: RunConfig) -> list[str]:
    """Look into the raw matrices that the sample sheet names; a run needs them late."""
    if keys.RAW_PATH not in adata.obs:
        return []
    raw = raw_matrices(adata, config)
    for sample, path in raw.items():
        profile = empty_droplet_profile(path, organism=config.organism)
        if not profile[profile.index.isin(adata.var_names)].sum() > 0:
            msg = (
                f"The empty droplets of '{path}' (sample '{sample}') hold no UMI of the genes of "
                "the data. Give the raw matrix of the same alignment."
            )
            raise InputError(msg)
    n_samples = adata.obs[keys.SAMPLE].nunique()
    return [f"Empty droplets: {len(raw)} of {n_samples} samples have a raw matrix."]


def _sample_lines(adata: AnnData, samples: pd.DataFrame) -> list[str]:
    table = samples.copy()
    table["cells"] = adata.obs[keys.SAMPLE].astype(str).value_counts().reindex(table.index)
    n_subjects = samples[keys.SUBJECT].nunique()
    lines = [
        f"Samples: {len(samples)} libraries of {n_subjects} subjects (the unit of replication).",
        table.to_string(),
    ]
    if keys.SAMPLING_WEIGHT in adata.obs:
        low, high = adata.obs[keys.SAMPLING_WEIGHT].agg(["min", "max"])
        lines.append(f"Cells are weighted by sampling_weight ({low:g} to {high:g}).")
    return lines


def _count_lines(adata: AnnData, samples: pd.DataFrame, config: RunConfig) -> list[str]:
    """Say what the absolute counts count; which populations there are, a run finds out later."""
    counts = absolute_counts(config, samples=samples.index)
    if counts is None:
        return []
    names = counts[keys.POPULATION].unique()
    known = {*genesets.lineages(), *genesets.lineages().values()}
    if keys.LABEL in adata.obs:
        known |= set(adata.obs[keys.LABEL].astype(str))
    lines = [f"Cells are weighted by absolute counts of {listing(names, most=30)}."]
    if unknown := [name for name in names if name not in known]:
        lines.append(
            f"Absolute counts of no population, lineage or label: {listing(unknown)}. Names that "
            f"a run gives: {listing(sorted(known), most=60)}."
        )
    return lines


def _gene_lines(adata: AnnData, config: RunConfig) -> tuple[list[str], bool]:
    """Say what of the genes is in the data, and whether that is enough for a run."""
    organism = analysed_organism(config)
    names = analysed_names(adata, config)
    genes = chosen_genes(config)
    absent = [gene for gene in genes if gene not in set(names)]
    lines = [f"Cytokines: {listing(gene for gene in genes if gene not in absent)} in the data."]
    if absent:
        lines.append(f"Cytokines that are not in the data: {listing(absent)}.")
    coverage = genesets.coverage(chosen_signatures(config), names, organism=organism)
    poor = coverage[coverage["n_found"] < _LOW_COVERAGE * coverage["n_genes"]]
    lines.append(
        f"Signatures: {len(coverage)}, of which {len(poor)} have less than half of their genes in "
        "the data" + (f": {listing(poor['gene_set'])}." if len(poor) else ".")
    )
    if not genesets.mitochondrial_genes(names).any():
        lines.append("No mitochondrial gene: that filter will be off.")
    missing = [gene for gene in config.transgene if gene not in set(names)]
    if missing:
        lines.append(f"Transgene features that are not in the data: {listing(missing)}.")
    lacking = [
        what
        for what, is_lacking in (
            ("cytokine", len(absent) == len(genes)),
            ("signature gene", not coverage["n_found"].any()),
            ("transgene feature", bool(missing) and len(missing) == len(config.transgene)),
        )
        if is_lacking
    ]
    lines += [f"No {what} is in the data: a run would stop." for what in lacking]
    return lines, not lacking


def _design_lines(
    samples: pd.DataFrame, bulk: AnnData | None, config: RunConfig
) -> tuple[list[str], str]:
    """Say what each contrast can answer, and in one sentence whether a run can."""
    arms = subjects_per_arm(samples)
    heading = "Subjects by arm" + (" and time point" if len(arms.columns) > 1 else "")
    lines = [f"{heading}:", arms.rename_axis(None).to_string(), ""]
    if not config.contrasts:
        lines.append("Design: no contrast, so nothing is compared (everything else works).")
        return lines, "Who makes it can be answered."
    design = check_design(samples, contrasts=list(config.contrasts))
    refused = unanswerable(design, config)
    lines.append("Design:")
    for row in design.to_dict("records"):
        lines += _contrast_lines(row, config)
    lines += [f"Refused: {name} cannot be answered: {why}." for name, why in refused.items()]
    if refused:
        return lines, _REFUSED
    lines += _power_lines(bulk, config)
    if (design["status"] == keys.OK).all():
        return lines, "The design can be answered."
    return lines, "A run can be made, but some contrasts give estimates at most and no p."


def _contrast_lines(row: dict[Any, Any], config: RunConfig) -> list[str]:
    """One comparison: who stands against whom, the smallest p and the smallest effect in reach."""
    name = str(row["contrast"])
    asked = next(c for c in config.contrasts if name == c.name or name.startswith(f"{c.name}@"))
    sizes = (
        f"{row['n_pairs']} pairs"
        if row["test"] == "paired"
        else f"{row['n_treated']} against {row['n_reference']} subjects, unpaired"
    )
    within = f", exchanged within {row['blocks']}" if row["blocks"] not in ("", "subject") else ""
    model = f", covariates {row['covariates']}" if row["covariates"] else ""
    lines = [f"  {name} ({asked.treated} against {asked.reference}): {sizes}{within}{model}."]
    if row["status"] != keys.OK:
        lines.append(f"    No p can be given ({row['status'].replace('_', ' ')}).")
    else:
        floor = (
            "No permutation p"
            if np.isnan(row["pvalue_floor"])
            else f"Smallest permutation p {row['pvalue_floor']:.3g}"
        )
        where = "within" if row["test"] == "paired" else "between"
        lines.append(
            f"    {floor}; 80 % power from a shift of {row['detectable_sd']:.1f} sd {where} "
            "subjects (p 0.05)."
        )
    return [*lines, f"    Note: {row['note']}."] if row["note"] else lines


def _power_lines(bulk: AnnData | None, config: RunConfig) -> list[str]:
    """Say what would be seen in log2 units, where the input names the populations."""
    if bulk is None:
        return [
            "  What that is in log2 units depends on how subjects differ in each population. Map",
            "  your cell types under `columns: label` to see it; after a run shifts.tsv has it.",
        ]
    if keys.GENOME in bulk.var:
        bulk = bulk[:, bulk.var[keys.GENOME].astype(str) == analysed_organism(config)].copy()
        bulk.var_names = bulk.var[keys.SYMBOL].astype(str)
    seen = detectable_effect(
        shifts(
            bulk,
            contrasts=list(config.contrasts),
            signatures=chosen_signatures(config),
            random_state=config.seed,
            **config.shifts,
        )
    )
    if seen.empty:
        return ["In no population is there enough for a test (fewer than two subjects an arm)."]
    table = seen.pivot(index="population", columns="contrast", values="detectable")
    table = table[list(dict.fromkeys(seen["contrast"]))]
    return [
        "",
        "Smallest shift of a signature seen with 80 % power, from how subjects differ in",
        "these cells before QC (log2 units, median over the signatures; 1 is a doubling):",
        table.rename_axis(index=None, columns=None).to_string(
            float_format=lambda value: f"{value:.2f}", na_rep="no test"
        ),
    ]
