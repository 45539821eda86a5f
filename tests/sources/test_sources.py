"""Producer calls and the ledger against closed forms and planted truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from crs_sc import keys
from crs_sc.core.ambient import ambient_rejections
from crs_sc.errors import InputError, MissingKeyError
from crs_sc.sources import call_producers, ledger, ledger_by_condition, producers, production
from crs_sc.sources.ledger import SampleSources, burst_sizes, ratio, share_intervals
from crs_sc.sources.producers import call_states, needed_umi, production_rate

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata as ad


@pytest.fixture(scope="module")
def simulated(cohort: Callable) -> Callable:
    """Two samples of 600 cells; IL6 from half of the monocytes, ambient RNA everywhere."""

    def made(seed: int = 0, *, rho: float = 0.1) -> tuple[ad.AnnData, np.ndarray]:
        rng, n = np.random.default_rng(seed), 1200
        population = np.where(np.arange(n) % 3 == 0, "Classical monocyte", "CD4 T")
        sample = np.where(np.arange(n) < n // 2, "a1", "b1")
        produces = (population == "Classical monocyte") & (rng.random(n) < 0.5)
        native = np.zeros((n, 3))
        native[:, 1:] = rng.poisson([600.0, 1400.0], size=(n, 2))
        native[produces, 0] = rng.poisson(12, size=int(produces.sum())) + 1
        profile = native.sum(axis=0) / native.sum()
        ambient = rng.poisson(rho / (1 - rho) * native.sum(axis=1, keepdims=True) * profile)
        obs = {"population": population, "sample": sample}
        genes = ["IL6", "LYZ", "ACTB"]
        return cohort(native + ambient, genes, obs, fraction=rho, profile=profile), native[:, 0]

    return made


def test_rejections_are_benjamini_hochberg_of_poisson_p_within_the_sample() -> None:
    rng = np.random.default_rng(1)
    counts = rng.poisson(1.0, 400)
    expected = rng.gamma(2.0, 0.3, 400)
    samples = rng.integers(3, size=400)
    found = ambient_rejections(counts, expected, samples, alpha=0.05)
    for sample in range(3):
        mine = samples == sample
        p = np.where(counts[mine] > 0, stats.poisson.sf(counts[mine] - 1, expected[mine]), 1.0)
        np.testing.assert_array_equal(found[mine], stats.false_discovery_control(p) <= 0.05)
    assert 0 < found.sum() < (counts > 0).sum()


def test_a_single_umi_is_called_only_where_ambient_cannot_be_the_source() -> None:
    samples = np.zeros(1000, dtype=int)
    counts = np.zeros(1000, dtype=int)
    counts[0] = 1
    assert ambient_rejections(counts, np.full(1000, 1e-7), samples, alpha=0.05)[0]
    assert not ambient_rejections(counts, np.full(1000, 1e-2), samples, alpha=0.05)[0]


def test_no_ambient_means_every_umi_is_production() -> None:
    counts = np.array([0, 1, 3])
    found = ambient_rejections(counts, np.zeros(3), np.zeros(3, dtype=int), alpha=0.05)
    np.testing.assert_array_equal(found, [False, True, True])


def test_a_cell_without_umi_is_negative_only_if_deep_enough() -> None:
    depth = np.array([1000.0, 20_000.0, 20_000.0, 20_000.0])
    states = call_states(
        np.array([0, 0, 2, 9]), depth, np.array([False, False, False, True]),
        rate=2e-4, max_missed=0.05,
    )  # fmt: skip
    names = [keys.PRODUCER_STATES[i] for i in states]
    # exp(-2e-4 * 1000) = 0.82 > 0.05, exp(-2e-4 * 20000) = 0.018 < 0.05.
    assert names == ["undetermined", "negative", "ambient_compatible", "producer"]


def test_typical_rate_is_learnt_from_enough_producers_only() -> None:
    counts, depth = np.full(20, 4), np.full(20, 1000.0)
    all_of_them = np.ones(20, dtype=bool)
    assert production_rate(counts, depth, all_of_them, fallback=1e-4) == pytest.approx(4e-3)
    few = np.arange(20) < 3
    assert production_rate(counts, depth, few, fallback=1e-4) == 1e-4


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=12))
def test_shares_add_up_to_one_or_are_missing(values: list[float]) -> None:
    shares = ratio(np.array(values), np.sum(values))
    if sum(values) > 0:
        assert shares.sum() == pytest.approx(1)
        assert (shares >= 0).all()
    else:
        assert np.isnan(shares).all()


def test_ledger_finds_the_planted_source_through_the_ambient(simulated: Callable) -> None:
    adata, native = simulated(0)
    table = ledger(adata, genes=["IL6"])
    assert list(table.columns) == keys.LEDGER_TABLE.names
    mono = table[table["population"] == "Classical monocyte"]
    t_cells = table[table["population"] == "CD4 T"]
    raw_t = t_cells["umi"].sum() / table["umi"].sum()
    assert raw_t > 0.05  # ambient RNA is there to be removed
    assert (mono["share"] > 0.98).all()
    assert table["corrected_umi"].sum() == pytest.approx(native.sum(), rel=0.05)
    np.testing.assert_allclose(table.groupby("sample")["share"].sum(), 1.0)
    np.testing.assert_allclose(mono["enrichment"], mono["share"] / mono["cell_share"])


def test_producers_are_called_with_few_false_discoveries(simulated: Callable) -> None:
    adata, native = simulated(3)
    call_producers(adata, genes=["IL6"])
    called = (adata.obsm["producer_state"]["IL6"] == "producer").to_numpy()
    assert (native[called] == 0).mean() <= 0.05
    assert called[native > 0].mean() > 0.9
    table = producers(adata)
    assert list(table.columns) == keys.PRODUCERS_TABLE.names
    assert table["n_producers"].sum() == called.sum()
    row = table.iloc[0]
    interval = stats.binomtest(int(row["n_producers"]), int(row["n_cells"])).proportion_ci(
        method="wilson"
    )
    assert row["ci_low"] == pytest.approx(interval.low)
    assert row["ci_high"] == pytest.approx(interval.high)


def test_silent_monocytes_have_no_producers_whatever_the_ambient_holds(cohort: Callable) -> None:
    rng = np.random.default_rng(5)
    native = np.column_stack([np.zeros(800), rng.poisson(900, 800), rng.poisson(1500, 800)])
    profile = np.array([2e-3, 0.4, 0.598])
    ambient = rng.poisson(0.15 * native.sum(axis=1, keepdims=True) * profile)
    adata = cohort(
        native + ambient,
        ["IL6", "LYZ", "ACTB"],
        {"population": ["Classical monocyte"] * 800, "sample": "a1"},
        fraction=0.15 / 1.15,
        profile=profile,
    )
    call_producers(adata, genes=["IL6"])
    state = adata.obsm["producer_state"]["IL6"]
    assert (state == "ambient_compatible").sum() > 100
    assert (state == "producer").sum() <= 4


def test_absent_population_has_a_row_and_missing_gene_a_note(cohort: Callable) -> None:
    counts = np.array([[5, 10], [0, 10], [3, 10]])
    adata = cohort(
        counts, ["IL6", "ACTB"], {"population": ["NK", "B", "NK"], "sample": ["a1", "a1", "b1"]}
    )
    call_producers(adata, genes=["IL6", "CSF2"])
    table = producers(adata)
    row = table[(table["population"] == "B") & (table["sample"] == "b1")].iloc[0]
    assert row["n_cells"] == 0
    assert np.isnan(row["producer_fraction"])
    assert any("CSF2" in note for note in adata.uns[keys.UNS]["notes"])


def test_sampling_weights_undo_enrichment(cohort: Callable) -> None:
    counts = np.array([[4, 10]] * 6 + [[2, 10]] * 2)
    populations = ["NK"] * 6 + ["B"] * 2
    adata = cohort(counts, ["IL6", "ACTB"], {"population": populations, "sample": "a1"})
    adata.obs["sampling_weight"] = [1.0] * 6 + [6.0] * 2
    table = ledger(adata, genes=["IL6"], weight_key="sampling_weight").set_index("population")
    assert table.loc["B", "share"] == pytest.approx(24 / 48)
    assert table.loc["B", "cell_share"] == pytest.approx(12 / 18)
    assert table.loc["B", "umi"] == 4
    adata.obs["sampling_weight"] = -1.0
    with pytest.raises(InputError, match="positive"):
        ledger(adata, genes=["IL6"], weight_key="sampling_weight")


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000))
def test_order_of_cells_does_not_matter(simulated: Callable, seed: int) -> None:
    adata, _ = simulated(0)
    order = np.random.default_rng(seed).permutation(adata.n_obs)
    pd.testing.assert_frame_equal(
        ledger(adata, genes=["IL6"]), ledger(adata[order].copy(), genes=["IL6"])
    )


def test_condition_means_and_bootstrap() -> None:
    table = pd.DataFrame(
        {
            "gene": "IL6",
            "population": ["A", "B"] * 4,
            "sample": np.repeat(["s1", "s2", "s3", "s4"], 2),
            "subject": np.repeat(["m1", "m1", "m2", "m3"], 2),
            "condition": np.repeat(["x", "x", "x", "y"], 2),
            "share": [0.8, 0.2, 0.6, 0.4, 0.9, 0.1, np.nan, np.nan],
            "cell_share": [0.5, 0.5] * 4,
        }
    )
    table = table.assign(ci_low=table["share"], ci_high=table["share"])
    found = ledger_by_condition(table).set_index(["condition", "population"])
    # m1 is one subject with the mean of its two libraries.
    assert found.loc[("x", "A"), "share"] == pytest.approx((0.7 + 0.9) / 2)
    assert found.loc[("x", "A"), "n_subjects"] == 2
    # Two subjects say next to nothing about the spread of subjects.
    assert found.loc[("x", "A"), "ci_low"] == 0
    assert found.loc[("x", "A"), "ci_high"] == 1
    assert found.loc[("y", "A"), "n_subjects"] == 0
    assert np.isnan(found.loc[("y", "A"), "share"])


def test_condition_interval_is_close_to_that_of_student() -> None:
    values = np.array([0.62, 0.7, 0.66, 0.75, 0.58, 0.69])
    names = [f"m{i}" for i in range(6)]
    table = pd.DataFrame(
        {"gene": "IL6", "population": "A", "sample": names, "subject": names, "condition": "x",
         "share": values, "cell_share": 0.5, "ci_low": values, "ci_high": values}
    )  # fmt: skip
    found = ledger_by_condition(table, n_bootstrap=20_000).iloc[0]
    low, high = stats.t.interval(0.95, 5, values.mean(), stats.sem(values))
    assert found["ci_low"] == pytest.approx(low, abs=0.01)
    assert found["ci_high"] == pytest.approx(high, abs=0.01)


def test_condition_interval_is_never_narrower_than_the_counting_noise() -> None:
    names = ["m1", "m2", "m3", "m4"]
    table = pd.DataFrame(
        {"gene": "IL6", "population": "A", "sample": names, "subject": names, "condition": "x",
         "share": 0.0, "cell_share": 0.5, "ci_low": 0.0, "ci_high": 0.2}
    )  # fmt: skip
    found = ledger_by_condition(table).iloc[0]
    assert found["ci_low"] == 0
    assert found["ci_high"] == pytest.approx(0.2 / np.sqrt(4))


def sample_of(umi: list[float], ambient: list[float], **changes: object) -> SampleSources:
    values = {
        "umi": np.array(umi, dtype=float),
        "ambient": np.array(ambient, dtype=float),
        "made": np.ones(len(umi), dtype=bool),
        "burst": np.full(len(umi), 5.0),
        "weight": np.ones(len(umi)),
        "ambient_error": 0.0,
        "n_samples": 1,
    }
    return SampleSources(**(values | changes))


@pytest.mark.parametrize("n_producers", [(30, 10), (9, 3), (45, 1)])
def test_share_interval_covers_the_animal_not_only_its_sample(n_producers: tuple[int, int]) -> None:
    # Two populations make it; cells are drawn, a producer has a burst of UMI.
    truth = n_producers[0] / sum(n_producers)
    covered = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        bursts = [rng.poisson(4, rng.poisson(n)) + 1 for n in n_producers]
        umi = np.array([[b.sum()] for b in bursts], dtype=float)
        squared = np.array([[(b**2).sum()] for b in bursts], dtype=float)
        silent = np.zeros((2, 1))
        burst = burst_sizes(umi, squared, silent, np.full((2, 1), 1e6), umi.ravel() > 0)
        sample = sample_of(umi.ravel(), [0, 0], burst=burst, made=umi.ravel() > 0)
        low, high = share_intervals(sample, n_draws=1000, level=0.95, rng=rng)
        if np.isfinite(low[0]):
            covered.append(low[0] <= truth <= high[0])
    assert 0.92 <= np.mean(covered) <= 0.99


def test_share_interval_begins_at_zero_where_the_ambient_could_be_all() -> None:
    sample = sample_of([200, 9], [5, 8], ambient_error=0.1)
    low, high = share_intervals(sample, n_draws=1000, level=0.95, rng=np.random.default_rng(0))
    assert low[1] == 0
    assert 0 < high[1] < 0.2
    assert low[0] > 0.8
    assert high[0] == 1


def test_an_arm_without_production_bounds_the_share_of_each_sample() -> None:
    """The more samples of the arm are silent, the less a sample of it can hide."""
    ends = []
    for n_samples in (1, 8):
        sample = sample_of([40, 0], [0, 0], made=np.array([True, False]), n_samples=n_samples)
        _, high = share_intervals(sample, n_draws=4000, level=0.95, rng=np.random.default_rng(0))
        ends.append(high[1])
    assert ends[1] < ends[0] < 0.5


def test_burst_is_the_variance_over_the_mean_of_a_binomial_number_of_producers() -> None:
    umi = np.repeat([8.0, 0.0], [165, 135])
    found = burst_sizes(
        np.array([[umi.sum()]]), np.array([[(umi**2).sum()]]), np.zeros((1, 1)),
        np.array([[300.0]]), np.array([True]),
    )  # fmt: skip
    assert found[0] == pytest.approx(8 * (1 - 0.55))


def test_a_population_that_the_ambient_explains_has_no_share(simulated: Callable) -> None:
    adata, _ = simulated(0)
    call_producers(adata, genes=["IL6"])
    state = production(producers(adata)).set_index(["population", "condition"])["state"]
    table = ledger(adata, genes=["IL6"])
    sources = table.set_index(["population", "condition"])["share"] > 0
    pd.testing.assert_series_equal(
        sources, (state == "producer").reindex(sources.index), check_names=False
    )
    silent = table[table["share"] == 0]
    assert len(silent) == 2
    np.testing.assert_array_equal(silent["ambient_umi"], silent["umi"])
    assert (silent["umi"] > 0).all()
    known = np.maximum(0, table["umi"] - table["ambient_umi"])
    np.testing.assert_allclose(table["corrected_umi"], known)


def test_counts_corrected_before_can_still_be_ambient(cohort: Callable) -> None:
    """Of corrected counts the fraction is 0 and the bound is what still shows."""
    rng = np.random.default_rng(0)
    n = 1000
    is_source = np.arange(n) < 300
    counts = np.column_stack([is_source * rng.poisson(6, n), np.full(n, 2000)])
    counts[rng.choice(np.flatnonzero(~is_source), 3, replace=False), 0] = 1
    adata = cohort(
        counts,
        ["IL6", "ACTB"],
        {"population": np.where(is_source, "Mono", "T"), "sample": "a1"},
        upper=0.02,
    )
    call_producers(adata, genes=["IL6"])
    state = production(producers(adata)).set_index("population")["state"]
    assert state.to_dict() == {"Mono": "producer", "T": "ambient_compatible"}
    called = adata.obsm["producer_state"]["IL6"] == "producer"
    assert not called[~is_source].any()
    assert called[is_source].mean() > 0.9


def test_needed_umi_is_the_poisson_quantile() -> None:
    rng = np.random.default_rng(0)
    expected, cut = rng.gamma(1.0, 2.0, 500), rng.uniform(1e-6, 0.2, 500)
    found = needed_umi(expected, cut)
    np.testing.assert_array_equal(found, np.maximum(stats.poisson.isf(cut, expected) + 1, 1))


def test_producers_missed_at_this_depth_are_bounded(cohort: Callable, simulated: Callable) -> None:
    adata, native = simulated(3)
    call_producers(adata, genes=["IL6"])
    table = producers(adata)
    made = pd.Series(native > 0).groupby(adata.obs["population"].to_numpy()).sum()
    upper = table.groupby("population")["n_producers_upper"].sum()
    assert (upper >= made).all()
    assert (table["power"].dropna() > 0.9).all()
    shallow = cohort(
        np.tile([[0, 20]], (50, 1)), ["IL6", "ACTB"], {"population": ["NK"] * 50, "sample": "a1"}
    )
    call_producers(shallow, genes=["IL6"])
    row = producers(shallow).iloc[0]
    assert row["power"] < 0.01
    assert row["n_producers_upper"] == row["n_cells"]


def test_errors_say_what_to_do(cohort: Callable) -> None:
    adata = cohort(np.array([[1, 2]]), ["IL6", "ACTB"], {"population": ["B"], "sample": "a1"})
    with pytest.raises(InputError, match="None of the genes NOPE"):
        call_producers(adata, genes=["NOPE"])
    with pytest.raises(MissingKeyError, match="call_producers first"):
        producers(adata)
    del adata.uns[keys.UNS]
    with pytest.raises(MissingKeyError, match="estimate_ambient"):
        ledger(adata, genes=["IL6"])
