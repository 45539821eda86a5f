"""Shifts: does the treatment change a signature or a gene in a population, and with time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype
from scipy import stats

from crs_sc import keys
from crs_sc.comparison.design import (
    COVARIATE,
    REFERENCE,
    TREATED,
    expand_contrasts,
    is_estimable,
    model_matrix,
)
from crs_sc.comparison.linear_model import (
    fill_in,
    finish,
    fit_arm,
    fit_unless_aliased,
    leave_one_out,
    no_test,
    test_arm,
)
from crs_sc.comparison.power import needed_effect
from crs_sc.comparison.units import (
    check_bulk,
    check_positive,
    compare,
    expressed_scores,
    feature_rows,
    find_features,
    gather,
    score,
    select_units,
    sorted_rows,
)
from crs_sc.core.arrays import as_csr
from crs_sc.core.checks import check_fraction
from crs_sc.core.stats import above_ambient, benjamini_hochberg
from crs_sc.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import ArrayLike, NDArray

    from crs_sc.comparison.design import Comparison, Contrast
    from crs_sc.comparison.linear_model import LinearFit
    from crs_sc.comparison.units import Features, PopulationUnits, UnitSums

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]

__all__ = ["arm_by_time", "shifts", "signature_scores", "subject_scores"]


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
    signatures, genes
        Name and genes of each signature, and single genes.

    Returns
    -------
    DataFrame indexed as `bulk.obs`, one column a signature, then one a gene; missing where none
    of the genes is in the data or the row has no UMI.

    Examples
    --------
    >>> import crs_sc as crs
    >>> bulk = crs.tl.pseudobulk(crs.datasets.toy_cohort())
    >>> scores = crs.tl.signature_scores(bulk, signatures={"il6": ["SOCS3", "PIM1"]})
    >>> list(scores.columns)
    ['il6']
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

    Examples
    --------
    >>> import crs_sc as crs
    >>> bulk = crs.tl.pseudobulk(crs.datasets.toy_cohort())
    >>> scores = crs.tl.subject_scores(bulk, signatures={"il6": ["SOCS3", "PIM1"]}, min_genes=1)
    >>> list(scores.columns)
    ['feature', 'population', 'subject', 'condition', 'score']
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
        # As in `UnitSums.expressed`: half a UMI less is that many when rounded.
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
    signatures, genes
        Name and genes of each signature, and single genes.
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

    Examples
    --------
    >>> import crs_sc as crs
    >>> bulk = crs.tl.pseudobulk(crs.datasets.toy_cohort())
    >>> cart = crs.Contrast(name="cart", treated="CART", reference="vehicle")
    >>> table = crs.tl.shifts(bulk, contrasts=[cart], signatures={}, genes=["IL1B", "IL6"])
    >>> sorted(table["feature"].unique())
    ['IL1B', 'IL6']
    """
    check_bulk(bulk)
    check_positive(min_cells=min_cells)
    check_fraction("min_coverage", min_coverage)
    if not margin > 0:
        msg = f"margin must be above 0 (log2 units), got {margin!r}."
        raise InputError(msg)
    features = find_features(
        bulk, signatures=signatures, genes=genes, min_count=min_count, min_genes=min_genes
    )
    tables = [
        _population_rows(one, features, stress=stress, random_state=random_state)
        for one in compare(bulk, contrasts, columns=features.columns, min_cells=min_cells)
    ]
    if not tables or not features.names:
        return pd.DataFrame(columns=keys.SHIFTS_TABLE.names)
    table = sorted_rows(tables)
    families = table["kind"].to_numpy(dtype=object)
    adjusted = table[_ADJUSTED].set_axis(_FITTED, axis=1).assign(counting=table["counting"])
    table = finish(table, families)
    covered = table["n_genes"] / table["n_measured"].clip(lower=1) >= min_coverage
    table["pvalue_equivalence"] = equivalence_p(table, margin=margin).where(covered)
    table["padj_equivalence"] = benjamini_hochberg(table["pvalue_equivalence"])
    table["margin"] = np.where(table["pvalue_equivalence"].notna(), margin, np.nan)
    table["verdict"] = verdicts(table["padj"], table["padj_equivalence"])
    table["verdict"] = table["verdict"].astype("str")
    table["detectable_effect"] = needed_effect(
        table["posterior_sd"], table["unscaled"], table["total_df"]
    )
    # The fits with the stress score have a prior of their own.
    adjusted.loc[table["variance"].isna()] = np.nan
    tests = finish(adjusted, families)
    for name in ("estimate", "ci_low", "ci_high", "pvalue", "padj"):
        table[f"{name}_stress_adjusted"] = tests[name]
    return table[keys.SHIFTS_TABLE.names]


