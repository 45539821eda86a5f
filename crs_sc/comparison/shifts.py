"""Shifts: does the treatment change a signature or a gene in a population, and how sure is it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.comparison._equivalence import add_equivalence
from crs_sc.comparison._fit import TESTED, finish, test_arm, withhold
from crs_sc.comparison._scores import expressed_scores, has_too_few_genes
from crs_sc.comparison._stress import FITTED, add_adjusted, fit_adjusted
from crs_sc.comparison._units import (
    check_bulk,
    check_min_cells,
    find_features,
    gather,
    population_names,
    score,
    select_units,
)
from crs_sc.comparison.design import BASELINE, expand_contrasts
from crs_sc.comparison.power import add_detectable
from crs_sc.core.arrays import as_csr
from crs_sc.core.checks import check_fraction
from crs_sc.core.stats import above_ambient
from crs_sc.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

    from crs_sc.comparison._units import Features
    from crs_sc.comparison.design import Comparison, Contrast

__all__ = ["shifts", "signature_scores", "subject_scores"]


def signature_scores(
    bulk: AnnData, *, signatures: Mapping[str, Sequence[str]], genes: Sequence[str] = ()
) -> pd.DataFrame:
    """Score signatures and genes in each row of a pseudobulk.

    The mean over the genes that are in the data of log2(CPM + 1), CPM over the ambient-corrected
    UMI of the row. No other row has a say in it, so scores do not move when samples join.

    Parameters
    ----------
    bulk
        From `pseudobulk`.
    signatures
        Name and genes of each signature.
    genes
        Single genes.

    Returns
    -------
    DataFrame indexed as `bulk.obs`, one column a signature, then one a gene; missing where none
    of the genes is in the data or the row has no UMI.
    """
    check_bulk(bulk)
    features = find_features(bulk, signatures=signatures, genes=genes)
    X = as_csr(bulk.X)
    umi = np.asarray(X.sum(axis=1), dtype=np.float64).ravel()
    scores = score(X[:, features.columns].toarray(), umi, features)
    return pd.DataFrame(scores, index=bulk.obs_names, columns=features.names)


def subject_scores(
    bulk: AnnData,
    *,
    signatures: Mapping[str, Sequence[str]],
    min_cells: int = 10,
    min_count: int = 10,
    min_genes: int = 3,
) -> pd.DataFrame:
    """Score each signature by population, subject and arm, as the tests of shifts see them.

    Parameters
    ----------
    bulk
        From `pseudobulk`.
    signatures
        Name and genes of each.
    min_cells
        A row of the pseudobulk with fewer cells is left out.
    min_count
        A gene counts in a population that has this many UMI of it beyond ambient RNA in as many
        rows as the smallest arm has, and more than ambient RNA explains. `shifts` asks that of the
        two arms of a contrast, here it is asked of all arms together.
    min_genes
        A signature is scored where so many of its genes count, or all that it has in the data.

    Returns
    -------
    DataFrame with columns feature, population, subject, condition, timepoint (where the
    pseudobulk has it) and score (log2 units), sorted by signature, in the order given.

    Raises
    ------
    MissingKeyError
        If this is no pseudobulk.
    """
    check_bulk(bulk)
    kept = bulk[(bulk.obs[keys.N_CELLS] >= min_cells).to_numpy()]
    known = set(bulk.var_names)
    measured = {name: [g for g in s if g in known] for name, s in signatures.items()}
    index = [keys.POPULATION, keys.SUBJECT, keys.CONDITION]
    index += [keys.TIMEPOINT] if keys.TIMEPOINT in bulk.obs.columns else []
    parts = [pd.DataFrame(columns=["feature", *index, "score"])]
    for population in dict.fromkeys(kept.obs[keys.POPULATION]):
        rows = kept[(kept.obs[keys.POPULATION] == population).to_numpy()]
        smallest = int(rows.obs[keys.CONDITION].astype(str).value_counts().min())
        raw, ambient = (
            np.asarray(rows.layers[name].sum(axis=0), dtype=np.float64).ravel()
            for name in (keys.COUNTS, keys.AMBIENT)
        )
        # As in `UnitData.expressed`: half a UMI less is that many when rounded.
        enough = np.asarray((as_csr(rows.X) >= min_count - 0.5).sum(axis=0)).ravel() >= smallest
        genes = set(rows.var_names[enough & above_ambient(raw, ambient)])
        counted = {name: [g for g in s if g in genes] for name, s in measured.items()}
        shown = {s: g for s, g in counted.items() if len(g) >= min(min_genes, len(measured[s])) > 0}
        frame = rows.obs[index].astype(str).join(signature_scores(rows, signatures=shown))
        long = frame.melt(id_vars=index, var_name="feature", value_name="score").dropna()
        parts.append(long[["feature", *index, "score"]])
    rank = {name: i for i, name in enumerate(signatures)}
    return pd.concat(parts[1:] or parts, ignore_index=True).sort_values(
        "feature", key=lambda names: names.map(rank), kind="stable", ignore_index=True
    )


def shifts(
    bulk: AnnData,
    *,
    contrasts: Sequence[Contrast],
    signatures: Mapping[str, Sequence[str]],
    genes: Sequence[str] = (),
    min_cells: int = 10,
    min_count: int = 10,
    min_genes: int = 3,
    margin: float = 0.5,
    min_coverage: float = 0.5,
    stress: str = "dissociation_stress",
    random_state: int = 0,
) -> pd.DataFrame:
    """Test each signature and gene in each population; subjects are the replicates.

    Least squares on scores as those of `signature_scores`, with batch (where it differs), subject
    (where paired) and the contrast's covariates. Of a signature those genes count that the
    population makes itself, in numbers that can be compared: `n_genes` says how many. The model p
    is moderated over the tests of signatures, and over those of genes (Smyth 2004; the prior grows
    with what the counting of few UMI adds, and its weight is taken at its lower bound). The
    permutation p exchanges the arms of subjects within batches, or within pairs; `padj` is
    Benjamini-Hochberg over the whole table.

    Parameters
    ----------
    bulk
        From `pseudobulk`.
    contrasts
        What to compare.
    signatures
        Name and genes of each signature.
    genes
        Single genes.
    min_cells
        A unit with fewer cells of a population is not a replicate for it.
    min_count
        A gene counts where it has this many UMI beyond ambient RNA in as many units as the smaller
        arm has, and more over all units than ambient RNA explains; arms are not told apart in that.
    min_genes
        A signature is tested if so many of its genes count, or all where it has fewer: one or two
        genes speak for themselves (`genes`) and not for a response.
    margin
        Largest shift that counts as no relevant change, in log2 units. Half a unit is a factor of
        1.4, half way to a doubling. To be chosen before looking.
    min_coverage
        Share of a signature's genes in the data that must count before it can be called
        equivalent; a few genes can show that it changed, but not that it did not.
    stress
        The one of `signatures` that measures the stress of handling. Without it nothing is
        adjusted.
    random_state
        Seed, used only where there are too many permutations to list.

    Returns
    -------
    DataFrame with the columns of `keys.SHIFTS_TABLE`: every contrast (and time point), signature
    and gene, and population has a row. The estimate is in log2 units; Hedges' g is over the
    residual sd of one unit (in a paired contrast that within subjects). Where there is no test
    the status says why:

    - `not_measured`: no gene of the feature is in the data;
    - `not_detected`: none of its genes reaches `min_count` in the units that were used;
    - `too_few_genes`: fewer than `min_genes` of them do: an estimate and no p;
    - `absent_in_reference`, `absent_in_treated`: no cell of the population in any unit of the arm;
    - `too_few_cells`: no cells at all, or fewer than two units of an arm with `min_cells` cells;
      with one unit (or pair) an estimate and no p;
    - `too_few_subjects`: the arm has one subject: an estimate and no p; or none;
    - `confounded`: batch, or a covariate, and condition cannot be told apart.

    The verdict holds each claim to a false discovery rate of 5 % over the table. `changed`: `padj`
    is at most 0.05. `equivalent`: `padj_equivalence` is, from two one-sided tests against the
    margin, which are made with `min_coverage` only. `changed_within_margin`: both are, a shift that
    is sure and too small to matter. `inconclusive`: neither; `detectable_effect` says what the
    subjects would have shown with 80 % power (at p 0.05 of the same moderated test, not adjusted).

    Raises
    ------
    DesignError
        If a contrast names a condition that is not there, or a subject is in both arms unpaired.
    InputError
        If `min_cells`, the margin or `min_coverage` is out of range.

    Notes
    -----
    Columns `*_stress_adjusted` come from the same model with one more covariate, the stress score
    of the same population and unit. They compare arms at equal stress: a shift that keeps its size
    is not the handling. One that vanishes may be the handling, or a treatment that raises stress
    genes itself; the data cannot tell these apart. Empty for the stress score itself, where it has
    no spread within the design, and where no degree of freedom is left.
    """
    check_bulk(bulk)
    check_min_cells(min_cells)
    check_fraction("min_coverage", min_coverage)
    if not margin > 0:
        msg = f"margin must be above 0 (log2 units), got {margin!r}."
        raise InputError(msg)
    features = find_features(bulk, signatures=signatures, genes=genes)
    blocks = [
        block
        for i, comparison in enumerate(expand_contrasts(contrasts, bulk.obs))
        for block in _comparison_rows(
            bulk,
            comparison,
            features,
            min_cells=min_cells,
            min_count=min_count,
            min_genes=min_genes,
            stress=stress,
            random_state=random_state,
            order=i,
        )
    ]
    if not blocks or not features.names:
        return pd.DataFrame(columns=keys.SHIFTS_TABLE.names)
    table = pd.concat(blocks, ignore_index=True)
    table = table.sort_values(["_order", "_feature", "population"], kind="stable")
    families = table["kind"].to_numpy(dtype=object)
    adjusted = table[_ADJUSTED].set_axis(FITTED, axis=1).assign(counting=table["counting"])
    table = finish(table.reset_index(drop=True), families)
    covered = (table["_coverage"] >= min_coverage).to_numpy()
    table = add_equivalence(table, families, margin=margin, covered=covered)
    table = add_detectable(table, families)
    return add_adjusted(table, adjusted, families)[keys.SHIFTS_TABLE.names]


# Fits with the stress score, until they are finished.
_ADJUSTED = [f"_{name}" for name in FITTED]


def _comparison_rows(
    bulk: AnnData,
    comparison: Comparison,
    features: Features,
    *,
    min_cells: int,
    min_count: int,
    min_genes: int,
    stress: str,
    random_state: int,
    order: int,
) -> list[pd.DataFrame]:
    """Rows of one comparison, a table for each population."""
    paired = comparison.contrast.paired
    data = gather(bulk, comparison, features.columns)
    tested = (data.units["arm"] != BASELINE).to_numpy()
    units = data.units[tested].reset_index(drop=True)
    tables = []
    for k, population in enumerate(population_names(bulk)):
        n_cells = data.n_cells[tested, k]
        used, status = select_units(units, n_cells, paired=paired, min_cells=min_cells)
        if comparison.status == keys.CONFOUNDED:
            used, status = np.zeros(len(units), dtype=bool), keys.CONFOUNDED
        rows = np.flatnonzero(tested)[used]
        scores = expressed_scores(data, rows, k, features, min_count=min_count)
        Y = scores.by_unit
        result = test_arm(
            Y,
            units[used].reset_index(drop=True),
            paired=paired,
            status=status,
            random_state=random_state,
        )
        table = result.columns
        table["status"], table["n_genes"] = result.status, scores.n_genes
        table["counting"] = scores.counting
        table["_coverage"] = scores.n_genes / np.maximum((features.weights > 0).sum(axis=0), 1)
        table[_ADJUSTED] = np.nan
        if result.status == keys.OK and (score_of := _stress_column(features, stress)) is not None:
            own = fit_adjusted(Y, units[used], Y[:, score_of], paired=paired)
            own.loc[score_of] = np.nan
            table[_ADJUSTED] = own.to_numpy()
        small = has_too_few_genes(scores, features, min_genes=min_genes)
        small &= (table["status"] == keys.OK).to_numpy()
        withhold(table, small, keys.TOO_FEW_GENES, columns=TESTED)
        if used.any():
            withhold(table, ~(Y > 0).any(axis=0), keys.NOT_DETECTED)
        withhold(table, ~features.measured, keys.NOT_MEASURED)
        table.insert(0, "contrast", comparison.name)
        table.insert(1, "kind", features.kinds)
        table.insert(2, "feature", features.names)
        table.insert(3, "population", population)
        table["_order"], table["_feature"] = order, np.arange(len(table))
        tables.append(table)
    return tables


def _stress_column(features: Features, stress: str) -> int | None:
    """Which feature is the stress signature; None where it is not among them."""
    found = [
        j
        for j, (kind, name) in enumerate(zip(features.kinds, features.names, strict=True))
        if (kind, name) == ("signature", stress)
    ]
    return found[0] if found else None
