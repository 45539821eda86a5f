"""Onset: planted orders, every rule by example, and the sign test in closed form."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from crs_sc import keys
from crs_sc.comparison import onset, trajectories
from crs_sc.comparison.onset import _sign_test
from crs_sc.errors import InputError, MissingKeyError

TIMES = ["d0", "d2", "d10"]
Course = list[float]


def make_tables(
    courses: dict[str, dict[str, Course]],
    *,
    times: list[str] = TIMES,
    ambient: float = 0.0,
    condition: str = "CART",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Ledger and samples; UMI of each gene by subject and time, half in each of two populations."""
    rows, design = [], []
    for subject, genes in courses.items():
        for t, time in enumerate(times):
            sample = f"{subject}_{time}"
            design.append((sample, subject, condition, time))
            for gene, course in genes.items():
                for population, share in (("Mono", 0.75), ("T", 0.25)):
                    umi = course[t] * share
                    rows.append((gene, population, sample, 500, umi, ambient * share))
    ledger = pd.DataFrame(rows, columns=["gene", "population", "sample", "n_cells", "umi",
                                         "ambient_umi"])  # fmt: skip
    samples = pd.DataFrame(design, columns=["sample", "subject", "condition", "timepoint"])
    return ledger, samples.set_index("sample")


def one(il1: Course, il6: Course, *, times: list[str] = TIMES, **settings: float) -> pd.Series:
    ledger, samples = make_tables({"m1": {"IL1B": il1, "IL6": il6}}, times=times)
    return onset(ledger, samples=samples, **settings).iloc[0]


@pytest.mark.parametrize(
    ("il1", "il6", "states", "onsets", "order"),
    [
        # Equal UMI in all, so that nothing is thinned.
        ([0, 200, 100], [0, 20, 280], ("reached", "reached"), ("d2", "d10"), "first"),
        ([0, 20, 280], [0, 200, 100], ("reached", "reached"), ("d10", "d2"), "second"),
        ([0, 200, 100], [10, 170, 120], ("reached", "reached"), ("d2", "d2"), "tied"),
        ([0, 200, 100], [0, 0, 0], ("reached", "never"), ("d2", ""), "unknown"),
        ([0, 0, 0], [0, 0, 40], ("never", "reached"), ("", "d10"), "unknown"),
        ([0, 0, 0], [0, 0, 0], ("never", "never"), ("", ""), "unknown"),
        ([200, 200, 20], [0, 0, 420], ("at_first_sampling", "reached"), ("d0", "d10"), "first"),
        ([200, 20, 20], [220, 20, 0], ("at_first_sampling",) * 2, ("d0", "d0"), "tied"),
        ([100, 120, 90], [0, 0, 310], ("always", "reached"), ("", "d10"), "unknown"),
        # Nine UMI at the most are no onset.
        ([0, 200, 100], [0, 0, 9], ("reached", "never"), ("d2", ""), "unknown"),
        # Just half, and just less.
        ([0, 52, 104], [1, 51, 104], ("reached", "reached"), ("d2", "d10"), "first"),
    ],
)
def test_rules(
    il1: Course,
    il6: Course,
    states: tuple[str, str],
    onsets: tuple[str, str],
    order: str,
) -> None:
    row = one(il1, il6)
    assert (row.state_first, row.state_second) == states
    assert {row.state_first, row.state_second} <= set(keys.ONSET_STATES)
    assert (row.onset_first, row.onset_second) == onsets
    assert row.order == order


def test_fraction_moves_the_onset() -> None:
    assert one([0, 32, 100], [0, 0, 132], fraction=0.25).onset_first == "d2"
    assert one([0, 32, 100], [0, 0, 132], fraction=0.5).onset_first == "d10"
    assert one([0, 0, 8], [0, 0, 8], min_count=5).state_first == "reached"


def test_what_ambient_rna_explains_is_no_onset() -> None:
    # 100 UMI of ambient RNA each time: 110 are nothing, 400 are.
    courses = {"m1": {"IL1B": [110, 112, 108], "IL6": [100, 110, 400]}}
    ledger, samples = make_tables(courses, ambient=100)
    row = onset(ledger, samples=samples).iloc[0]
    assert (row.state_first, row.state_second, row.onset_second) == ("never", "reached", "d10")
    course = trajectories(ledger, samples=samples, genes=["IL6"])
    assert course["above_soup"].tolist() == [False, False, True]
    assert course["output"].tolist() == pytest.approx([0, 10, 300])


def test_output_is_by_cell_not_by_sample() -> None:
    # The late sample has ten times the cells, and no more output a cell.
    ledger, samples = make_tables({"m1": {"IL1B": [0, 60, 600], "IL6": [0, 4, 656]}})
    ledger.loc[ledger["sample"] == "m1_d10", "n_cells"] *= 10
    row = onset(ledger, samples=samples).iloc[0]
    assert (row.onset_first, row.onset_second, row.order) == ("d2", "d10", "first")


