"""More cells, more producers, or more per producer: the change of a cytokine's output, split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from crs_sc import keys
from crs_sc.comparison.design import REFERENCE, TREATED, expand_contrasts, unit_of
from crs_sc.comparison.units import as_table, check_columns, check_positive
from crs_sc.errors import InputError, listing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from crs_sc.comparison.design import Comparison, Contrast

    Floats = NDArray[np.float64]

__all__ = ["decompose"]


def decompose(
    ledger: pd.DataFrame,
    producers: pd.DataFrame,
    *,
    contrasts: Sequence[Contrast],
    samples: pd.DataFrame,
    n_bootstrap: int = 2000,
    random_state: int = 0,
) -> pd.DataFrame:
    """Split the change of each population's cytokine output into three parts that add up to it.

    The output of population k in a subject is `O = p f m`, in corrected UMI per sampled cell: its
    share of the cells, the share of producers among them, and the corrected UMI per producer.
    Samples of one subject in one arm are pooled. In a subject without a called producer O is 0:
    the UMI that are left there cannot be told from ambient RNA.

    Subjects weigh the same. The factors of an arm are `P = mean(p)`, `F = mean(p f) / P` and
    `M = mean(p f m) / mean(p f)`, whose product is the mean output exactly. The parts are the
    Shapley values of the three factors in `P1 F1 M1 - P0 F0 M0`, the average over the six orders
    in which they can change. A factor that an arm does not define takes the value of the other
    arm: a population that is absent from one arm is all composition.

    Parameters
    ----------
    ledger
        Table `ledger`: gene, population, sample, n_cells, corrected_umi and cell_share are used.
    producers
        Table `producers`: gene, population, sample and n_producers are used.
    contrasts
        What to compare; pairs are drawn together by the bootstrap.
    samples
        One row a sample, indexed by sample, with columns `subject`, `condition` and, where they
        exist, `timepoint` and `batch`.
    n_bootstrap
        Bootstrap samples of subjects for the 95 % percentile intervals, which are widened for
        the small number of subjects (Hesterberg 2015).
    random_state
        Seed.

    Returns
    -------
    DataFrame with the columns of table `decomposition`, one row for each contrast (in the order
    given), gene (in the order of the ledger) and population (sorted), and after them one for
    "All": each part summed over the populations, with an interval of its own. Status: `ok`;
    `absent_in_reference`, `absent_in_treated` (parts of producer share and intensity are 0,
    without intervals); `intensity_not_identified` (one arm has no producer: the intensity part is
    0, without an interval); `no_producers` (in neither arm: all parts 0, no intervals);
    `too_few_subjects` (fewer than two in an arm: no intervals; none in an arm: no parts);
    `confounded` (with batch: parts, no intervals).

    Raises
    ------
    MissingKeyError
        If a table has not the columns that are needed.
    InputError
        If a table has two rows for one gene, population and sample, a ledger row has no row in
        the producers, a sample of the ledger is not in `samples`, or a population is called "All".
    DesignError
        As `shifts`.

    Examples
    --------
    >>> import crs_sc as crs
    >>> cohort = crs.datasets.toy_cohort()
    >>> crs.tl.call_producers(cohort, genes=["IL6"])
    >>> samples = cohort.obs.groupby("sample", observed=True)[["subject", "condition"]].first()
    >>> cart = crs.Contrast(name="cart", treated="CART", reference="vehicle")
    >>> ledger, producers = crs.tl.ledger(cohort, genes=["IL6"]), crs.tl.producers(cohort)
    >>> table = crs.tl.decompose(ledger, producers, contrasts=[cart], samples=samples)
    """
    check_positive(n_bootstrap=n_bootstrap)
    cohort = _cohort(ledger, producers, samples)
    rng = np.random.default_rng(random_state)
    rows = [*cohort.populations, keys.ALL_POPULATIONS]
    parts: list[dict[str, Any]] = []
    for comparison in expand_contrasts(contrasts, samples):
        arms = _arms(cohort, comparison)
        resampling = _resampling(rng, arms, comparison, n_bootstrap)
        for g, gene in enumerate(cohort.genes):
            columns = _decompose_gene(arms, g, comparison.status, resampling)
            identity = {"contrast": comparison.name, "gene": gene, "population": rows}
            parts.append(identity | columns)
    return as_table(parts, keys.DECOMPOSITION_TABLE)


class _Cohort(NamedTuple):
    """Both tables as arrays of shape `(n_samples, n_genes, n_populations)`."""

    samples: pd.DataFrame
    genes: list[str]
    populations: list[str]
    cells: Floats
    producers: Floats
    umi: Floats
    cell_share: Floats


class _Arm(NamedTuple):
    """Cells, producers and UMI per sampled cell: `(n_subjects, n_genes, n_populations)`."""

    p: Floats
    q: Floats
    o: Floats


_INDEX = ["gene", "population", "sample"]


def _cohort(ledger: pd.DataFrame, producers: pd.DataFrame, samples: pd.DataFrame) -> _Cohort:
    """Check the tables against each other and lay them out as arrays."""
    wanted = {
        "ledger": (ledger, [*_INDEX, "n_cells", "corrected_umi", "cell_share"]),
        "producers": (producers, [*_INDEX, "n_producers"]),
    }
    for name, (table, columns) in wanted.items():
        check_columns(name, table, columns)
        repeated = table.duplicated(_INDEX)
        if repeated.any():
            row = ", ".join(table.loc[repeated, _INDEX].astype(str).iloc[0])
            msg = f"The table '{name}' has more than one row for {row}."
            raise InputError(msg)
    joined = ledger[wanted["ledger"][1]].merge(
        producers[wanted["producers"][1]], on=_INDEX, how="left"
    )
    alone = joined["n_producers"].isna() & (joined["n_cells"] > 0)
    if alone.any():
        row = ", ".join(joined.loc[alone, _INDEX].astype(str).iloc[0])
        msg = (
            f"The table 'producers' has no row for {row}, which is in the ledger. "
            "Make both from the same data and genes."
        )
        raise InputError(msg)
    order = samples.index.astype(str)
    unknown = sorted(set(joined["sample"].astype(str)) - set(order))
    if unknown:
        msg = f"Samples of the ledger are not in `samples`: {listing(unknown)}."
        raise InputError(msg)
    genes = [str(gene) for gene in joined["gene"].unique()]
    populations = sorted(joined["population"].astype(str).unique())
    if keys.ALL_POPULATIONS in populations:
        msg = f"A population is called '{keys.ALL_POPULATIONS}', the name of the sum over all."
        raise InputError(msg)
    position = (
        order.get_indexer(pd.Index(joined["sample"].astype(str))),
        pd.Index(genes).get_indexer(pd.Index(joined["gene"].astype(str))),
        pd.Index(populations).get_indexer(pd.Index(joined["population"].astype(str))),
    )

    def laid_out(column: str) -> Floats:
        values = np.zeros((len(order), len(genes), len(populations)))
        values[position] = np.nan_to_num(joined[column].to_numpy(dtype=np.float64))
        return values

    arrays = (laid_out(c) for c in ("n_cells", "n_producers", "corrected_umi", "cell_share"))
    return _Cohort(samples, genes, populations, *arrays)


def _arms(cohort: _Cohort, comparison: Comparison) -> dict[str, _Arm]:
    """Output of each subject, reference and treated; of pairs the same subjects, in one order."""
    total = cohort.cells.sum(axis=2).max(axis=1)
    units, unit = comparison.units, unit_of(cohort.samples, comparison)
    masks = [unit == i for i in range(len(units))]
    sampled = units[np.array([total[mask].sum() > 0 for mask in masks], dtype=bool)]
    subject = {
        arm: sampled.loc[sampled["arm"] == arm, keys.SUBJECT] for arm in (REFERENCE, TREATED)
    }
    if comparison.contrast.paired:
        both = set(subject[REFERENCE]) & set(subject[TREATED])
        subject = {arm: names[names.isin(both)] for arm, names in subject.items()}
    return {
        arm: _pooled(cohort, [masks[i] for i in names.index], total)
        for arm, names in subject.items()
    }


def _pooled(cohort: _Cohort, masks: list[NDArray[np.bool_]], total: Floats) -> _Arm:
    """Pool the samples of each subject; shares are weighted by the cells of the sample."""
    member = np.array(masks, dtype=np.float64).reshape(len(masks), len(total))

    def pooled(values: Floats) -> Floats:
        return np.asarray(np.einsum("is,sgk->igk", member, values))

    cells, producers = pooled(cohort.cells), pooled(cohort.producers)
    weighted = pooled(cohort.cell_share * total[:, None, None])
    p = weighted / (member @ total)[:, None, None]
    per_cell = np.divide(p, cells, out=np.zeros_like(p), where=cells > 0)
    output = np.where(producers > 0, per_cell * pooled(cohort.umi), 0.0)
    return _Arm(p, per_cell * producers, output)


class _Resampling(NamedTuple):
    """Weights of the subjects of both arms, one row a replicate, and the sizes of the arms.

    `jackknife` leaves out subjects of one arm after another while the other arm is whole; of pairs
    it leaves out the pair.
    """

    bootstrap: tuple[Floats, Floats]
    jackknife: list[tuple[Floats, Floats]]
    sizes: list[int]


def _resampling(
    rng: np.random.Generator, arms: dict[str, _Arm], comparison: Comparison, n_bootstrap: int
) -> _Resampling | None:
    """How subjects are resampled; None where there can be no interval."""
    n0, n1 = (len(arms[name].p) for name in (REFERENCE, TREATED))
    if comparison.status != keys.OK or min(n0, n1) < 2:
        return None
    reference = resampling_weights(rng, n0, n_bootstrap)
    without = leave_one_out_weights(n0)
    if comparison.contrast.paired:
        return _Resampling((reference, reference), [(without, without)], [n0])
    treated = resampling_weights(rng, n1, n_bootstrap)
    whole0, whole1 = np.full((n1, n0), 1 / n0), np.full((n0, n1), 1 / n1)
    return _Resampling(
        (reference, treated), [(without, whole1), (whole0, leave_one_out_weights(n1))], [n0, n1]
    )


def _decompose_gene(
    arms: dict[str, _Arm], gene: int, status: str, resampling: _Resampling | None
) -> dict[str, Any]:
    """Parts, intervals and status of all populations, and of their sum, for one gene."""
    reference, treated = ([v[:, gene] for v in arms[name]] for name in (REFERENCE, TREATED))
    n_rows = reference[0].shape[1] + 1
    columns: dict[str, Any] = {
        f"{part}{end}": np.full(n_rows, np.nan)
        for part in Parts._fields
        for end in ("", "_ci_low", "_ci_high")
    }
    n_subjects = min(len(reference[0]), len(treated[0]))
    if n_subjects == 0:
        return columns | {"status": [keys.TOO_FEW_SUBJECTS] * n_rows}
    p0, q0, o0 = (value.mean(axis=0) for value in reference)
    p1, q1, o1 = (value.mean(axis=0) for value in treated)
    parts = with_total(shapley_parts(p0, q0, o0, p1, q1, o1))
    columns |= parts._asdict()
    verdict = _verdict(p0, q0, p1, q1, status=status, n_subjects=n_subjects)
    if resampling is not None:

        def resampled(weights: tuple[Floats, Floats]) -> Parts:
            means = [arm_means(weights[0], v) for v in reference]
            means += [arm_means(weights[1], v) for v in treated]
            return with_total(shapley_parts(*means))

        columns |= _intervals(parts, resampled, resampling, verdict)
    return columns | {"status": verdict.astype(str)}


def _verdict(
    p0: Floats, q0: Floats, p1: Floats, q1: Floats, *, status: str, n_subjects: int
) -> NDArray[Any]:
    """Status of each population and of their sum: the first that holds."""
    # The sum over populations lacks a part only where all of them do.
    some = (q0.sum() > 0) or (q1.sum() > 0)
    p0, q0, p1, q1 = (np.append(v, float(some)) for v in (p0, q0, p1, q1))
    reasons = {
        keys.CONFOUNDED: np.full(len(p0), status == keys.CONFOUNDED),
        keys.TOO_FEW_SUBJECTS: np.full(len(p0), n_subjects < 2),
        keys.NO_PRODUCERS: (q0 == 0) & (q1 == 0),
        keys.ABSENT_IN_REFERENCE: p0 == 0,
        keys.ABSENT_IN_TREATED: p1 == 0,
        keys.INTENSITY_NOT_IDENTIFIED: (q0 == 0) | (q1 == 0),
    }
    return np.select(list(reasons.values()), list(reasons), default=keys.OK)


def _intervals(
    parts: Parts,
    resampled: Callable[[tuple[Floats, Floats]], Parts],
    resampling: _Resampling,
    verdict: NDArray[Any],
) -> dict[str, Floats]:
    """Widened percentile intervals of the parts, empty where a part is not identified."""
    absent = np.isin(verdict, [keys.ABSENT_IN_REFERENCE, keys.ABSENT_IN_TREATED])
    silent = verdict == keys.NO_PRODUCERS
    unknown = {
        "total": silent,
        "composition": silent,
        "producer_fraction": silent | absent,
        "intensity": silent | absent | (verdict == keys.INTENSITY_NOT_IDENTIFIED),
    }
    drawn = resampled(resampling.bootstrap)._asdict()
    left_out = [resampled(weights)._asdict() for weights in resampling.jackknife]
    columns = {}
    for part, estimate in parts._asdict().items():
        variances = [jackknife_variance(values[part]) for values in left_out]
        wider = expansion(variances, resampling.sizes)
        ends = np.quantile(drawn[part], [0.025, 0.975], axis=0)
        for name, end in zip(("low", "high"), ends, strict=True):
            bound = estimate + wider * (end - estimate)
            columns[f"{part}_ci_{name}"] = np.where(unknown[part], np.nan, bound)
    return columns


class Parts(NamedTuple):
    """The change of `o` and its parts, each of the shape of the means that they came from."""

    total: Floats
    composition: Floats
    producer_fraction: Floats
    intensity: Floats


# An arm is described by three means over its subjects: the cell share `p`, the producers per
# sampled cell `q = p f`, and the corrected UMI per sampled cell `o = p f m`. Its factors `P = p`,
# `F = q / p` and `M = o / q` multiply to `o` exactly, however much subjects differ.


def shapley_parts(p0: Floats, q0: Floats, o0: Floats, p1: Floats, q1: Floats, o1: Floats) -> Parts:
    """Shapley-averaged parts of `o1 - o0`, which add up to it but for rounding.

    A factor that one arm does not define (producer share without cells, output per producer
    without producers) takes the value of the other arm, so that its part is exactly zero.
    """
    # Shapley 1953; of x in x y z the average over the six orders in which the factors can change:
    # dx ((y0 z0 + y1 z1) / 3 + (y0 z1 + y1 z0) / 6).
    f0, m0, f1, m1 = _ratio(q0, p0), _ratio(o0, q0), _ratio(q1, p1), _ratio(o1, q1)
    f0, f1 = _fill(f0, f1), _fill(f1, f0)
    m0, m1 = _fill(m0, m1), _fill(m1, m0)
    return Parts(
        total=o1 - o0,
        composition=_part(p0, p1, f0, f1, m0, m1),
        producer_fraction=_part(f0, f1, p0, p1, m0, m1),
        intensity=_part(m0, m1, p0, p1, f0, f1),
    )


def _ratio(over: Floats, under: Floats) -> Floats:
    """`over / under`, missing where `under` is zero."""
    over, under = np.broadcast_arrays(over, under)
    ratio = np.full(over.shape, np.nan)
    np.divide(over, under, out=ratio, where=under > 0)
    return ratio


def _fill(factor: Floats, other: Floats) -> Floats:
    """`factor`, where it is missing `other`, where both are missing 0."""
    return np.asarray(np.nan_to_num(np.where(np.isnan(factor), other, factor)))


def _part(x0: Floats, x1: Floats, y0: Floats, y1: Floats, z0: Floats, z1: Floats) -> Floats:
    """Shapley value of `x` in the change of `x y z`."""
    return (x1 - x0) * ((y0 * z0 + y1 * z1) / 3 + (y0 * z1 + y1 * z0) / 6)


def with_total(parts: Parts) -> Parts:
    """Append the sum over the populations, the last axis, to each part."""
    return Parts(*(np.append(v, v.sum(axis=-1, keepdims=True), axis=-1) for v in parts))


def arm_means(weights: Floats, values: Floats) -> Floats:
    """Weighted means over subjects, `(n_replicates, n_subjects) x (n_subjects, n_columns)`.

    Computed without BLAS, whose sums depend on the machine's threads; a column that is zero in
    every drawn subject has a mean of exactly zero.
    """
    return np.asarray(np.einsum("rs,sc->rc", weights, values))


def resampling_weights(rng: np.random.Generator, n_subjects: int, n_replicates: int) -> Floats:
    """Bootstrap weights of subjects, one row a replicate: the share of the draws that it got."""
    draws = rng.multinomial(n_subjects, np.full(n_subjects, 1 / n_subjects), size=n_replicates)
    return draws / n_subjects


def leave_one_out_weights(n_subjects: int) -> Floats:
    """Weights that leave out one subject after another, shape `(n_subjects, n_subjects)`."""
    return np.asarray((1 - np.eye(n_subjects)) / (n_subjects - 1))


def jackknife_variance(left_out: Floats) -> Floats:
    """Variance of an estimate from those without each subject, a row each."""
    # Efron and Stein 1981: (n - 1) / n times the sum of squares about their mean.
    n = len(left_out)
    squares = ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0)
    return np.asarray((n - 1) / n * squares)


def expansion(variances: list[Floats], sizes: list[int], *, level: float = 0.95) -> Floats:
    """Factor, `(n_columns,)`, by which the bootstrap of few subjects is too narrow.

    `variances` are what each arm (or the pairs) adds to that of an estimate, `sizes` its subjects,
    at least 2. 1 where nothing varies.
    """
    # As `core.stats.bootstrap_expansion` (Hesterberg 2015), for arms that vary differently:
    # resampling n subjects gives (n - 1) / n of the variance that their arm adds, and the tails are
    # those of t with the degrees of freedom of Welch and Satterthwaite.
    v = np.array(variances)
    n = np.array(sizes, dtype=np.float64)[:, None]
    total = v.sum(axis=0)
    varies = total > 0
    safe = np.where(varies, v, 1.0)
    df = safe.sum(axis=0) ** 2 / (safe**2 / (n - 1)).sum(axis=0)
    scale = np.sqrt(safe.sum(axis=0) / (safe * (n - 1) / n).sum(axis=0))
    tail = 0.5 + level / 2
    return np.where(varies, scale * stats.t.ppf(tail, df) / stats.norm.ppf(tail), 1.0)