_FITTED = ["estimate", "variance", "unscaled", "df"]
# Fits with the stress score, until they are finished.
_ADJUSTED = [f"_{name}" for name in _FITTED]


def _population_rows(
    one: PopulationUnits, features: Features, *, stress: str, random_state: int
) -> pd.DataFrame:
    """Rows of one population in one comparison, one a feature."""
    scores, units = one.scores(features), one.units
    Y = scores.by_unit
    table = test_arm(Y, units, paired=one.paired, status=one.status, random_state=random_state)
    table["contrast"] = one.comparison.name
    table["n_measured"] = features.n_measured
    table[_ADJUSTED] = np.nan
    of_stress = [
        j
        for j, (kind, name) in enumerate(zip(features.kinds, features.names, strict=True))
        if (kind, name) == ("signature", stress)
    ]
    if (table["status"] == keys.OK).all() and of_stress:
        adjusted = fit_adjusted(Y, units, Y[:, of_stress[0]], paired=one.paired)
        adjusted.loc[of_stress] = np.nan
        table[_ADJUSTED] = adjusted.to_numpy()
    return feature_rows(table, features, scores, population=one.population, order=one.order)


def fit_adjusted(
    Y: Floats, units: pd.DataFrame, covariate: Floats, *, paired: bool
) -> pd.DataFrame:
    """Fit the arm at equal handling stress: one more covariate, which differs by population.

    Columns `_FITTED`, one row a response; all missing where the covariate is a combination of the
    rest of the design, or of the rest and the arm, and where no degree of freedom is left.
    """
    nuisance, arm = model_matrix(units, paired=paired)
    centred = (covariate - covariate.mean())[:, None]
    wider = np.hstack([nuisance, centred])
    full = np.column_stack([nuisance, arm])
    rank = np.linalg.matrix_rank
    adds = rank(np.hstack([full, centred])) > rank(full)
    if adds and is_estimable(arm, wider):
        fit = fit_arm(Y, arm, wider)
        if fit.df >= 1:
            return pd.DataFrame(fit._asdict(), dtype=np.float64)
    return pd.DataFrame(np.nan, index=range(Y.shape[1]), columns=_FITTED)


def equivalence_p(table: pd.DataFrame, *, margin: float) -> pd.Series:
    """Moderated p that each effect lies within -margin and +margin; `table` is of `finish`."""
    # Two one-sided tests (Schuirmann 1987): the larger p of the effect being above -margin and
    # below +margin. Moderation looks at the variances alone, so that shifting the estimate shifts
    # the hypothesis.
    b = table["estimate"].to_numpy(dtype=np.float64)
    se, df = table["unscaled"] * table["posterior_sd"], table["total_df"]
    above, below = (stats.t.sf(np.abs(b + end) / se, df) for end in (margin, -margin))
    above = np.where(b + margin > 0, above, 1 - above)
    below = np.where(b - margin < 0, below, 1 - below)
    return pd.Series(np.maximum(above, below), index=table.index)


