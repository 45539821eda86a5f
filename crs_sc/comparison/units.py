"""One comparison in one population: who is compared, by which numbers, and what can be said.

Every test takes its units from `compare`; what a unit was left out for is in `exclusions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.comparison.design import (
    BASELINE,
    REFERENCE,
    TREATED,
    arm_names,
    expand_contrasts,
    unit_of,
)
from crs_sc.core.arrays import as_csr, group_sums
from crs_sc.core.checks import gene_positions
from crs_sc.core.stats import above_ambient
from crs_sc.errors import InputError, MissingKeyError, listing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from crs_sc.comparison.design import Comparison, Contrast
    from crs_sc.keys import TableSpec

    Floats = NDArray[np.float64]

__all__ = ["exclusions"]


def check_bulk(bulk: AnnData) -> None:
    """Raise unless the AnnData looks like one of `pseudobulk`."""
    needed = (keys.SUBJECT, keys.CONDITION, keys.POPULATION, *_SUMMED)
    for slot, names, present in (
        ("obs", needed, list(bulk.obs.columns)),
        ("layers", (keys.COUNTS, keys.AMBIENT), list(bulk.layers)),
    ):
        missing = [name for name in names if name not in present]
        if missing:
            msg = (
                f"This is not a pseudobulk: `{slot}` has no {listing(missing)}. "
                f"Found: {listing(present)}. Make one with crs_sc.tl.pseudobulk."
            )
            raise MissingKeyError(msg)


def check_positive(**numbers: int) -> None:
    """Raise unless every number is at least 1."""
    for name, value in numbers.items():
        if value < 1:
            msg = f"{name} must be at least 1, got {value!r}."
            raise InputError(msg)


def check_columns(name: str, table: pd.DataFrame, wanted: Sequence[str]) -> None:
    """Raise unless a table has the columns."""
    missing = [column for column in wanted if column not in table.columns]
    if missing:
        msg = (
            f"The table '{name}' has no column {listing(missing)}. "
            f"Columns: {listing(table.columns)}."
        )
        raise MissingKeyError(msg)


_DTYPES = {"str": "str", "int": "int64", "float": "float64", "bool": "bool"}


def as_table(parts: Sequence[dict[str, Any]], spec: TableSpec) -> pd.DataFrame:
    """Blocks of rows, a dict of columns each, as one DataFrame of a table of the contract."""
    frames = [pd.DataFrame(part, columns=spec.names) for part in parts]
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=spec.names)
    return table.astype({column.name: _DTYPES[column.dtype] for column in spec.columns})


def population_names(bulk: AnnData) -> list[str]:
    """Names of the populations of a pseudobulk, sorted."""
    return sorted(bulk.obs[keys.POPULATION].astype(str).unique())


@dataclass(frozen=True)
class Features:
    """Signatures and genes ("signature" or "gene" in `kinds`) to score.

    `columns` of the pseudobulk are what any needs, and `weights`, `(n_columns, n_features)`, are
    what each adds to a feature: 1 over the number of its genes in the data, all zero where there
    are none. A gene counts with `min_count` UMI, a signature is tested with `min_genes` genes.
    """

    kinds: list[str]
    names: list[str]
    columns: NDArray[np.int64]
    weights: Floats
    min_count: int
    min_genes: int

    @property
    def n_measured(self) -> NDArray[np.int64]:
        """Genes of each feature that are in the data."""
        return np.asarray((self.weights > 0).sum(axis=0))


def find_features(
    bulk: AnnData,
    *,
    signatures: Mapping[str, Sequence[str]],
    genes: Sequence[str],
    min_count: int = 10,
    min_genes: int = 3,
) -> Features:
    """Columns and averaging weights of signatures and genes, in this order."""
    named = [("signature", name, list(dict.fromkeys(s))) for name, s in signatures.items()]
    named += [("gene", gene, [gene]) for gene in dict.fromkeys(genes)]
    positions = gene_positions(bulk, list(dict.fromkeys(g for _, _, s in named for g in s)))
    row = {gene: i for i, gene in enumerate(positions)}
    weights = np.zeros((len(row), len(named)))
    for j, (_, _, members) in enumerate(named):
        measured = [row[gene] for gene in members if gene in row]
        if measured:
            weights[measured, j] = 1 / len(measured)
    return Features(
        kinds=[kind for kind, _, _ in named],
        names=[name for _, name, _ in named],
        columns=np.array(list(positions.values()), dtype=np.int64),
        weights=weights,
        min_count=min_count,
        min_genes=min_genes,
    )


def score(genes: Floats, umi: Floats, features: Features) -> Floats:
    """Mean over the genes of each feature of log2(CPM + 1), shape `(n, n_features)`.

    `genes` are corrected UMI of the features' genes, `(n, n_columns)`, `umi` those over all genes.
    Missing where no gene is in the data or there are no UMI.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        cpm = genes / umi[:, None] * 1e6
    scores = np.log2(cpm + 1) @ features.weights
    scores[:, features.n_measured == 0] = np.nan
    scores[~(umi > 0)] = np.nan
    return np.asarray(scores)


