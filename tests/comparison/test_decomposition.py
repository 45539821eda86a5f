"""The parts of a change: closed form against brute force, planted changes, edge cases."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from crs_sc import keys
from crs_sc.comparison.decomposition import (
    arm_means,
    decompose,
    expansion,
    jackknife_variance,
    leave_one_out_weights,
    shapley_parts,
)
from crs_sc.comparison.design import Contrast
from crs_sc.core.stats import bootstrap_expansion
from crs_sc.errors import InputError, MissingKeyError

PARTS = ["composition", "producer_fraction", "intensity"]
CART = Contrast("cart", treated="CART", reference="vehicle")


def cohort(cells, producers, umi, *, conditions, subjects=None, gene="IL6", share=None):
    """Tables from arrays of shape (n_samples, n_populations)."""
    cells, producers, umi = (np.asarray(a, dtype=float) for a in (cells, producers, umi))
    share = cells / cells.sum(axis=1, keepdims=True) if share is None else np.asarray(share)
    subjects = subjects or [f"m{i}" for i in range(len(cells))]
    samples = pd.DataFrame(
        {"subject": subjects, "condition": conditions},
        index=[f"s{i}" for i in range(len(cells))],
    )
    rows = [
        {
            "gene": gene,
            "population": f"P{k}",
            "sample": sample,
            "n_cells": int(cells[i, k]),
            "n_producers": int(producers[i, k]),
            "corrected_umi": umi[i, k],
            "cell_share": share[i, k],
        }
        for i, sample in enumerate(samples.index)
        for k in range(cells.shape[1])
    ]
    table = pd.DataFrame(rows)
    return table.drop(columns="n_producers"), table.drop(columns="corrected_umi"), samples


def random_cohort(rng, n=4, k=3):
    cells = rng.integers(0, 300, (2 * n, k)) + np.eye(2 * n, k, dtype=int)
    cells[:, 0] += 1
    producers = rng.binomial(cells, rng.uniform(0, 0.4, k))
    umi = rng.poisson(3.0, cells.shape) * (rng.random(cells.shape) < 0.8) * (cells > 0)
    return cohort(cells, producers, umi, conditions=["vehicle"] * n + ["CART"] * n)


def brute_force(reference, treated):
    """Shapley values by walking through the six orders of change."""
    parts = np.zeros(3)
    for order in itertools.permutations(range(3)):
        now = list(reference)
        for factor in order:
            before = np.prod(now)
            now[factor] = treated[factor]
            parts[factor] += (np.prod(now) - before) / 6
    return parts


def check_and_drop_the_sum(table):
    """The rows of the populations, after a look at those that add them up."""
    total = table["population"] == keys.ALL_POPULATIONS
    by = ["contrast", "gene"]
    columns = ["total", *PARTS]
    summed = table[~total].groupby(by, sort=False)[columns].sum().to_numpy()
    np.testing.assert_allclose(table.loc[total, columns], summed, rtol=0, atol=1e-12)
    return table[~total]


factors = st.tuples(*[st.floats(1e-6, 1e3)] * 3)


@given(factors, factors)
def test_kernel_is_the_average_over_the_six_orders(reference, treated):
    means = []
    for p, f, m in (reference, treated):
        means += [np.array([p]), np.array([p * f]), np.array([p * f * m])]
    parts = shapley_parts(*means)
    expected = brute_force(reference, treated)
    scale = max(np.prod(reference), np.prod(treated), np.abs(expected).max())
    np.testing.assert_allclose(
        [parts[1][0], parts[2][0], parts[3][0]], expected, atol=1e-10 * scale
    )


@given(hnp.arrays(float, (2, 3, 5), elements=st.sampled_from([0.0, 0.1, 0.5, 1.0, 7.0])))
def test_parts_add_up_even_where_factors_are_undefined(factors):
    p, f, m = factors[:, 0], factors[:, 1], factors[:, 2]
    parts = shapley_parts(p[0], (p * f)[0], (p * f * m)[0], p[1], (p * f)[1], (p * f * m)[1])
    np.testing.assert_allclose(parts[1] + parts[2] + parts[3], parts.total, atol=1e-12)
    assert np.isfinite(np.array(parts)).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_parts_of_a_cohort_add_up_to_the_change(seed):
    ledger, producers, samples = random_cohort(np.random.default_rng(seed))
    table = decompose(ledger, producers, contrasts=[CART], samples=samples, n_bootstrap=20)
    np.testing.assert_allclose(table[PARTS].sum(axis=1), table["total"], rtol=0, atol=1e-12)
    table = check_and_drop_the_sum(table)
    # The change itself, subject by subject.
    joined = ledger.assign(
        n_producers=producers["n_producers"],
        **{c: ledger["sample"].map(samples[c]) for c in ("condition",)},
    )
    joined["o"] = np.where(
        joined["n_producers"] > 0,
        joined["cell_share"] * joined["corrected_umi"] / joined["n_cells"].clip(lower=1),
        0.0,
    )
    mean = joined.groupby(["population", "condition"])["o"].mean().unstack()
    np.testing.assert_allclose(table["total"], mean["CART"] - mean["vehicle"], atol=1e-12)
    for part in ("total", *PARTS):
        low, high = table[f"{part}_ci_low"], table[f"{part}_ci_high"]
        assert (low.isna() == high.isna()).all()
        assert (low <= high)[low.notna()].all()


def test_table_has_the_columns_and_order_of_the_contract():
    tables = [random_cohort(np.random.default_rng(1))]
    ledger, producers, samples = tables[0]
    more = [t.assign(gene="IL1B") for t in (ledger, producers)]
    ledger = pd.concat([ledger, more[0]]).sample(frac=1, random_state=0)
    producers = pd.concat([more[1], producers])
    back = Contrast("back", treated="vehicle", reference="CART")
    table = decompose(ledger, producers, contrasts=[CART, back], samples=samples, n_bootstrap=20)
    assert list(table.columns) == keys.DECOMPOSITION_TABLE.names
    genes = list(ledger["gene"].unique())
    expected = list(itertools.product(["cart", "back"], genes, ["P0", "P1", "P2", "All"]))
    assert list(table[["contrast", "gene", "population"]].itertuples(index=False, name=None)) == (
        expected
    )
    # The way back is the way there, with the sign turned.
    there, home = table[table["contrast"] == "cart"], table[table["contrast"] == "back"]
    np.testing.assert_allclose(there[PARTS].to_numpy(), -home[PARTS].to_numpy(), atol=1e-12)


@pytest.mark.parametrize("changed", PARTS)
def test_a_planted_change_of_one_factor_leaves_the_others_at_zero(changed):
    n = 4
    cells = np.array([[100, 100]] * 2 * n)
    fraction, per_producer = np.full(2 * n, 0.2), np.full(2 * n, 5.0)
    if changed == "composition":
        cells[n:] = [150, 50]
    elif changed == "producer_fraction":
        fraction[n:] = 0.4
    else:
        per_producer[n:] = 9.0
    producers = cells * fraction[:, None]
    umi = producers * per_producer[:, None]
    conditions = ["vehicle"] * n + ["CART"] * n
    ledger, calls, samples = cohort(cells, producers, umi, conditions=conditions)
    table = decompose(ledger, calls, contrasts=[CART], samples=samples, n_bootstrap=50)
    table = check_and_drop_the_sum(table)
    for part in PARTS:
        if part == changed:
            np.testing.assert_allclose(table[part], table["total"], atol=1e-14)
            assert (table[part].abs() > 0.01).all()
        else:
            np.testing.assert_allclose(table[part], 0, atol=1e-14)
            np.testing.assert_allclose(table[f"{part}_ci_low"], 0, atol=1e-14)


def one_population(reference, treated):
    """Each arm: (cells of P0, producers, umi), two identical subjects, beside 100 other cells."""
    rows = [reference, reference, treated, treated]
    cells = [[row[0], 100] for row in rows]
    producers = [[row[1], 0] for row in rows]
    umi = [[row[2], 0] for row in rows]
    conditions = ["vehicle"] * 2 + ["CART"] * 2
    ledger, calls, samples = cohort(cells, producers, umi, conditions=conditions)
    table = decompose(ledger, calls, contrasts=[CART], samples=samples, n_bootstrap=20)
    return table.set_index("population").loc["P0"]


@pytest.mark.parametrize(
    ("reference", "treated", "status", "zero", "empty"),
    [
        ((0, 0, 0), (50, 10, 40), keys.ABSENT_IN_REFERENCE, PARTS[1:], PARTS[1:]),
        ((50, 10, 40), (0, 0, 0), keys.ABSENT_IN_TREATED, PARTS[1:], PARTS[1:]),
        ((50, 0, 3), (60, 10, 40), keys.INTENSITY_NOT_IDENTIFIED, PARTS[2:], PARTS[2:]),
        ((50, 0, 3), (60, 0, 4), keys.NO_PRODUCERS, PARTS, PARTS),
        ((0, 0, 0), (60, 0, 4), keys.NO_PRODUCERS, PARTS, PARTS),
        ((50, 10, 40), (60, 5, 30), keys.OK, [], []),
    ],
)
def test_what_is_not_identified_is_said(reference, treated, status, zero, empty):
    row = one_population(reference, treated)
    assert row["status"] == status
    for part in PARTS:
        assert (row[part] == 0) == (part in zero)
        assert np.isnan(row[f"{part}_ci_low"]) == (part in empty)
    assert row[PARTS].sum() == pytest.approx(row["total"], abs=1e-14)
    assert np.isnan(row["total_ci_low"]) == (status == keys.NO_PRODUCERS)


def test_one_subject_in_an_arm_has_parts_and_no_intervals():
    cells, made, umi = [[50, 50]] * 3, [[5, 5], [6, 5], [20, 5]], [[10, 9], [11, 9], [80, 9]]
    conditions = ["vehicle", "vehicle", "CART"]
    ledger, calls, samples = cohort(cells, made, umi, conditions=conditions)
    table = decompose(ledger, calls, contrasts=[CART], samples=samples)
    assert (table["status"] == keys.TOO_FEW_SUBJECTS).all()
    assert table[["total", *PARTS]].notna().all().all()
    assert table[[f"{part}_ci_low" for part in PARTS]].isna().all().all()


def test_samples_of_one_subject_are_pooled_and_never_replicates():
    rng = np.random.default_rng(2)
    cells = rng.integers(20, 90, (8, 2))
    made = rng.binomial(cells, 0.3)
    umi = made * 4.0
    subjects = ["a", "a", "b", "b", "c", "c", "d", "d"]
    conditions = ["vehicle"] * 4 + ["CART"] * 4
    split = cohort(cells, made, umi, conditions=conditions, subjects=subjects)
    halves = [x[::2] + x[1::2] for x in (cells, made, umi)]
    whole = cohort(*halves, conditions=conditions[::2], subjects=subjects[::2])
    results = [
        decompose(t[0], t[1], contrasts=[CART], samples=t[2], n_bootstrap=100)
        for t in (split, whole)
    ]
    pd.testing.assert_frame_equal(*results, rtol=1e-12)


def test_pairs_are_drawn_together():
    """A constant change on top of large differences between subjects: no width when paired."""
    level = np.array([40.0, 80, 160, 320, 640])
    cells = np.full((10, 1), 1000)
    made = np.concatenate([level, level + 60])[:, None]
    subjects = [f"m{i}" for i in range(5)] * 2
    conditions = ["vehicle"] * 5 + ["CART"] * 5
    ledger, calls, samples = cohort(cells, made, made * 2, conditions=conditions, subjects=subjects)
    paired = Contrast("cart", treated="CART", reference="vehicle", paired=True)
    row = decompose(ledger, calls, contrasts=[paired], samples=samples).iloc[0]
    assert row["total"] == pytest.approx(0.12)
    assert row["total_ci_high"] - row["total_ci_low"] == pytest.approx(0, abs=1e-12)
    loose = samples.assign(subject=[f"x{i}" for i in range(10)])
    row = decompose(ledger, calls, contrasts=[CART], samples=loose).iloc[0]
    assert row["total_ci_high"] - row["total_ci_low"] > 0.3


def test_same_seed_same_bytes_and_a_second_to_run():
    ledger, producers, samples = random_cohort(np.random.default_rng(3), n=8, k=12)
    start = time.process_time()
    one, two, other = (
        decompose(ledger, producers, contrasts=[CART], samples=samples, random_state=seed)
        for seed in (0, 0, 1)
    )
    assert time.process_time() - start < 5
    assert one.to_csv() == two.to_csv()
    assert one["total_ci_low"].to_list() != other["total_ci_low"].to_list()


def outputs(ledger, producers, samples):
    """UMI per sampled cell, shape (n_samples, n_populations)."""
    t = ledger.assign(made=producers["n_producers"])
    o = np.where(t["made"] > 0, t["cell_share"] * t["corrected_umi"] / t["n_cells"].clip(1), 0)
    o = pd.Series(o, index=[t["sample"], t["population"]]).unstack()
    return o.loc[samples.index].to_numpy()


def test_interval_is_a_widened_bootstrap():
    """By a plain loop, and the factor of the sum of two means by Welch's own formula."""
    ledger, producers, samples = random_cohort(np.random.default_rng(4))
    table = decompose(ledger, producers, contrasts=[CART], samples=samples, n_bootstrap=4000)
    o = outputs(ledger, producers, samples)
    o = np.column_stack([o, o.sum(axis=1)])
    rng = np.random.default_rng(9)
    loop = [
        o[4:][rng.integers(0, 4, 4)].mean(0) - o[:4][rng.integers(0, 4, 4)].mean(0)
        for _ in range(4000)
    ]
    welch = stats.ttest_ind(o[4:], o[:4], equal_var=False)
    wider = np.sqrt(4 / 3) * stats.t.ppf(0.975, welch.df) / stats.norm.ppf(0.975)
    estimate = o[4:].mean(0) - o[:4].mean(0)
    expected = estimate + wider * (np.quantile(loop, [0.025, 0.975], axis=0) - estimate)
    found = table[["total_ci_low", "total_ci_high"]].to_numpy().T
    np.testing.assert_allclose(found, expected, atol=0.05 * np.ptp(expected, axis=0).max())