def verdicts(
    padj: ArrayLike, padj_equivalence: ArrayLike, *, alpha: float = 0.05
) -> NDArray[np.object_]:
    """Put the tests of a difference and of equivalence into one of `keys.VERDICTS` (Lakens 2017).

    `alpha` is the false discovery rate of either claim; empty without a test of a difference.
    """
    difference, within = np.asarray(padj), np.asarray(padj_equivalence)
    changed, equivalent = difference <= alpha, within <= alpha
    cases = [~np.isfinite(difference), changed & equivalent, changed, equivalent]
    names = ["", keys.CHANGED_WITHIN_MARGIN, keys.CHANGED, keys.EQUIVALENT]
    return np.select(cases, names, default=keys.INCONCLUSIVE).astype(object)


FOLLOWED = "followed"
INDEPENDENT = "independent"


def arm_by_time(
    bulk: AnnData,
    *,
    contrasts: Sequence[Contrast],
    signatures: Mapping[str, Sequence[str]],
    genes: Sequence[str] = (),
    min_cells: int = 10,
    min_count: int = 10,
    min_genes: int = 3,
    random_state: int = 0,
) -> pd.DataFrame:
    """Test whether a shift differs between time points: a difference of differences.

    For each contrast within time points, each time point against the first at which both arms
    were sampled. Where subjects are followed, each gives one change over time, and the changes of
    the arms are compared as in `shifts`: what is constant in a subject, batch and covariates too,
    falls out. Of a cohort that is followed in part, those seen at both times are used. Where other
    subjects were taken at each time, least squares with arm, time and their product; there is no
    permutation p then, because arms can be exchanged only if they never differ.

    Parameters
    ----------
    bulk
        From `pseudobulk`, with time points.
    contrasts
        Those with `within: timepoint` are used.
    signatures, genes
        Name and genes of each signature, and single genes.
    min_cells
        A unit with fewer cells of a population at either time is not a replicate for it.
    min_count
        As in `shifts`, over the units of both times.
    min_genes
        As in `shifts`.
    random_state
        Seed, used only where there are too many permutations to list.

    Returns
    -------
    DataFrame with the columns of `keys.ARM_BY_TIME_TABLE`: every such contrast, later time point,
    signature and gene, and population has a row. Statuses are those of `shifts`; a population is
    absent in an arm that lacks it at either time.

    Raises
    ------
    DesignError
        As in `shifts`.

    Examples
    --------
    >>> import crs_sc as crs
    >>> cohort = crs.datasets.toy_cohort()
    >>> last = cohort.obs["subject"].astype(str).str[-1]
    >>> cohort.obs["timepoint"] = last.isin(["1", "2"]).map({True: "day 1", False: "day 3"})
    >>> cart = crs.Contrast(name="cart", treated="CART", reference="vehicle", within="timepoint")
    >>> bulk = crs.tl.pseudobulk(cohort)
    >>> table = crs.tl.arm_by_time(bulk, contrasts=[cart], signatures={}, genes=["IL6"])
    """
    check_bulk(bulk)
    check_positive(min_cells=min_cells)
    features = find_features(
        bulk, signatures=signatures, genes=genes, min_count=min_count, min_genes=min_genes
    )
    tables: list[pd.DataFrame] = []
    for contrast in contrasts:
        if contrast.within is None:
            continue
        seen = [
            comparison
            for comparison in expand_contrasts([contrast], bulk.obs)
            if {REFERENCE, TREATED} <= set(comparison.units["arm"])
        ]
        for late in seen[1:]:
            times = (seen[0], late)
            sums, order = gather(bulk, *times, columns=features.columns), len(tables)
            for k, population in enumerate(sums.populations):
                early, after, used, status, subjects = _units_at(
                    times, sums, k, min_cells=min_cells
                )
                scores = expressed_scores(sums, used, k, features)
                Y = scores.by_unit
                design: dict[str, Any] = {"paired": contrast.paired, "status": status}
                if subjects == FOLLOWED:
                    change = Y[len(early) :] - Y[: len(early)]
                    units = _changes(early, after)
                    table = test_arm(change, units, random_state=random_state, **design)
                else:
                    table = _product(Y, early, after, **design)
                table["contrast"] = contrast.name
                table["timepoint"], table["reference_timepoint"] = late.timepoint, seen[0].timepoint
                table["subjects"] = subjects
                tables.append(
                    feature_rows(table, features, scores, population=population, order=order)
                )
    if not tables or not features.names:
        return pd.DataFrame(columns=keys.ARM_BY_TIME_TABLE.names)
    table = sorted_rows(tables)
    # A change of a followed subject has another variance than one unit.
    families = (table["kind"] + "|" + table["subjects"]).to_numpy(dtype=object)
    return finish(table, families)[keys.ARM_BY_TIME_TABLE.names]