def test_genes_of_a_cytokine_are_added_up_and_libraries_of_a_time_pooled() -> None:
    courses = {"m1": {"IL1A": [0, 30, 10], "IL1B": [0, 30, 50], "IL6": [0, 0, 120]}}
    ledger, samples = make_tables(courses)
    row = onset(ledger, samples=samples).iloc[0]
    assert (row["first"], row["second"], row.onset_first) == ("IL1A+IL1B", "IL6", "d2")
    summed = trajectories(ledger, samples=samples)
    assert list(summed.columns) == [
        "gene", "condition", "subject", "timepoint", "time", "n_cells", "umi", "ambient_umi",
        "output", "above_soup",
    ]  # fmt: skip
    assert list(dict.fromkeys(summed["gene"])) == ["IL1A", "IL1B", "IL6"]
    assert summed["n_cells"].unique().tolist() == [1000]
    # The same as two half libraries of each time.
    halves = []
    for half in ("a", "b"):
        part = ledger.assign(sample=ledger["sample"] + half, n_cells=250)
        part[["umi", "ambient_umi"]] /= 2
        halves.append(part)
    design = pd.concat([samples.rename(index=lambda name, h=h: name + h) for h in ("a", "b")])
    pd.testing.assert_frame_equal(trajectories(pd.concat(halves), samples=design), summed)


def test_order_over_subjects_and_sign_test() -> None:
    early, late, none = [0, 200, 100], [0, 20, 280], [0, 0, 0]
    courses = {f"m{i}": {"IL1B": early, "IL6": late} for i in range(6)}
    courses["m6"] = {"IL1B": late, "IL6": early}
    courses["m7"] = {"IL1B": early, "IL6": early}
    courses["m8"] = {"IL1B": none, "IL6": none}
    ledger, samples = make_tables(courses)
    quiet, others = make_tables({"v1": {"IL1B": none, "IL6": none}}, condition="vehicle")
    table = onset(pd.concat([ledger, quiet]), samples=pd.concat([samples, others]))
    assert list(table.columns) == keys.ONSET_TABLE.names
    assert list(table["condition"]) == ["CART"] * 9 + ["vehicle"]
    row = table.iloc[0]
    counts = (row.n_first, row.n_second, row.n_tied, row.n_unknown)
    assert counts == (6, 1, 1, 1)
    assert row.pvalue == pytest.approx(2 * (1 + 7) / 2**7)  # two-sided, 6 or 7 of 7
    assert row.pvalue_floor == pytest.approx(2 / 2**7)
    assert table["pvalue"].iloc[:9].nunique() == 1
    assert table.iloc[9].n_unknown == 1
    assert np.isnan(table.iloc[9].pvalue)


@given(st.lists(st.sampled_from(["first", "second", "tied", "unknown"]), max_size=40))
def test_sign_test_is_the_binomial_tail(orders: list[str]) -> None:
    found = _sign_test(orders)
    k, m = orders.count("first"), orders.count("second")
    assert (found["n_first"], found["n_second"]) == (k, m)
    assert found["n_tied"] + found["n_unknown"] == len(orders) - k - m
    if k + m == 0:
        assert np.isnan(found["pvalue"])
        return
    expected = min(1.0, 2 * stats.binom.cdf(min(k, m), k + m, 0.5))
    assert found["pvalue"] == pytest.approx(expected, rel=1e-9)
    assert found["pvalue"] >= found["pvalue_floor"] - 1e-12


def test_planted_courses_through_counting_noise() -> None:
    # Simulated: IL1B a time point before IL6 in twenty subjects; then both at once.
    rng = np.random.default_rng(4)
    times = ["d0", "d1", "d2", "d4", "d7"]
    early, late = np.array([1, 60, 90, 60, 20]), np.array([0.2, 4, 40, 60, 15])
    found = {}
    for name, (il1, il6) in {"before": (early, late), "same": (early * 3, early)}.items():
        courses = {f"m{i:02d}": {"IL1B": list(rng.poisson(il1 * rng.gamma(5, 0.2))),
                                 "IL6": list(rng.poisson(il6 * rng.gamma(5, 0.2)))}
                   for i in range(20)}  # fmt: skip
        ledger, samples = make_tables(courses, times=times)
        found[name] = onset(ledger, samples=samples).iloc[0]
    assert found["before"].n_first >= 17
    assert found["before"].pvalue < 1e-3
    assert found["same"].n_tied >= 10
    assert found["same"].pvalue > 0.05