@dataclass(frozen=True)
class UnitSums:
    """Sums over the samples of each unit of `Comparison.units` (of several, the arm is ARM@TIME).

    All but `units` and the sorted `populations` are `(n_units, n_populations)`: cells of the
    population and of the unit, its (weighted) share, corrected UMI over all genes; and, with a
    third axis, corrected UMI, UMI and expected ambient UMI of the wanted genes.
    """

    units: pd.DataFrame
    populations: list[str]
    n_cells: NDArray[np.int64]
    n_cells_total: NDArray[np.int64]
    share: Floats
    umi: Floats
    genes: Floats
    raw: Floats
    ambient: Floats

    def expressed(
        self, units: NDArray[np.integer], population: int, *, min_count: int
    ) -> NDArray[np.bool_]:
        """Genes that a population makes itself and in numbers that can be compared, `(n_columns,)`.

        That is `min_count` corrected UMI in as many units as the smallest arm has, and more over
        all units than ambient RNA explains. Neither asks which arm, so that permuting stays exact.
        At a few UMI log2(CPM + 1) jumps by several units for one UMI more.
        """
        if not len(units):
            return np.zeros(self.genes.shape[2], dtype=bool)
        smallest = int(self.units["arm"].iloc[units].value_counts().min())
        enough = (np.rint(self.genes[units, population]) >= min_count).sum(axis=0) >= smallest
        raw, ambient = self.raw[units, population], self.ambient[units, population]
        return np.asarray(enough & above_ambient(raw.sum(axis=0), ambient.sum(axis=0)))


_SUMMED = (keys.N_CELLS, keys.N_CELLS_TOTAL, keys.WEIGHT, keys.WEIGHT_TOTAL)


def gather(bulk: AnnData, *comparisons: Comparison, columns: NDArray[np.integer]) -> UnitSums:
    """Sum the rows of a pseudobulk over the samples and time points of each unit."""
    populations = population_names(bulk)
    unit = np.full(bulk.n_obs, -1)
    tables: list[pd.DataFrame] = []
    for comparison in comparisons:
        at = unit_of(bulk.obs, comparison)
        unit[at >= 0] = at[at >= 0] + sum(len(table) for table in tables)
        time = f"@{comparison.timepoint}" if len(comparisons) > 1 else ""
        tables.append(comparison.units.assign(arm=comparison.units["arm"] + time))
    units = pd.concat(tables, ignore_index=True)
    population = pd.Index(populations).get_indexer(bulk.obs[keys.POPULATION].astype(str))
    codes = np.where(unit >= 0, unit * len(populations) + population, -1)
    shape = (len(units), len(populations))
    rows = codes >= 0

    def sums(values: Floats) -> Floats:
        total = np.bincount(codes[rows], weights=values[rows], minlength=shape[0] * shape[1])
        return total.reshape(shape)

    def gene_sums(matrix: Any) -> Floats:
        summed = group_sums(as_csr(matrix)[:, columns], codes, shape[0] * shape[1])
        return np.asarray(summed).reshape(*shape, len(columns))

    obs = {name: sums(bulk.obs[name].to_numpy(dtype=np.float64)) for name in _SUMMED}
    with np.errstate(invalid="ignore", divide="ignore"):
        share = obs[keys.WEIGHT] / obs[keys.WEIGHT_TOTAL]
    return UnitSums(
        units=units,
        populations=populations,
        n_cells=np.rint(obs[keys.N_CELLS]).astype(np.int64),
        n_cells_total=np.rint(obs[keys.N_CELLS_TOTAL]).astype(np.int64),
        share=share,
        umi=sums(np.asarray(as_csr(bulk.X).sum(axis=1), dtype=np.float64).ravel()),
        genes=gene_sums(bulk.X),
        raw=gene_sums(bulk.layers[keys.COUNTS]),
        ambient=gene_sums(bulk.layers[keys.AMBIENT]),
    )