def _units_at(
    times: tuple[Comparison, Comparison], sums: UnitSums, k: int, *, min_cells: int
) -> tuple[pd.DataFrame, pd.DataFrame, NDArray[np.intp], str, str]:
    """Units of one population at both times, their rows in `sums`, and what can be said.

    The units have enough cells: of followed subjects, which stand in one order, at both times. Also
    says whether they are followed.
    """
    units = [comparison.tested for comparison in times]
    names = [pd.MultiIndex.from_frame(u[["arm", keys.SUBJECT]]) for u in units]
    both = names[0].intersection(names[1], sort=False)
    if len(both):
        units = [u.iloc[n.get_indexer(both)] for u, n in zip(units, names, strict=True)]
    rows = [units[0].index.to_numpy(), units[1].index.to_numpy() + len(times[0].units)]
    n_cells = [sums.n_cells[at, k] for at in rows]
    if len(both):
        n_cells = [np.minimum(*n_cells)] * 2
    picked = [
        select_units(u, n, paired=times[1].contrast.paired, min_cells=min_cells)
        for u, n in zip(units, n_cells, strict=True)
    ]
    status = next((s for _, s in picked if s != keys.OK), keys.OK)
    usable = all(used.any() for used, _ in picked)
    masks = [used & usable for used, _ in picked]
    early, late = (u[m].reset_index(drop=True) for u, m in zip(units, masks, strict=True))
    used = np.concatenate([at[m] for at, m in zip(rows, masks, strict=True)])
    return early, late, used, status, FOLLOWED if len(both) else INDEPENDENT


def _changes(early: pd.DataFrame, late: pd.DataFrame) -> pd.DataFrame:
    """Units of the changes of the same subjects and arms, in the same order, at both times.

    A batch or covariate that stays the same falls out of a change.
    """
    units = early.copy()
    for name in [keys.BATCH, *(c for c in early.columns if c.startswith(COVARIATE))]:
        if is_numeric_dtype(early[name]):
            units[name] = late[name] - early[name]
        else:
            moved = early[name].astype(str) + " to " + late[name].astype(str)
            units[name] = moved.where(early[name] != late[name], "")
    return units


def _product(
    Y: Floats, early: pd.DataFrame, late: pd.DataFrame, *, paired: bool, status: str
) -> pd.DataFrame:
    """Fit arm, time and their product on units of other subjects at each time, early ones first."""
    units = pd.concat([early, late], ignore_index=True)
    is_late = np.repeat([False, True], [len(early), len(late)])
    table = no_test(Y.shape[1], units, status)
    if not len(units):
        return table

    def fit_of(rows: Flags) -> LinearFit | None:
        nuisance, arm = model_matrix(units[rows], paired=paired)
        nuisance = np.column_stack([nuisance, arm, is_late[rows]])
        return fit_unless_aliased(Y[rows], arm & is_late[rows], nuisance)

    fit = fit_of(np.ones(len(units), dtype=bool))
    if fit is None:
        return table.assign(status=keys.CONFOUNDED)
    table["loo_low"], table["loo_high"] = leave_one_out(units, fit_of, Y.shape[1])
    fill_in(table, fit)
    return table