def test_jackknife_variance_of_a_mean_is_its_squared_standard_error():
    values = np.random.default_rng(5).normal(size=(6, 3))
    left_out = arm_means(leave_one_out_weights(6), values)
    expected = stats.sem(values, axis=0) ** 2
    np.testing.assert_allclose(jackknife_variance(left_out), expected, rtol=1e-12)


def test_expansion_of_two_alike_arms_is_hesterbergs():
    same = expansion([np.array([2.0]), np.array([2.0])], [5, 5])
    assert same[0] == pytest.approx(bootstrap_expansion(5, 8), rel=1e-12)
    single = expansion([np.array([0.0, 1.0])], [5])
    np.testing.assert_allclose(single, [1.0, bootstrap_expansion(5, 4)])


def lognormal_cohort(rng, n, *, fewer=1.0, quieter=1.0):
    """Simulated tables of a population P0 beside others: shares, producers and UMI vary."""
    scale = np.repeat([[1.0, 1.0], [fewer, quieter]], n, axis=0)
    shares = 0.2 * scale[:, 0] * np.exp(rng.normal(0, 0.3, 2 * n))
    fraction = np.minimum(0.3 * scale[:, 1] * np.exp(rng.normal(0, 0.2, 2 * n)), 1)
    cells = rng.binomial(1000, np.minimum(shares, 1))
    made = rng.binomial(cells, fraction)
    umi = made + rng.poisson(made * 2.0)
    cells = np.column_stack([cells, 1000 - cells])
    zero = np.zeros(2 * n)
    conditions = ["vehicle"] * n + ["CART"] * n
    return cohort(
        cells, np.column_stack([made, zero]), np.column_stack([umi, zero]), conditions=conditions
    )