@pytest.mark.parametrize("crossing", [0.45, 0.55])
def test_rare_and_abundant_of_one_course_are_as_often_first(crossing: float) -> None:
    # Simulated: both follow one course that is near the fraction early on; counting noise only.
    rng = np.random.default_rng(8)
    course = np.array([0.02, crossing, 0.9, 1.0, 0.8])
    means = {"IL1B": 2000 * course, "IL6": 40 * course}
    courses = {
        f"m{i:03d}": {gene: list(rng.poisson(mean)) for gene, mean in means.items()}
        for i in range(250)
    }
    ledger, samples = make_tables(courses, times=["d0", "d1", "d2", "d3", "d4"])
    ledger["umi"] = ledger["umi"].where(ledger["population"] == "Mono", 0) / 0.75
    row = onset(ledger, samples=samples).iloc[0]
    assert row.n_first + row.n_second > 60
    assert row.pvalue > 0.01
    # Without equal depth the abundant one is always the later, or always the earlier.
    deep = _orders(courses, "first" if crossing > 0.5 else "second")
    assert deep > 0.9


def _orders(courses: dict[str, dict[str, Course]], expected: str) -> float:
    """Share of `expected` among the orders of the courses as they are."""
    orders = []
    for genes in courses.values():
        at = {gene: int(np.argmax(np.array(c) >= 0.5 * max(c))) for gene, c in genes.items()}
        if at["IL1B"] != at["IL6"]:
            orders.append("first" if at["IL1B"] < at["IL6"] else "second")
    return orders.count(expected) / len(orders)


def test_other_subjects_have_no_say_and_the_seed_has() -> None:
    rng = np.random.default_rng(3)
    courses = {f"m{i}": {"IL1B": [0, 1000, 2000], "IL6": list(rng.poisson([0, 20, 40]))}
               for i in range(30)}  # fmt: skip
    ledger, samples = make_tables(courses)
    table = onset(ledger, samples=samples)
    pd.testing.assert_frame_equal(table, onset(ledger, samples=samples))
    kept = ledger["sample"].str.startswith("m2")
    alone = onset(ledger[kept], samples=samples).set_index("subject")["order"]
    assert alone.equals(table.set_index("subject").loc[alone.index, "order"])
    assert not onset(ledger, samples=samples, random_state=1)["order"].equals(table["order"])


def test_time_points_are_in_the_order_of_time_and_of_the_sampled() -> None:
    courses = {"m1": {"IL1B": [0, 200, 100], "IL6": [0, 20, 280]}}
    for times in (["6h", "d1", "d3"], ["pre", "d2", "d10"], ["before", "early", "late"]):
        ledger, samples = make_tables(courses, times=times)
        shuffled = ledger.sample(frac=1, random_state=1)
        row = onset(shuffled, samples=samples.iloc[::-1]).iloc[0]
        assert (row.onset_first, row.onset_second) == (times[1], times[2])
        assert list(trajectories(shuffled, samples=samples)["timepoint"]) == times * 2


def test_too_few_umi_of_one_leave_the_order_open_and_the_onset_of_the_other() -> None:
    # Of 12 UMI of IL6 ten are at the peak; IL1B thinned to 12 spreads them over three times.
    row = one([0, 400, 390, 395], [0, 2, 10, 0], times=["d0", "d1", "d2", "d3"])
    assert (row.state_first, row.onset_first) == ("reached", "d1")
    assert (row.state_second, row.onset_second, row.order) == ("reached", "d2", "unknown")


def test_subject_seen_once_is_not_followed() -> None:
    ledger, samples = make_tables({"m1": {"IL1B": [0, 200, 100], "IL6": [0, 20, 100]},
                                   "m2": {"IL1B": [0, 200, 100], "IL6": [0, 20, 100]}})  # fmt: skip
    kept = ~ledger["sample"].isin(["m2_d0", "m2_d10"])
    table = onset(ledger[kept], samples=samples)
    assert table["state_first"].tolist() == ["reached", "not_followed"]
    assert table["order"].tolist() == ["first", "unknown"]


def test_what_cannot_be_asked() -> None:
    ledger, samples = make_tables({"m1": {"IL1B": [0, 200, 100], "IL6": [0, 20, 100]}})
    with pytest.raises(InputError, match="none of IL18"):
        onset(ledger, samples=samples, first=["IL18"])
    with pytest.raises(InputError, match="both have IL6"):
        onset(ledger, samples=samples, first=["IL6"])
    with pytest.raises(InputError, match="fraction"):
        onset(ledger, samples=samples, fraction=0)
    with pytest.raises(MissingKeyError, match="no column timepoint"):
        onset(ledger, samples=samples.drop(columns="timepoint"))
    with pytest.raises(InputError, match="not in `samples`: m1_d10"):
        onset(ledger, samples=samples.drop(index="m1_d10"))
    assert trajectories(ledger, samples=samples, genes=["TNF"]).empty