_ABSENT = {
    REFERENCE: keys.ABSENT_IN_REFERENCE,
    TREATED: keys.ABSENT_IN_TREATED,
    BASELINE: keys.ABSENT_IN_BASELINE,
}


def select_units(
    units: pd.DataFrame, n_cells: NDArray[np.int64], *, paired: bool, min_cells: int
) -> tuple[NDArray[np.bool_], str]:
    """Units of one population with enough cells, and what is left to say with them.

    `units` has every arm that is needed, baseline included; of pairs a subject that loses one arm
    loses the other too. Returns the mask of the units that are used, and the status:

    - `too_few_subjects`: an arm has no subject at all (nothing can be said) or the design itself
      has only one in an arm (an estimate and no p);
    - `absent_in_reference`, `absent_in_treated`, `absent_in_baseline`: no cell in any unit of that
      arm, while there are some in another arm;
    - `too_few_cells`: no cell in any arm, or too few units with enough cells: none is left in an
      arm (nothing can be said), or one (an estimate and no p);
    - `ok`: two or more units in each arm.
    """
    n_units = units["arm"].value_counts()
    nothing = np.zeros(len(units), dtype=bool)
    if not {REFERENCE, TREATED} <= set(n_units.index):
        return nothing, keys.TOO_FEW_SUBJECTS
    absent = absent_arms(units, n_cells)
    if absent:
        return nothing, keys.TOO_FEW_CELLS if len(absent) == len(n_units) else absent[0]
    used = n_cells >= min_cells
    if paired:
        used &= _complete(units, used)
    left = units["arm"][used].value_counts().reindex(n_units.index, fill_value=0).min()
    if left == 0:
        return nothing, keys.TOO_FEW_CELLS
    if left == 1:
        return used, keys.TOO_FEW_SUBJECTS if n_units.min() == 1 else keys.TOO_FEW_CELLS
    return used, keys.OK


def absent_arms(units: pd.DataFrame, n_cells: NDArray[np.int64]) -> list[str]:
    """Statuses of the arms in which a population has no cell at all."""
    cells = pd.Series(n_cells, index=units.index).groupby(units["arm"]).sum()
    return [status for arm, status in _ABSENT.items() if cells.get(arm, 1) == 0]


