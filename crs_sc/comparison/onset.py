"""Onset: which cytokine comes first in each subject."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from crs_sc import keys
from crs_sc.comparison.design import time_order, time_values
from crs_sc.comparison.units import check_columns
from crs_sc.core.stats import above_ambient
from crs_sc.errors import InputError, listing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["onset", "trajectories"]

_LEDGER = ["gene", "population", keys.SAMPLE, "n_cells", "umi", "ambient_umi"]
_SAMPLES = [keys.SUBJECT, keys.CONDITION, keys.TIMEPOINT]


def trajectories(
    ledger: pd.DataFrame, *, samples: pd.DataFrame, genes: Sequence[str] | None = None
) -> pd.DataFrame:
    """Give the output of each cytokine by each subject over time, over all its cells.

    Parameters
    ----------
    ledger
        The table `ledger`.
    samples
        Indexed by sample, columns `subject`, `condition` and `timepoint`, as from the sample table.
    genes
        Which; all of the ledger if None.

    Returns
    -------
    DataFrame, one row a gene, condition, subject and time point, samples pooled, sorted like that
    with time points in the order of time: gene, condition, subject, timepoint, time (days where
    all time points carry a number, else 0, 1, 2, ...), n_cells, umi, ambient_umi, output
    (max(0, umi less ambient_umi) per 1,000 cells), above_soup (more UMI than half as much ambient
    RNA again explains, Poisson p 0.01).

    Raises
    ------
    MissingKeyError
        If a column is missing, time points above all.
    InputError
        If a sample of the ledger is not in `samples`.

    Examples
    --------
    >>> import pandas as pd
    >>> import crs_sc as crs
    >>> days = ["day 1", "day 2", "day 3"]
    >>> samples = pd.DataFrame({"subject": "m1", "condition": "CART", "timepoint": days}, days)
    >>> umi = pd.Series([90, 80, 85, 0, 40, 90], name="umi")
    >>> ledger = pd.DataFrame({"gene": ["IL1B"] * 3 + ["IL6"] * 3, "sample": days * 2, "umi": umi})
    >>> ledger = ledger.assign(population="Monocyte", n_cells=100, ambient_umi=0.0)
    >>> crs.tl.trajectories(ledger, samples=samples, genes=["IL6"])["output"].tolist()
    [0.0, 400.0, 900.0]
    """
    chosen = list(dict.fromkeys(ledger["gene"].astype(str))) if genes is None else list(genes)
    return _courses(ledger, samples, {gene: [gene] for gene in chosen})


def _courses(
    ledger: pd.DataFrame, samples: pd.DataFrame, groups: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """Courses of groups of genes, the UMI of a group added up; see `trajectories`."""
    for name, table, wanted in (("ledger", ledger, _LEDGER), ("samples", samples, _SAMPLES)):
        check_columns(name, table, wanted)
    unknown = sorted(set(ledger[keys.SAMPLE].astype(str)) - set(samples.index.astype(str)))
    if unknown:
        msg = f"Samples of the ledger are not in `samples`: {listing(unknown)}."
        raise InputError(msg)
    known = samples[_SAMPLES].astype(str).set_axis(samples.index.astype(str), axis=0)
    order = time_order(known[keys.TIMEPOINT])
    time = time_values(order) or {name: float(i) for i, name in enumerate(order)}
    rows = ledger[_LEDGER].astype({keys.SAMPLE: str}).join(known, on=keys.SAMPLE)
    # A group of genes has the cells of one of them.
    cells = rows[~rows.duplicated(["population", keys.SAMPLE])].groupby(_SAMPLES)["n_cells"].sum()
    parts = []
    for name, genes in groups.items():
        of_group = rows[rows["gene"].isin(genes)]
        if of_group.empty:
            continue
        part = of_group.groupby(_SAMPLES)[["umi", "ambient_umi"]].sum().join(cells).reset_index()
        parts.append(part.assign(gene=name))
    columns = ["gene", keys.CONDITION, keys.SUBJECT, keys.TIMEPOINT, "time", *_COUNTS]
    if not parts:
        return pd.DataFrame(columns=columns)
    table = pd.concat(parts, ignore_index=True)
    table["time"] = table[keys.TIMEPOINT].map(time).astype(np.float64)
    table = _measured(table)
    rank = {name: i for i, name in enumerate(groups)}
    table["_gene"] = table["gene"].map(rank)
    table = table.sort_values(["_gene", keys.CONDITION, keys.SUBJECT, "time"], ignore_index=True)
    return table[columns]


_COUNTS = ["n_cells", "umi", "ambient_umi", "output", "above_soup"]


def onset(
    ledger: pd.DataFrame,
    *,
    samples: pd.DataFrame,
    first: Sequence[str] = ("IL1A", "IL1B"),
    second: Sequence[str] = ("IL6",),
    fraction: float = 0.5,
    min_count: int = 10,
    random_state: int = 0,
) -> pd.DataFrame:
    """Find the cytokine that set in first in each subject, and test that over the subjects.

    The onset is the first time point at which the output per cell (of all cells of the subject,
    ambient RNA taken out) is at least `fraction` of the subject's own highest, and more than
    ambient RNA explains. Only the subject's own course is looked at: neither arm nor other
    subjects have a say. With few UMI a course crosses the fraction by chance where one with many
    does not, so the more abundant cytokine is thinned to the UMI of the rarer before the two are
    compared; states and onsets are those at equal depth.

    Parameters
    ----------
    ledger, samples
        As in `trajectories`.
    first, second
        Genes of the two cytokines; the UMI of several are added up.
    fraction
        Of the highest output.
    min_count
        The highest output must rest on this many UMI beyond ambient RNA.
    random_state
        Seed of the thinning, which is drawn for each subject by itself.

    Returns
    -------
    DataFrame with the columns of `keys.ONSET_TABLE`, one row a condition and subject; the counts
    and the test are those of the condition and repeated in its rows. States:

    - `reached`: it set in at a time point after the first;
    - `at_first_sampling`: it was there when the subject was first sampled, and fell below the
      fraction later: the onset is that time point or earlier;
    - `always`: never below the fraction at any time: no onset that could be seen;
    - `never`: no output in numbers beyond ambient RNA at any time;
    - `not_followed`: the subject was sampled at fewer than two time points.

    The order is unknown unless both have an onset at equal depth: a cytokine that was never seen
    may be late, or too rare to be seen. It is tied where both set in at the same time point.
    Neither counts in the sign test, which is two-sided and exact: where both follow one course,
    each order has probability one half.

    Raises
    ------
    MissingKeyError
        As in `trajectories`.
    InputError
        If the ledger has no gene of either cytokine, they share one, or a setting is out of range.

    Examples
    --------
    >>> import pandas as pd
    >>> import crs_sc as crs
    >>> days = ["day 1", "day 2", "day 3"]
    >>> samples = pd.DataFrame({"subject": "m1", "condition": "CART", "timepoint": days}, days)
    >>> umi = pd.Series([90, 30, 20, 0, 40, 90], name="umi")
    >>> ledger = pd.DataFrame({"gene": ["IL1B"] * 3 + ["IL6"] * 3, "sample": days * 2, "umi": umi})
    >>> ledger = ledger.assign(population="Monocyte", n_cells=100, ambient_umi=0.0)
    >>> crs.tl.onset(ledger, samples=samples)["order"].tolist()
    ['first']
    """
    if not 0 < fraction <= 1 or min_count < 1:
        msg = (
            "fraction must be above 0 and at most 1, and min_count at least 1; "
            f"got {fraction!r} and {min_count!r}."
        )
        raise InputError(msg)
    measured = [_in_ledger(ledger, genes) for genes in (first, second)]
    if shared := sorted(set(measured[0]) & set(measured[1])):
        msg = f"The two cytokines must differ; both have {listing(shared)}."
        raise InputError(msg)
    names = ["+".join(genes) for genes in measured]
    courses = _courses(ledger, samples, dict(zip(names, measured, strict=True)))
    units = courses.groupby([keys.CONDITION, keys.SUBJECT], sort=True)
    rows = []
    for (condition, subject), unit in units:
        seed = zlib.crc32(f"{condition}|{subject}".encode())
        ends = _onsets(
            [unit[unit["gene"] == name] for name in names],
            fraction=fraction,
            min_count=min_count,
            rng=np.random.default_rng([random_state, seed]),
        )
        rows.append(
            {
                keys.CONDITION: condition,
                "first": names[0],
                "second": names[1],
                keys.SUBJECT: subject,
                "onset_first": ends[0][1],
                "onset_second": ends[1][1],
                "state_first": ends[0][0],
                "state_second": ends[1][0],
                "order": _order(*ends),
            }
        )
    table = pd.DataFrame(rows)
    tested = table.groupby(keys.CONDITION, sort=True)["order"].agg(list).map(_sign_test)
    for name in _TEST:
        table[name] = table[keys.CONDITION].map(tested.map(lambda test, name=name: test[name]))
    return table[keys.ONSET_TABLE.names]


_TEST = ("n_first", "n_second", "n_tied", "n_unknown", "pvalue", "pvalue_floor")


def _in_ledger(ledger: pd.DataFrame, genes: Sequence[str]) -> list[str]:
    known = set(ledger["gene"].astype(str))
    measured = [gene for gene in dict.fromkeys(genes) if gene in known]
    if not measured:
        msg = f"The ledger has none of {listing(genes)}. Genes: {listing(sorted(known))}."
        raise InputError(msg)
    return measured


def _onsets(
    courses: list[pd.DataFrame], *, fraction: float, min_count: int, rng: np.random.Generator
) -> list[tuple[str, str, float]]:
    """Onset of two courses of one subject at equal depth; see `_onset_of`."""
    ends = [_onset_of(course, fraction=fraction, min_count=min_count) for course in courses]
    if {state for state, _, _ in ends} & {keys.NEVER, keys.NOT_FOLLOWED}:
        return ends
    umi = [float((course["umi"] - course["ambient_umi"]).clip(lower=0).sum()) for course in courses]
    rich = int(np.argmax(umi))
    thinned = _thinned(courses[rich], min(umi) / max(umi), rng)
    equal = _onset_of(thinned, fraction=fraction, min_count=min_count)
    # Too few are left to place it beside the other one; on its own UMI it has an onset.
    ends[rich] = (*ends[rich][:2], np.nan) if equal[0] == keys.NEVER else equal
    return ends


def _thinned(course: pd.DataFrame, share: float, rng: np.random.Generator) -> pd.DataFrame:
    """Keep each UMI of a course with probability `share`, and that share of ambient RNA."""
    umi = rng.binomial(np.rint(course["umi"]).astype(np.int64), share)
    return _measured(course.assign(umi=umi, ambient_umi=course["ambient_umi"] * share))


def _measured(course: pd.DataFrame) -> pd.DataFrame:
    """Add output by cell, and whether it is more than ambient RNA explains."""
    beyond = np.maximum(0.0, course["umi"] - course["ambient_umi"])
    return course.assign(
        output=1000 * beyond / course["n_cells"].where(course["n_cells"] > 0),
        above_soup=above_ambient(course["umi"].to_numpy(), course["ambient_umi"].to_numpy()),
    )


def _onset_of(course: pd.DataFrame, *, fraction: float, min_count: int) -> tuple[str, str, float]:
    """State, time point (empty without one) and time of onset of one course in order of time.

    The time is missing where there is no onset.
    """
    sampled = course[course["n_cells"] > 0]
    if len(sampled) < 2:
        return keys.NOT_FOLLOWED, "", np.nan
    output = sampled["output"].to_numpy()
    beyond = (sampled["umi"] - sampled["ambient_umi"]).to_numpy()
    real = sampled["above_soup"].to_numpy(dtype=bool)
    shown = real & (beyond >= min_count)
    if not shown.any():
        return keys.NEVER, "", np.nan
    high = output >= fraction * output[shown].max()
    if high.all():
        return keys.ALWAYS, "", np.nan
    at = int(np.argmax(high & real))
    row = sampled.iloc[at]
    state = keys.AT_FIRST_SAMPLING if at == 0 else keys.REACHED
    return state, str(row[keys.TIMEPOINT]), float(row["time"])


def _order(first: tuple[str, str, float], second: tuple[str, str, float]) -> str:
    """Which onset is earlier."""
    early, late = first[2], second[2]
    if np.isnan(early) or np.isnan(late):
        return "unknown"
    if early == late:
        return "tied"
    return "first" if early < late else "second"


def _sign_test(orders: Sequence[str]) -> dict[str, float]:
    """Count the orders, and make the exact two-sided sign test of `first` against `second`."""
    counts = {name: sum(order == name for order in orders) for name in _ORDERS}
    n = counts["first"] + counts["second"]
    return {f"n_{name}": count for name, count in counts.items()} | {
        "pvalue": stats.binomtest(counts["first"], n).pvalue if n else np.nan,
        "pvalue_floor": min(1.0, 2 * 0.5**n) if n else np.nan,
    }


_ORDERS = ("first", "second", "tied", "unknown")