@pytest.mark.parametrize(
    ("planted", "changed"),
    [({"fewer": 0.25}, "composition"), ({"quieter": 0.25}, "producer_fraction")],
)
def test_fewer_monocytes_and_quieter_monocytes_are_told_apart(planted, changed):
    """60 simulated cohorts of four an arm; the tolerance is three binomial standard errors."""
    rng = np.random.default_rng(6)
    found = []
    for _ in range(60):
        ledger, producers, samples = lognormal_cohort(rng, 4, **planted)
        table = decompose(ledger, producers, contrasts=[CART], samples=samples, n_bootstrap=300)
        row = table.set_index("population").loc["P0"]
        assert row[PARTS].abs().idxmax() == changed
        assert row[changed] < 0
        other = [part for part in PARTS if part != changed]
        over = [row[f"{part}_ci_low"] <= 0 <= row[f"{part}_ci_high"] for part in other]
        found.append([row[f"{changed}_ci_high"] < 0, *over])
    seen, *over = np.mean(found, axis=0)
    assert seen > 0.9
    assert min(over) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 60)


def test_intervals_cover_the_planted_change():
    """150 simulated cohorts of three an arm; all parts, and the sum over populations."""
    n, rng = 3, np.random.default_rng(7)
    p, f, m = 0.2 * np.exp(0.3**2 / 2), 0.3 * np.exp(0.2**2 / 2), 3.0
    truth = shapley_parts(
        *(np.array([v]) for v in (p, p * f, p * f * m, p / 2, p / 2 * f, p / 2 * f * m))
    )._asdict()
    held = []
    for _ in range(150):
        ledger, producers, samples = lognormal_cohort(rng, n, fewer=0.5)
        table = decompose(ledger, producers, contrasts=[CART], samples=samples, n_bootstrap=200)
        table = table.set_index("population")
        held.append(
            [
                table.loc[k, f"{part}_ci_low"] <= truth[part][0] <= table.loc[k, f"{part}_ci_high"]
                for part in ("total", *PARTS)
                for k in ("P0", keys.ALL_POPULATIONS)
            ]
        )
    coverage = np.mean(held, axis=0)
    assert coverage.min() >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 150)
    assert coverage.mean() <= 0.99


def test_tables_that_do_not_fit_are_refused():
    ledger, producers, samples = random_cohort(np.random.default_rng(5))
    ask = {"contrasts": [CART], "samples": samples}
    with pytest.raises(MissingKeyError, match="'ledger' has no column cell_share"):
        decompose(ledger.drop(columns="cell_share"), producers, **ask)
    with pytest.raises(InputError, match="'producers' has no row for IL6"):
        decompose(ledger, producers.iloc[1:], **ask)
    with pytest.raises(InputError, match="more than one row for IL6"):
        decompose(pd.concat([ledger, ledger]), producers, **ask)
    with pytest.raises(InputError, match="not in `samples`: s7"):
        decompose(ledger, producers, contrasts=[CART], samples=samples.drop("s7"))
    called = [t.replace({"population": {"P1": "All"}}) for t in (ledger, producers)]
    with pytest.raises(InputError, match="the sum over all"):
        decompose(*called, **ask)
    with pytest.raises(InputError, match="n_bootstrap"):
        decompose(ledger, producers, n_bootstrap=0, **ask)