def _complete(units: pd.DataFrame, used: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Units of subjects that are used in both arms, and in the baseline where it is of them.

    A baseline of other subjects than the pairs stands by itself.
    """
    subject = units[keys.SUBJECT]
    seen = {
        arm: set(subject[used & (units["arm"] == arm).to_numpy()])
        for arm in (REFERENCE, TREATED, BASELINE)
    }
    pairs = seen[REFERENCE] & seen[TREATED]
    if pairs & seen[BASELINE]:
        return subject.isin(pairs & seen[BASELINE]).to_numpy()
    return (subject.isin(pairs) | (units["arm"] == BASELINE)).to_numpy()


@dataclass(frozen=True, eq=False)
class PopulationUnits:
    """One comparison in one population.

    `order` is the place of the comparison among all, `k` that of the population in `sums`; `enough`
    are the units with enough cells and `used` those that a test can use (none where batch and
    condition cannot be told apart), as positions in `sums.units`; `status` says what can be said
    with them, as of `select_units`, or `confounded`.
    """

    comparison: Comparison
    order: int
    sums: UnitSums
    k: int
    enough: NDArray[np.intp]
    used: NDArray[np.intp]
    status: str

    @property
    def population(self) -> str:
        """Name of the population."""
        return self.sums.populations[self.k]

    @property
    def paired(self) -> bool:
        """Whether subjects are a factor."""
        return self.comparison.contrast.paired

    @property
    def units(self) -> pd.DataFrame:
        """Units that are used."""
        return self.sums.units.iloc[self.used].reset_index(drop=True)

    def scores(self, features: Features) -> Scores:
        """Scores of the units that are used."""
        return expressed_scores(self.sums, self.used, self.k, features)


def compare(
    bulk: AnnData,
    contrasts: Sequence[Contrast],
    *,
    columns: NDArray[np.integer],
    min_cells: int,
    baseline: bool = False,
    countable: bool = False,
) -> Iterator[PopulationUnits]:
    """Yield each contrast (and time point) in each population: the one head of all tests.

    `columns` are the genes that are wanted, and a unit with fewer than `min_cells` cells is not a
    replicate. With `baseline` units of that arm are wanted too, and nothing can be said without
    one. With `countable` cells without any UMI left above ambient RNA are as good as none.
    """
    for order, comparison in enumerate(expand_contrasts(contrasts, bulk.obs)):
        sums = gather(bulk, comparison, columns=columns)
        wanted = np.flatnonzero(baseline | (sums.units["arm"] != BASELINE).to_numpy())
        units = sums.units.iloc[wanted].reset_index(drop=True)
        for k in range(len(sums.populations)):
            n_cells = sums.n_cells[wanted, k]
            if countable:
                n_cells = np.where(sums.umi[wanted, k] > 0, n_cells, 0)
            mask, status = select_units(
                units, n_cells, paired=comparison.contrast.paired, min_cells=min_cells
            )
            enough = used = wanted[mask]
            if comparison.status == keys.CONFOUNDED:
                used, status = wanted[:0], keys.CONFOUNDED
            elif baseline and BASELINE not in set(units["arm"]):
                used, status = wanted[:0], keys.TOO_FEW_SUBJECTS
            yield PopulationUnits(comparison, order, sums, k, enough, used, status)


@dataclass(frozen=True)
class Scores:
    """Scores of some units of a population.

    `by_unit`, `(n_used, n_features)`, is the mean of log2(CPM + 1) over the `n_genes` genes that
    count, zero where there are none. `counting` is the variance of a unit's score that comes from
    the number of its UMI, the mean over the units; missing for single genes: `min_count` holds them
    within a narrow range, while signatures have three genes or thirty.
    """

    by_unit: Floats
    n_genes: NDArray[np.int64]
    counting: Floats


def expressed_scores(
    sums: UnitSums, units: NDArray[np.integer], population: int, features: Features
) -> Scores:
    """Score some units of a population by the genes that it expresses in countable numbers.

    Were the others counted as zero, a signature of which one gene in ten can be seen would shift
    by a tenth of what that gene does, and pass for unchanged.
    """
    expressed = sums.expressed(units, population, min_count=features.min_count)
    genes = sums.genes[units, population] * expressed
    # Missing are features that are not measured, and units all of whose UMI ambient RNA explains.
    with_zeros = np.nan_to_num(score(genes, sums.umi[units, population], features))
    share = features.weights.T @ expressed
    weights = np.divide(features.weights * expressed[:, None], share, where=share > 0,
                        out=np.zeros_like(features.weights))  # fmt: skip
    scores = np.divide(with_zeros, share, out=np.zeros_like(with_zeros), where=share > 0)
    counting = _counting_variance(sums, units, population) @ weights**2
    counting[np.array(features.kinds) == "gene"] = np.nan
    return Scores(scores, (weights > 0).sum(axis=0), counting)


def _counting_variance(sums: UnitSums, units: NDArray[np.integer], population: int) -> Floats:
    """Variance of log2(CPM + 1) of each gene by Poisson counting, `(n_columns,)`."""
    umi = sums.umi[units, population]
    counted = umi > 0
    if not counted.any():
        return np.zeros(sums.genes.shape[2])
    # Delta method at the mean of all units, arms not told apart: var(y) (d log2(CPM + 1) / dy)^2.
    umi, rows = umi[counted], units[counted]
    level = sums.genes[rows, population].sum(axis=0) / umi.sum()
    counts = level * umi[:, None] + sums.ambient[rows, population]
    slope = 1e6 / umi[:, None] / ((level * 1e6 + 1) * np.log(2))
    return np.asarray((counts * slope**2).mean(axis=0))


# What makes a row a test; the rest of its numbers is an estimate.
_TESTED = ("variance", "pvalue_permutation", "pvalue_floor")
_COMPUTED = ("estimate", *_TESTED, "loo_low", "loo_high")


def feature_rows(
    table: pd.DataFrame, features: Features, scores: Scores, *, population: str, order: int
) -> pd.DataFrame:
    """Rows of one population, one a feature: their names, and a status for what was not seen.

    `table` has the numbers and the status of the units, one row a feature; numbers that cannot be
    given are taken away.
    """
    table["n_genes"], table["counting"] = scores.n_genes, scores.counting
    small = scores.n_genes < np.minimum(features.min_genes, features.n_measured)
    small &= (table["status"] == keys.OK).to_numpy()
    silent = ~(scores.by_unit > 0).any(axis=0) & (len(scores.by_unit) > 0)
    for rows, status, columns in (
        (small, keys.TOO_FEW_GENES, _TESTED),
        (silent, keys.NOT_DETECTED, _COMPUTED),
        (features.n_measured == 0, keys.NOT_MEASURED, _COMPUTED),
    ):
        table.loc[rows, [c for c in columns if c in table]] = np.nan
        table.loc[rows, "status"] = status
    table["kind"], table["feature"], table["population"] = (
        features.kinds,
        features.names,
        population,
    )
    table["_order"], table["_feature"] = order, np.arange(len(table))
    return table


def sorted_rows(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables of `feature_rows` in the order of contrasts, features and populations."""
    table = pd.concat(tables, ignore_index=True)
    return table.sort_values(["_order", "_feature", "population"], kind="stable", ignore_index=True)


def exclusions(
    bulk: AnnData, *, contrasts: Sequence[Contrast], min_cells: int = 10
) -> pd.DataFrame:
    """List every subject that a test of a population does without.

    Parameters
    ----------
    bulk
        From `pseudobulk`.
    contrasts
        What is compared.
    min_cells
        A unit with fewer cells of a population is not a replicate for it; as in the tests.

    Returns
    -------
    DataFrame with the columns of `keys.EXCLUSIONS_TABLE`, one row for each subject and arm that
    is left out of a contrast (and time point) for a population. Reasons:

    - `no_cells`, `too_few_cells`: the subject has none, or fewer than `min_cells`;
    - `incomplete_pair`: it has enough, but not in both arms of a paired contrast;
    - `not_tested`: it has enough, but the population is not tested in this contrast at all; the
      status in the table of the test says why.

    Of the two arms that are compared; a baseline is none of them. Cells are those of the subject
    in the arm, over the time points that the contrast pools.

    Raises
    ------
    DesignError
        As `shifts`.

    Examples
    --------
    >>> import crs_sc as crs
    >>> bulk = crs.tl.pseudobulk(crs.datasets.toy_cohort())
    >>> cart = crs.Contrast(name="cart", treated="CART", reference="vehicle")
    >>> table = crs.tl.exclusions(bulk, contrasts=[cart], min_cells=20)
    """
    check_bulk(bulk)
    check_positive(min_cells=min_cells)
    tables = [
        _excluded(_cells(bulk, comparison), comparison, min_cells)
        for comparison in expand_contrasts(contrasts, bulk.obs)
    ]
    if not tables:
        return pd.DataFrame(columns=keys.EXCLUSIONS_TABLE.names)
    return pd.concat(tables, ignore_index=True)


def _cells(bulk: AnnData, comparison: Comparison) -> pd.DataFrame:
    """Cells by arm and subject (sorted rows, broken pairs too) and population (columns)."""
    arm = bulk.obs[keys.CONDITION].astype(str).map(arm_names(comparison.contrast))
    rows = arm.isin([REFERENCE, TREATED])
    if comparison.timepoint is not None:
        rows &= bulk.obs[keys.TIMEPOINT].astype(str) == comparison.timepoint
    by = [arm.rename("arm"), *(bulk.obs[c].astype(str) for c in (keys.SUBJECT, keys.POPULATION))]
    cells = bulk.obs[keys.N_CELLS][rows].groupby([values[rows] for values in by]).sum()
    table: pd.DataFrame = cells.unstack(keys.POPULATION)
    return table[population_names(bulk)]


def _excluded(cells: pd.DataFrame, comparison: Comparison, min_cells: int) -> pd.DataFrame:
    """Rows of one comparison, by population, reference before treated, and subject."""
    contrast, units = comparison.contrast, comparison.tested
    tested = pd.MultiIndex.from_frame(units[["arm", keys.SUBJECT]])
    tables = []
    for population, n_cells in cells.items():
        counts = n_cells.loc[tested].to_numpy()
        used, _ = select_units(units, counts, paired=contrast.paired, min_cells=min_cells)
        if comparison.status == keys.CONFOUNDED:
            used[:] = False
        enough = n_cells >= min_cells
        both = enough.groupby(level=keys.SUBJECT).transform("sum") == 2
        reason = np.select(
            [n_cells == 0, ~enough, ~both & contrast.paired],
            [keys.NO_CELLS, keys.TOO_FEW_CELLS, keys.INCOMPLETE_PAIR],
            default=keys.NOT_TESTED,
        )
        left_out = ~n_cells.index.isin(tested[used])
        arm, subject = (n_cells.index[left_out].get_level_values(i) for i in (0, 1))
        tables.append(
            pd.DataFrame(
                {
                    "contrast": comparison.name,
                    "population": population,
                    "subject": subject,
                    "condition": np.where(arm == REFERENCE, contrast.reference, contrast.treated),
                    "n_cells": n_cells[left_out].to_numpy(),
                    "reason": reason[left_out],
                }
            )
        )
    return pd.concat(tables, ignore_index=True)
