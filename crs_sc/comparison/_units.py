"""What the tests take out of a pseudobulk: units x populations, and the scores of features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from crs_sc import keys
from crs_sc.comparison.design import BASELINE, REFERENCE, TREATED, arms_of
from crs_sc.core.arrays import as_csr, group_sums
from crs_sc.core.checks import gene_positions
from crs_sc.core.stats import above_ambient
from crs_sc.errors import InputError, MissingKeyError, listing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from crs_sc.comparison.design import Comparison

__all__ = [
    "Features",
    "UnitData",
    "check_bulk",
    "check_min_cells",
    "find_features",
    "gather",
    "population_names",
    "score",
    "select_units",
]


@dataclass(frozen=True)
class Features:
    """Signatures and genes to score.

    Attributes
    ----------
    kinds, names
        "signature" or "gene", and the name, one entry a feature.
    columns
        Columns of the pseudobulk that any feature needs.
    weights
        What each column adds to each feature, shape `(n_columns, n_features)`: 1 over the number
        of its genes that are in the data. All zero where there are none.
    """

    kinds: list[str]
    names: list[str]
    columns: NDArray[np.int64]
    weights: NDArray[np.float64]

    @property
    def measured(self) -> NDArray[np.bool_]:
        """Whether any gene of the feature is in the data."""
        return np.asarray((self.weights > 0).any(axis=0))


@dataclass(frozen=True)
class UnitData:
    """Sums over the samples of each unit; the first axis runs along `units`.

    Attributes
    ----------
    units
        `Comparison.units`.
    populations
        Names, sorted.
    n_cells, n_cells_total, share
        Cells of the population and of the unit, and the (weighted) share, `(n_units, n_pop)`.
    umi
        Corrected UMI of the population over all genes, `(n_units, n_pop)`.
    genes, raw, ambient
        Corrected UMI, UMI and expected ambient UMI of the wanted genes, `(n_units, n_pop,
        n_columns)`.
    """

    units: pd.DataFrame
    populations: list[str]
    n_cells: NDArray[np.int64]
    n_cells_total: NDArray[np.int64]
    share: NDArray[np.float64]
    umi: NDArray[np.float64]
    genes: NDArray[np.float64]
    raw: NDArray[np.float64]
    ambient: NDArray[np.float64]

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


def check_bulk(bulk: AnnData) -> None:
    """Raise unless the AnnData looks like one of `pseudobulk`."""
    needed = (
        keys.SUBJECT,
        keys.CONDITION,
        keys.POPULATION,
        keys.N_CELLS,
        keys.N_CELLS_TOTAL,
        keys.WEIGHT,
        keys.WEIGHT_TOTAL,
    )
    for slot, names, found in (
        ("obs", needed, list(bulk.obs.columns)),
        ("layers", (keys.COUNTS, keys.AMBIENT), list(bulk.layers)),
    ):
        missing = [name for name in names if name not in found]
        if missing:
            msg = (
                f"This is not a pseudobulk: `{slot}` has no {listing(missing)}. "
                f"Found: {listing(found)}. Make one with crs_sc.tl.pseudobulk."
            )
            raise MissingKeyError(msg)


def check_min_cells(min_cells: int) -> None:
    """Raise unless at least one cell is asked for."""
    if min_cells < 1:
        msg = f"min_cells must be at least 1, got {min_cells!r}."
        raise InputError(msg)


def population_names(bulk: AnnData) -> list[str]:
    """Names of the populations of a pseudobulk, sorted."""
    return sorted(bulk.obs[keys.POPULATION].astype(str).unique())


def find_features(
    bulk: AnnData, *, signatures: Mapping[str, Sequence[str]], genes: Sequence[str]
) -> Features:
    """Columns and averaging weights of signatures and genes, in this order.

    Parameters
    ----------
    bulk
        Pseudobulk.
    signatures
        Name and genes.
    genes
        Single genes.
    """
    named = [("signature", name, list(dict.fromkeys(s))) for name, s in signatures.items()]
    named += [("gene", gene, [gene]) for gene in dict.fromkeys(genes)]
    positions = gene_positions(bulk, list(dict.fromkeys(g for _, _, s in named for g in s)))
    row = {gene: i for i, gene in enumerate(positions)}
    weights = np.zeros((len(row), len(named)))
    for j, (_, _, members) in enumerate(named):
        found = [row[gene] for gene in members if gene in row]
        if found:
            weights[found, j] = 1 / len(found)
    return Features(
        kinds=[kind for kind, _, _ in named],
        names=[name for _, name, _ in named],
        columns=np.array(list(positions.values()), dtype=np.int64),
        weights=weights,
    )


def score(
    genes: NDArray[np.float64], umi: NDArray[np.float64], features: Features
) -> NDArray[np.float64]:
    """Mean over the genes of each feature of log2(CPM + 1).

    Parameters
    ----------
    genes
        Corrected UMI of the features' genes, shape `(n, n_columns)`.
    umi
        Corrected UMI over all genes, shape `(n,)`.
    features
        What to score.

    Returns
    -------
    Shape `(n, n_features)`; missing where no gene is in the data or there are no UMI.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        cpm = genes / umi[:, None] * 1e6
    scores = np.log2(cpm + 1) @ features.weights
    scores[:, ~features.measured] = np.nan
    scores[~(umi > 0)] = np.nan
    return np.asarray(scores)


