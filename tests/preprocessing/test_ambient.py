"""Ambient RNA, against planted contamination and the profile of real empty droplets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

from crs_sc import genesets, keys
from crs_sc.errors import InputError
from crs_sc.preprocessing import call_species, estimate_ambient, quality_control, select_species
from crs_sc.preprocessing._contamination import (
    Rate,
    agreeing_cells,
    combine_evidence,
    combine_rates,
    largest_count,
    panel_rate,
    relative_lysis,
)
from crs_sc.preprocessing.ambient import MARKERS, PANELS, from_species
from crs_sc.preprocessing.species import SpeciesAmbient, ambient_scaling

if TYPE_CHECKING:
    from pathlib import Path

MONOCYTE = {"LYZ": 0.012, "S100A8": 0.015, "S100A9": 0.015}
T_CELL = {"CD3D": 8e-4, "CD3E": 6e-4, "CD3G": 3e-4, "TRAC": 8e-4, "TRBC1": 4e-4, "CD2": 4e-4}
B_CELL = {"IGKC": 0.006, "IGHM": 0.003, "MS4A1": 8e-4, "CD79A": 1.2e-3, "CD79B": 6e-4}
NK_CELL = {"NKG7": 0.003, "GNLY": 0.004, "KLRD1": 6e-4}
KINDS = (MONOCYTE, T_CELL, B_CELL, NK_CELL)
NAMES = [gene for kind in KINDS for gene in kind] + [f"G{i}" for i in range(300)]
MOUSE = {"LYZ": "Lyz2", "CD2": "Cd2"}


def sample(
    rho: float, *, lysis: float = 1.0, seed: int = 0, n: int = 400, shares: tuple[float, ...] = ()
) -> tuple[ad.AnnData, pd.Series, float]:
    """Cells with 4 % doublets and a known ambient RNA: the data, its profile and its true share."""
    rng = np.random.default_rng(seed)
    rates = rng.lognormal(0, 1.5, len(NAMES)) * rng.lognormal(0, 0.5, (4, len(NAMES)))
    rates[:, :-300] = 0
    rates /= rates.sum(axis=1, keepdims=True)
    for index, markers in enumerate(KINDS):
        rates[index] *= 1 - sum(markers.values())
        rates[index, [NAMES.index(gene) for gene in markers]] = list(markers.values())
    kind = rng.choice(4, n, p=shares or (0.35, 0.4, 0.15, 0.1))
    mean = (
        rates[kind] * (np.array([6000, 2500, 2500, 2500])[kind] * rng.lognormal(0, 0.4, n))[:, None]
    )
    double = rng.random(n) < 0.04
    mean[double] += mean[rng.permutation(n)[double]]
    native = rng.poisson(mean * rng.gamma(5, 0.2, mean.shape))
    profile = np.where(kind == 0, lysis, 1.0) @ native
    profile = profile / profile.sum()
    soup = rng.poisson(native.sum(axis=1, keepdims=True) * rho / (1 - rho) * profile)
    adata = ad.AnnData(
        sparse.csr_matrix(native + soup, dtype=np.float32), var=pd.DataFrame(index=NAMES)
    )
    adata.layers[keys.COUNTS] = adata.X.copy()
    adata.obs[keys.SAMPLE] = "s0"
    return adata, pd.Series(profile, index=NAMES), float(soup.sum() / (native + soup).sum())


def contamination(adata: ad.AnnData) -> pd.Series:
    return adata.uns[keys.UNS][keys.CONTAMINATION].iloc[0]


@pytest.mark.parametrize("rho", [0.0, 0.05, 0.1, 0.2])
@pytest.mark.parametrize("lysis", [1.0, 3.0, 0.33])
def test_planted_contamination_is_recovered_from_pooled_cells(rho: float, lysis: float) -> None:
    errors, covered = [], []
    for seed in range(4):
        adata, _, truth = sample(rho, lysis=lysis, seed=seed)
        estimate_ambient(adata)
        found = contamination(adata)
        assert found["ambient_source"] == "pooled_cells; immunoglobulin, myeloid, t_cell"
        errors.append(found["ambient_fraction"] - truth)
        covered.append(found["ambient_lower"] <= truth <= found["ambient_upper"])
    assert np.abs(np.mean(errors)) < 0.01
    assert np.abs(errors).max() < 0.03
    assert np.mean(covered) >= 0.75


@pytest.mark.parametrize("rho", [0.0, 0.05, 0.1, 0.2])
def test_empty_droplets_give_profile_and_fraction(rho: float) -> None:
    adata, profile, truth = sample(rho, lysis=3.0, seed=1)
    estimate_ambient(adata, empty_profiles={"s0": profile * 1e5})
    np.testing.assert_allclose(adata.varm[keys.AMBIENT_PROFILE]["s0"], profile)
    assert contamination(adata)["ambient_fraction"] == pytest.approx(truth, abs=0.01)
    assert contamination(adata)["ambient_source"].startswith("empty_droplets; ")


def test_pool_is_weighted_by_lysis() -> None:
    adata, profile, _ = sample(0.1, lysis=3.0, n=1500)
    plain = adata.layers[keys.COUNTS].sum(axis=0).A1
    plain = plain / plain.sum()
    estimate_ambient(adata)
    found = adata.varm[keys.AMBIENT_PROFILE]["s0"]
    myeloid = list(MONOCYTE)
    assert found[myeloid].sum() == pytest.approx(profile[myeloid].sum(), rel=0.08)
    assert plain[:3].sum() < 0.8 * profile[myeloid].sum()
    assert found.sum() == pytest.approx(1)


def test_sample_without_evidence_says_so() -> None:
    adata, _, _ = sample(0.1, shares=(0.0, 1.0, 0.0, 0.0))
    estimate_ambient(adata, assumed_fraction=0.07)
    assert contamination(adata).tolist() == [0.07, 0.5, "pooled_cells; assumed", 0.0]


def test_samples_do_not_touch_each_other() -> None:
    first, second = sample(0.02, seed=1)[0], sample(0.2, seed=2)[0]
    second.obs[keys.SAMPLE] = "s1"
    both = ad.concat([second, first], index_unique="-")
    for adata in (first, second, both):
        estimate_ambient(adata)
    table = both.uns[keys.UNS][keys.CONTAMINATION]
    assert list(table.index) == ["s0", "s1"]
    pd.testing.assert_series_equal(table.loc["s0"], contamination(first))
    pd.testing.assert_series_equal(table.loc["s1"], contamination(second))
    np.testing.assert_allclose(
        both.varm[keys.AMBIENT_PROFILE]["s1"], second.varm[keys.AMBIENT_PROFILE]["s1"]
    )


def test_cells_of_the_other_species_are_no_part_of_the_pool() -> None:
    adata, _, _ = sample(0.1)
    alone = adata.copy()
    estimate_ambient(alone)
    mouse = adata[:50].copy()
    mouse.layers[keys.COUNTS] = mouse.layers[keys.COUNTS] * 7
    both = ad.concat([adata, mouse], index_unique="-")
    both.obs[keys.SPECIES] = pd.Categorical(["human"] * adata.n_obs + ["mouse"] * 50)
    both.obs[keys.QC_STATUS] = np.where(both.obs[keys.SPECIES] == "human", keys.PASS, "x")
    estimate_ambient(both)
    pd.testing.assert_series_equal(contamination(both), contamination(alone))


def test_mouse_genes_work() -> None:
    adata, _, truth = sample(0.1)
    adata.var_names = [MOUSE.get(name, name.capitalize()) for name in NAMES]
    estimate_ambient(adata, organism="mouse")
    assert contamination(adata)["ambient_source"].endswith("immunoglobulin, myeloid, t_cell")
    assert contamination(adata)["ambient_fraction"] == pytest.approx(truth, abs=0.02)


def test_no_panel_holds_a_target_cytokine() -> None:
    used = {gene for genes in (PANELS | MARKERS).values() for gene in genes}
    assert not used & set(genesets.TARGET_CYTOKINES)


def test_profile_must_fit_the_data() -> None:
    adata, profile, _ = sample(0.1)
    with pytest.raises(InputError, match="no UMI of the genes"):
        estimate_ambient(adata, empty_profiles={"s0": profile.add_prefix("GRCh38_")})
    with pytest.raises(InputError, match="negative"):
        estimate_ambient(adata, empty_profiles={"s0": -profile})
    with pytest.raises(InputError, match="assumed_fraction"):
        estimate_ambient(adata, assumed_fraction=2)


def test_cut_is_the_largest_count_that_is_not_significant() -> None:
    mean = np.array([0.01, 0.3, 2.0, 40.0])
    cut = largest_count(mean)
    assert (stats.poisson.sf(cut - 1, mean) > 0.05).all()
    assert (stats.poisson.sf(cut, mean) <= 0.05).all()


@pytest.mark.parametrize("depth", [0.3, 2.0, 50.0])
def test_truncation_does_not_bias_the_rate(depth: float) -> None:
    rng = np.random.default_rng(0)
    exposure = np.full(40_000, depth)
    counts = rng.poisson(0.4 * exposure).astype(float)
    rate = panel_rate(counts, exposure, max_fraction=0.5)
    assert rate.estimate == pytest.approx(0.4, rel=0.05)
    assert rate.low < rate.estimate < rate.high


def test_rate_interval_is_the_exact_poisson_one_where_nothing_is_cut() -> None:
    exposure = np.full(10, 100.0)
    counts = np.zeros(10)
    counts[0] = 4
    rate = panel_rate(counts, exposure, max_fraction=0.5)
    assert rate.estimate == pytest.approx(4 / 1000, rel=1e-3)
    assert rate.low == pytest.approx(stats.chi2.ppf(0.025, 8) / 2 / 1000, rel=1e-3)
    assert rate.high == pytest.approx(stats.chi2.ppf(0.975, 10) / 2 / 1000, rel=1e-3)
    assert panel_rate(np.zeros(10), exposure, max_fraction=0.5).estimate == 0


def test_expressing_cells_do_not_count() -> None:
    rng = np.random.default_rng(0)
    exposure = np.full(500, 20.0)
    counts = rng.poisson(0.1 * exposure).astype(float)
    counts[:50] += 30
    assert panel_rate(counts, exposure, max_fraction=0.5).estimate == pytest.approx(0.1, abs=0.01)


def test_panels_are_averaged_and_a_gross_one_is_left_out() -> None:
    rates = {
        "a": Rate(0.1, 0.09, 0.11, 100, 1e3, 50, 0.0),
        "b": Rate(0.06, 0.05, 0.07, 60, 1e3, 50, 0.0),
    }
    (estimate, lower, upper), used = combine_rates(rates, {"a": 1.0, "b": 3.0}, max_ratio=3)
    assert estimate == pytest.approx(0.07)
    assert upper == pytest.approx(0.07 + 0.01 * np.hypot(0.25, 0.75))
    assert lower == pytest.approx(0.07 - 0.01 * np.hypot(0.25, 0.75))
    assert used == ["a", "b"]
    rates["c"] = Rate(0.45, 0.4, 0.5, 400, 1e3, 50, 0.0)
    assert combine_rates(rates, {"a": 1.0, "b": 3.0, "c": 1.0}, max_ratio=3)[1] == ["a", "b"]
    assert combine_rates(rates, {"a": 1.0, "b": 3.0, "c": 9.0}, max_ratio=3)[1] == ["a", "b", "c"]


def test_lysis_is_shrunk_by_its_error() -> None:
    assert relative_lysis(Rate(0.2, 0.199, 0.201, 1, 1, 50, 0.0), 0.1, most=3) == pytest.approx(
        2, abs=0.01
    )
    assert relative_lysis(Rate(0.12, 0.02, 0.3, 1, 1, 50, 0.0), 0.1, most=3) == 1
    assert relative_lysis(Rate(0.9, 0.89, 0.91, 1, 1, 50, 0.0), 0.1, most=3) == 3


def test_real_soup_of_pbmc4k(shared_data: Path) -> None:
    adata = ad.read_h5ad(shared_data / "pbmc4k_soupx_2170.h5ad")
    adata.layers[keys.COUNTS] = adata.X
    adata.obs[keys.SAMPLE] = "s"
    measured = adata.var["soup_est"]
    estimate_ambient(adata)
    pooled = contamination(adata)
    profile = adata.varm[keys.AMBIENT_PROFILE]["s"]
    assert np.corrcoef(profile, measured)[0, 1] > 0.95
    estimate_ambient(adata, empty_profiles={"s": measured})
    droplets = contamination(adata)
    assert 0.03 < droplets["ambient_fraction"] < 0.09
    assert pooled["ambient_fraction"] == pytest.approx(droplets["ambient_fraction"], abs=0.02)
    assert pooled["ambient_upper"] > droplets["ambient_fraction"]


def test_kang_contamination_is_small(shared_data: Path) -> None:
    adata = ad.read_h5ad(shared_data / "kang_ifnb_3800.h5ad")
    adata.layers[keys.COUNTS] = adata.X
    estimate_ambient(adata)
    table = adata.uns[keys.UNS][keys.CONTAMINATION]
    known = table.loc[~table["ambient_source"].str.endswith("assumed")]
    assert len(known) >= 14
    assert known["ambient_fraction"].max() < 0.1


def test_declared_counts_are_not_corrected_twice() -> None:
    adata, _, _ = sample(0.1)
    estimate_ambient(adata)
    measured = contamination(adata)
    estimate_ambient(adata, corrected=True)
    found = contamination(adata)
    assert found["ambient_fraction"] == found["ambient_lower"] == 0
    assert found["ambient_source"] == "declared_corrected"
    assert found["ambient_upper"] == measured["ambient_upper"]
    assert "declared corrected" in adata.uns[keys.UNS][keys.NOTES][0]
    clean, _, _ = sample(0.0)
    estimate_ambient(clean, corrected=True)
    assert keys.NOTES not in clean.uns[keys.UNS]


def test_sample_without_evidence_takes_the_upper_quartile_of_the_others() -> None:
    parts = [sample(rho, seed=seed, n=200)[0] for seed, rho in enumerate((0.01, 0.02, 0.03))]
    parts.append(sample(0.02, shares=(0.0, 1.0, 0.0, 0.0), n=50)[0])
    for index, part in enumerate(parts):
        part.obs[keys.SAMPLE] = f"s{index}"
    cohort = ad.concat(parts, index_unique="-")
    estimate_ambient(cohort)
    table = cohort.uns[keys.UNS][keys.CONTAMINATION]
    measured = table.iloc[:3]
    assert table.loc["s3", "ambient_fraction"] == measured["ambient_fraction"].quantile(0.75)
    assert table.loc["s3", "ambient_upper"] == measured["ambient_upper"].max()
    assert table.loc["s3", "ambient_source"].endswith("3 samples, assumed")
    assert "upper quartile" in cohort.uns[keys.UNS][keys.NOTES][0]


def mouse_macrophages_and_human_t_cells(rho: float) -> tuple[ad.AnnData, float]:
    """Cells of two species that share ambient RNA; data and truth for the mouse genome."""
    rng = np.random.default_rng(0)
    background = rng.dirichlet(np.full(300, 0.5), 2)
    rates = np.zeros((2, 2 * len(NAMES)))
    for row, markers in enumerate((MONOCYTE, T_CELL)):
        start = row * len(NAMES)
        rates[row, start + len(NAMES) - 300 : start + len(NAMES)] = background[row]
        rates[row] *= 1 - sum(markers.values())
        rates[row, [start + NAMES.index(gene) for gene in markers]] = list(markers.values())
    kind = rng.choice(2, 400, p=(0.6, 0.4))
    native = rng.poisson(rates[kind] * (3000 * rng.lognormal(0, 0.3, 400))[:, None])
    profile = native.sum(axis=0) / native.sum()
    soup = rng.poisson(native.sum(axis=1, keepdims=True) * rho / (1 - rho) * profile)
    mouse = [f"mm10___{MOUSE.get(name, name.capitalize())}" for name in NAMES]
    var = pd.DataFrame(
        {keys.GENOME: np.repeat(["mouse", "human"], len(NAMES))},
        index=mouse + [f"GRCh38_{name}" for name in NAMES],
    )
    adata = ad.AnnData(sparse.csr_matrix(native + soup, dtype=np.float32), var=var)
    adata.layers[keys.COUNTS] = adata.X.copy()
    adata.obs[[keys.SAMPLE, keys.SUBJECT, keys.CONDITION]] = "s"
    seen = (kind == 0)[:, None] & (np.arange(2 * len(NAMES)) < len(NAMES))
    return adata, float(soup[seen].sum() / (native + soup)[seen].sum())


@pytest.mark.parametrize("rho", [0.0, 0.05, 0.2])
def test_human_cells_tell_the_soup_of_mouse_macrophages(rho: float) -> None:
    adata, truth = mouse_macrophages_and_human_t_cells(rho)
    call_species(adata, organism="mouse+human")
    assert (adata.obs[keys.SPECIES] != "mixed").all()
    mouse = select_species(adata, organism="mouse+human")
    quality_control(mouse)
    estimate_ambient(mouse, organism="mouse+human")
    found = contamination(mouse)
    assert found["ambient_source"] == "pooled_cells; species"
    assert found["ambient_fraction"] == pytest.approx(truth, rel=0.1, abs=1e-4)
    assert found["ambient_lower"] <= truth <= found["ambient_upper"]


def test_soup_by_species_spans_both_ways_in_which_soup_may_scale() -> None:
    ambient = SpeciesAmbient(0.5, 0.1, 50, 10, 1000.0, 2000.0, scaling=0.5, scaling_error=np.inf)
    found = from_species(ambient)
    assert found == pytest.approx((0.2 * 2**0.5, 0.85 * 0.2 - 0.008, 1.15 * 0.4))
    assert from_species(ambient._replace(n_other=9)) is None
    found = from_species(ambient._replace(scaling=1.0, scaling_error=0.05))
    assert found == pytest.approx((0.2, 0.85 * 0.2 - 0.008, 1.15 * 0.2 * 2**0.1))


@pytest.mark.parametrize("power", [0.0, 0.4, 1.0])
def test_growth_of_the_soup_with_the_cell_is_found(power: float) -> None:
    rng = np.random.default_rng(0)
    groups = []
    for level in (0.05, 0.2):
        size = 3000 * rng.lognormal(0, 0.4, 150)
        groups.append((rng.poisson(level * 3000 * (size / 3000) ** power).astype(float), size))
    found, error = ambient_scaling(groups)
    assert found == pytest.approx(power, abs=3 * error + 1e-9)
    assert 0.005 < error < 0.05
    assert ambient_scaling([(np.zeros(5), np.ones(5))]) == (0.5, np.inf)


def test_groups_that_make_the_panel_are_left_out() -> None:
    rng = np.random.default_rng(0)
    exposure = np.full(300, 10.0)
    counts = rng.poisson(0.1 * exposure).astype(float)
    first, second, third = (np.arange(300) // 100 == k for k in range(3))
    counts[third] = rng.poisson(0.45 * exposure[third])
    settings = {"max_fraction": 0.5, "max_ratio": 2.0}
    believed = agreeing_cells(counts, exposure, [third, first, second], **settings)
    np.testing.assert_array_equal(believed, first | second)
    counts[third] = rng.poisson(0.15 * exposure[third])
    assert agreeing_cells(counts, exposure, [third, first, second], **settings).all()


@pytest.mark.parametrize("doublets", [0.0, 0.1, 0.2])
def test_doublets_do_not_hold_the_cut_open(doublets: float) -> None:
    rng = np.random.default_rng(0)
    exposure = rng.uniform(20, 80, 600)
    counts = rng.poisson(0.1 * exposure).astype(float)
    double = rng.random(600) < doublets
    # Half of each is a cell that makes the panel.
    counts[double] = rng.poisson(0.5 * exposure[double])
    rate = panel_rate(counts, exposure, max_fraction=0.5)
    assert rate.estimate == pytest.approx(0.1, abs=0.006)
    assert rate.refused == pytest.approx(double.mean(), abs=0.03)


def test_two_kinds_of_evidence_are_weighed_and_the_lower_believed_in_conflict() -> None:
    narrow, wide = (0.10, 0.09, 0.11), (0.13, 0.08, 0.18)
    (mean, low, high), *used = combine_evidence(narrow, wide)
    weight = 0.02**-2 / (0.02**-2 + 0.1**-2)
    assert mean == pytest.approx(weight * 0.10 + (1 - weight) * 0.13)
    assert 0.09 < low < mean < high < 0.112
    assert used == [True, True]
    low_one, high_one = (0.05, 0.04, 0.06), (0.3, 0.2, 0.4)
    assert combine_evidence(high_one, low_one) == (low_one, False, True)
    assert combine_evidence(low_one, high_one) == (low_one, True, False)


def test_profile_of_two_genomes_is_found_under_the_names_of_the_file() -> None:
    adata, profile, _ = sample(0.1)
    adata.var[keys.ORIGINAL_NAME] = [f"GRCh38_{name}" for name in adata.var_names]
    both = pd.concat([0.9 * profile.add_prefix("GRCh38_"), pd.Series({"mm10___Lyz2": 0.1})])
    estimate_ambient(adata, empty_profiles={"s0": both})
    np.testing.assert_allclose(adata.varm[keys.AMBIENT_PROFILE]["s0"], profile)