def gather(bulk: AnnData, comparison: Comparison, columns: NDArray[np.int64]) -> UnitData:
    """Sum the rows of a pseudobulk over the samples and time points of each unit.

    Parameters
    ----------
    bulk
        Pseudobulk.
    comparison
        Which units.
    columns
        Genes that are wanted.
    """
    units = comparison.units
    populations = population_names(bulk)
    arm = arms_of(bulk.obs, comparison)
    index = pd.MultiIndex.from_frame(units[["arm", keys.SUBJECT]].astype(str))
    wanted = pd.MultiIndex.from_arrays([arm.astype(str), bulk.obs[keys.SUBJECT].astype(str)])
    unit = index.get_indexer(wanted)
    population = pd.Index(populations).get_indexer(bulk.obs[keys.POPULATION].astype(str))
    codes = np.where(unit >= 0, unit * len(populations) + population, -1)
    shape = (len(units), len(populations))
    rows = codes >= 0

    def sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
        total = np.bincount(codes[rows], weights=values[rows], minlength=shape[0] * shape[1])
        return total.reshape(shape)

    def gene_sums(matrix: Any) -> NDArray[np.float64]:
        summed = group_sums(as_csr(matrix)[:, columns], codes, shape[0] * shape[1])
        return np.asarray(summed).reshape(*shape, len(columns))

    obs = {name: bulk.obs[name].to_numpy(dtype=np.float64) for name in _SUMMED}
    with np.errstate(invalid="ignore", divide="ignore"):
        share = sums(obs[keys.WEIGHT]) / sums(obs[keys.WEIGHT_TOTAL])
    return UnitData(
        units=units,
        populations=populations,
        n_cells=np.rint(sums(obs[keys.N_CELLS])).astype(np.int64),
        n_cells_total=np.rint(sums(obs[keys.N_CELLS_TOTAL])).astype(np.int64),
        share=share,
        umi=sums(np.asarray(as_csr(bulk.X).sum(axis=1), dtype=np.float64).ravel()),
        genes=gene_sums(bulk.X),
        raw=gene_sums(bulk.layers[keys.COUNTS]),
        ambient=gene_sums(bulk.layers[keys.AMBIENT]),
    )


_SUMMED = (keys.N_CELLS, keys.N_CELLS_TOTAL, keys.WEIGHT, keys.WEIGHT_TOTAL)

_ABSENT = {
    REFERENCE: keys.ABSENT_IN_REFERENCE,
    TREATED: keys.ABSENT_IN_TREATED,
    BASELINE: keys.ABSENT_IN_BASELINE,
}


def select_units(
    units: pd.DataFrame, n_cells: NDArray[np.int64], *, paired: bool, min_cells: int
) -> tuple[NDArray[np.bool_], str]:
    """Units of one population with enough cells, and what is left to say with them.

    Parameters
    ----------
    units
        Columns `subject` and `arm`; every arm that is needed, baseline included.
    n_cells
        Cells of the population in each unit.
    paired
        Whether subjects that lose one arm lose the other too.
    min_cells
        Fewer cells than this do not make a replicate.

    Returns
    -------
    Mask of the units that are used, and the status:

    - `too_few_subjects`: an arm has no subject at all (nothing can be said) or the design itself
      has only one in an arm (an estimate and no p);
    - `absent_in_reference`, `absent_in_treated`, `absent_in_baseline`: no cell in any unit of that
      arm, while there are some in another arm;
    - `too_few_cells`: no cell in any arm, or too few units with enough cells: none is left in an
      arm (nothing can be said), or one (an estimate and no p);
    - `ok`: two or more units in each arm.
    """
    arms = [arm for arm in (REFERENCE, TREATED, BASELINE) if arm in set(units["arm"])]
    member = {arm: (units["arm"] == arm).to_numpy() for arm in arms}
    nothing = np.zeros(len(units), dtype=bool)
    if not {REFERENCE, TREATED} <= set(arms):
        return nothing, keys.TOO_FEW_SUBJECTS
    absent = [arm for arm in arms if n_cells[member[arm]].sum() == 0]
    if absent:
        return nothing, keys.TOO_FEW_CELLS if len(absent) == len(arms) else _ABSENT[absent[0]]
    used = n_cells >= min_cells
    if paired:
        used &= _complete(units, used)
    left = [int((used & member[arm]).sum()) for arm in arms]
    if min(left) == 0:
        return nothing, keys.TOO_FEW_CELLS
    if min(left) == 1:
        single = min(int(member[arm].sum()) for arm in arms) == 1
        return used, keys.TOO_FEW_SUBJECTS if single else keys.TOO_FEW_CELLS
    return used, keys.OK


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
