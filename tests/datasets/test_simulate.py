from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from crs_sc import genesets, keys
from crs_sc.comparison import Contrast, pseudobulk, shifts
from crs_sc.datasets import simulate_cohort
from crs_sc.datasets.profiles import ARMS, gene_universe, plant
from crs_sc.datasets.sampling import make_world
from crs_sc.datasets.simulate import plan_of
from crs_sc.datasets.truth import shifts_truth
from crs_sc.errors import InputError

SMALL = {"n_subjects_per_arm": 2, "cells_per_sample": 150, "n_background_genes": 200}


@pytest.fixture(scope="module")
def cohort():
    return simulate_cohort(**SMALL, random_state=3)


@pytest.fixture(scope="module")
def two_arms():
    """Few genes, many cells: for what needs numbers."""
    return simulate_cohort(
        arms=("vehicle", "CART"),
        n_subjects_per_arm=2,
        cells_per_sample=1500,
        n_background_genes=50,
        random_state=4,
    )


def human_counts(cohort):
    adata = cohort.adata
    human = adata.var_names.str.startswith("GRCh38_")
    counts = adata[:, human].to_df()
    counts.columns = counts.columns.str.removeprefix("GRCh38_")
    return counts.reset_index(drop=True)


def test_same_seed_gives_the_same_cohort(cohort):
    again = simulate_cohort(**SMALL, random_state=3)
    assert (again.adata.X != cohort.adata.X).nnz == 0
    for name, table in cohort.truth.items():
        pd.testing.assert_frame_equal(table, again.truth[name], check_exact=True)
    other = simulate_cohort(**SMALL, random_state=4)
    assert (other.adata.X != cohort.adata.X).nnz > 0


def test_a_sample_does_not_depend_on_the_arms_that_follow(cohort):
    fewer = simulate_cohort(**SMALL, arms=("vehicle", "CART"), random_state=3)
    shared = cohort.adata[fewer.adata.obs_names]
    assert (shared.X != fewer.adata.X).nnz == 0


def test_cohort_is_what_a_lab_would_have(cohort):
    adata = cohort.adata
    assert list(adata.obs.columns) == ["lib", "mouse", "arm"]
    assert adata.shape[0] == 4 * 2 * 150
    assert adata.obs_names.is_unique
    assert adata.var_names.is_unique
    assert (adata.X.data >= 1).all()
    assert (adata.X.data % 1 == 0).all()
    assert set(adata.obs["arm"].unique()) == set(ARMS)
    assert (adata.obs.groupby("mouse", observed=True)["arm"].nunique() == 1).all()
    assert "Simulated" in adata.uns["description"]
    assert {"GRCh38_CAR", "GRCh38_IL6", "mm10___Il6"} <= set(adata.var_names)


def test_default_size_fits_the_demo():
    genes = gene_universe(plant(plan_of({})), n_background_genes=1000)
    human = genes["species"] == "human"
    assert 1500 <= human.sum() <= 2000
    assert 140 <= (~human).sum() <= 170
    symbols = set(genes["symbol"][human])
    for panel in genesets.cell_type_panels().values():
        assert symbols.issuperset(panel)
    for signature in genesets.signatures().values():
        assert symbols.issuperset(signature)
    assert symbols.issuperset(genesets.TARGET_CYTOKINES)


def test_droplet_kinds_have_the_numbers_asked_for():
    made = simulate_cohort(
        arms=("CART",),
        n_subjects_per_arm=2,
        cells_per_sample=200,
        n_background_genes=0,
        doublet_rate=0.1,
        cross_species_rate=0.02,
        other_species_fraction=0.2,
        low_quality_rate=0.05,
    )
    cells = made.truth["cells"]
    for _, part in cells.groupby("sample"):
        number = part["droplet"].value_counts()
        assert dict(number) == {
            "singlet": 166,
            "doublet": 20,
            "low_quality": 10,
            "cross_species": 4,
        }
        assert (part["species"] == "mouse").sum() == 40
    doublets = cells[cells["droplet"] == "doublet"]
    assert (doublets["population"] != doublets["partner"]).all()
    assert (doublets["partner"] != "Mouse myeloid").all()
    assert (cells.loc[cells["droplet"] == "cross_species", "partner"] == "Mouse myeloid").all()
    assert (cells.loc[cells["droplet"] == "singlet", "partner"] == "").all()


def test_cells_agree_with_the_counts(cohort):
    cells = cohort.truth["cells"]
    n_umi = np.asarray(cohort.adata.X.sum(axis=1)).ravel()
    assert (cells["cell"] == cohort.adata.obs_names).all()
    assert (cells["n_umi"].to_numpy() == n_umi).all()
    assert (cells["sample"].to_numpy() == cohort.adata.obs["lib"].to_numpy()).all()


def test_soup_share_is_the_contamination_within_sampling_error(two_arms):
    cells = two_arms.truth["cells"]
    for _, part in cells.groupby("sample"):
        rho = part["contamination"].iloc[0]
        assert 0.04 <= rho <= 0.12
        native = (part["n_umi"] - part["n_soup_umi"]).sum()
        expected = rho / (1 - rho) * native
        assert abs(part["n_soup_umi"].sum() - expected) < 5 * np.sqrt(expected)


def test_genes_that_a_population_cannot_make_come_from_the_soup_alone(two_arms):
    cells = two_arms.truth["cells"]
    counts = human_counts(two_arms)
    lymphoid = cells["population"].isin(["CD4 T", "CD8 T", "NK", "B", "B-ALL blast"])
    singlet = (cells["droplet"] == "singlet") & (cells["species"] == "human")
    never = ["LYZ", "S100A8", "S100A9", "S100A12"]
    t_cell = ["CD3D", "CD3E", "CD3G", "TRAC"]
    for name, rows in cells[singlet & lymphoid].groupby("sample").groups.items():
        everywhere = counts.loc[cells["sample"] == name]
        rho = cells.loc[rows[0], "contamination"]
        observed = counts.loc[rows, never].to_numpy().sum()
        # Ambient RNA is about the average droplet, so rho * a * N is about what is seen.
        share = (
            everywhere[never].to_numpy().sum() / cells.loc[cells["sample"] == name, "n_umi"].sum()
        )
        expected = rho * share * cells.loc[rows, "n_umi"].sum()
        assert observed == pytest.approx(expected, rel=0.15)
    no_soup = simulate_cohort(
        arms=("CART",),
        n_subjects_per_arm=1,
        cells_per_sample=600,
        n_background_genes=0,
        contamination=(0.0, 0.0),
    )
    cells, counts = no_soup.truth["cells"], human_counts(no_soup)
    singlet = (cells["droplet"] == "singlet") & (cells["species"] == "human")
    is_b = cells["population"] == "B"
    lymphoid = cells["population"].isin(["CD4 T", "CD8 T", "NK", "B", "B-ALL blast", "CAR T"])
    assert counts.loc[singlet & lymphoid, never].to_numpy().sum() == 0
    myeloid = cells["lineage"].isin(["Monocyte", "DC", "B", "NK"])
    assert counts.loc[singlet & myeloid, t_cell].to_numpy().sum() == 0
    assert counts.loc[singlet & ~is_b, ["IGKC", "IGHM", "IGLC2"]].to_numpy().sum() == 0
    assert counts[["HBB", "HBA1"]].to_numpy().sum() == 0
    assert cells["n_soup_umi"].sum() == 0


def test_every_population_shows_its_markers(two_arms):
    cells = two_arms.truth["cells"]
    counts = human_counts(two_arms)
    good = (cells["droplet"] == "singlet") & (cells["species"] == "human")
    rate = counts[good].div(cells.loc[good, "n_umi"], axis=0).groupby(cells["population"][good])
    mean = rate.mean()
    panels = genesets.cell_type_panels()
    for population in mean.index.drop("CAR T"):
        own = mean.loc[:, panels[population]].mean(axis=1)
        others = own.drop([population, "CAR T"])
        assert own[population] > 1.5 * others.max(), population
    median = cells[good].groupby("population")["n_umi"].median()
    assert 1.6 < median["Classical monocyte"] / median["CD4 T"] < 2.6
    assert 2500 < cells.loc[good, "n_umi"].median() < 4000


def test_transgene_has_dropout_and_is_absent_without_car_t(two_arms):
    cells = two_arms.truth["cells"]
    car = human_counts(two_arms)["CAR"] > 0
    is_car_t = (cells["population"] == "CAR T") & (cells["droplet"] == "singlet")
    assert not car[cells["condition"] == "vehicle"].any()
    assert not is_car_t[cells["condition"] == "vehicle"].any()
    assert 0.7 < car[is_car_t].mean() < 0.92


def test_truth_of_the_ledger_adds_up(cohort):
    table = cohort.truth["ledger"]
    assert list(table.columns) == keys.LEDGER_TABLE.names
    assert not table.duplicated(list(keys.LEDGER_TABLE.index)).any()
    assert (table["umi"] == table["ambient_umi"] + table["corrected_umi"]).all()
    sums = table.groupby(["gene", "sample"])[["share", "cell_share"]].sum(min_count=1)
    np.testing.assert_allclose(sums["cell_share"], 1)
    np.testing.assert_allclose(sums["share"].dropna(), 1)
    np.testing.assert_allclose(
        (table["enrichment"] * table["cell_share"]).dropna(),
        table.loc[table["enrichment"].notna(), "share"],
    )


def test_truth_of_the_ledger_agrees_with_counts_and_cells(cohort):
    cells = cohort.truth["cells"]
    counts = human_counts(cohort)
    good = (cells["droplet"] == "singlet") & (cells["species"] == "human")
    table = cohort.truth["ledger"].set_index(["gene", "population", "sample"]).sort_index()
    for gene in ("IL1B", "IL6", "IFNG"):
        umi = counts[gene][good].groupby([cells["population"][good], cells["sample"][good]]).sum()
        found = table.loc[gene, "umi"]
        assert (found.reindex(umi.index) == umi).all()
        assert found.sum() == umi.sum()


def test_only_planted_populations_produce(two_arms):
    planted = {(entry.gene, entry.population) for entry in plant(plan_of({})).production}
    table = two_arms.truth["producers"]
    assert list(table.columns) == keys.PRODUCERS_TABLE.names
    rows = list(zip(table["gene"], table["population"], strict=True))
    others = table[[row not in planted for row in rows]]
    assert others["n_producers"].sum() == 0
    ledger = two_arms.truth["ledger"]
    assert (ledger["corrected_umi"] >= table["n_producers"]).all()
    assert ((ledger["corrected_umi"] > 0) == (table["n_producers"] > 0)).all()
    seen = table["n_producers"] + table["n_ambient_compatible"]
    assert (seen <= table["n_cells"]).all()
    assert (seen <= table["umi"]).all()


def test_planted_production_is_found_in_the_truth():
    made = simulate_cohort(
        arms=("CART",),
        n_subjects_per_arm=2,
        cells_per_sample=2500,
        n_background_genes=0,
        noise={"producer_sd": 0.0},
        random_state=9,
    )
    producers = made.truth["producers"].groupby(["gene", "population"]).sum(numeric_only=True)
    ledger = made.truth["ledger"].groupby(["gene", "population"]).sum(numeric_only=True)
    car_t_arm = ARMS.index("CART")
    for entry in plant(plan_of({})).production:
        row = (entry.gene, entry.population)
        if row not in ledger.index:
            continue
        n, k = producers.loc[row, "n_cells"], producers.loc[row, "n_producers"]
        p = entry.share[car_t_arm]
        assert abs(k - n * p) < 5 * np.sqrt(n * p * (1 - p)) + 1, row
        if k > 200:
            mean = ledger.loc[row, "corrected_umi"] / k
            assert mean == pytest.approx(entry.umi[car_t_arm], rel=0.1), row


@pytest.mark.parametrize("seed", [0, 1])
def test_monocytes_are_the_planted_source_of_the_demo(seed):
    made = simulate_cohort(arms=ARMS[1:], n_background_genes=0, random_state=seed)
    table = made.truth["ledger"]
    table = table[table["gene"].isin(["IL1B", "IL6"])]
    assert table.groupby(["gene", "sample"])["corrected_umi"].sum().min() > 0
    largest = table.loc[table.groupby(["gene", "sample"])["share"].idxmax(), "population"]
    assert (largest == "Classical monocyte").all()


def test_nothing_is_planted_in_the_null_population(cohort):
    null = cohort.settings["null_population"]
    assert null == "NK"
    shifts = cohort.truth["shifts"]
    shifts = shifts[shifts["population"] == null]
    assert set(shifts["status"]) == {keys.OK, keys.NOT_DETECTED}
    assert (shifts["estimate"].dropna() == 0).all()
    ledger = cohort.truth["ledger"]
    assert (ledger.loc[ledger["population"] == null, "corrected_umi"] == 0).all()
    parts = cohort.truth["decomposition"]
    columns = ["total", "composition", "producer_fraction", "intensity"]
    assert (parts.loc[parts["population"] == null, columns] == 0).all(axis=None)
    share = {p.name: p.share for p in plant(plan_of({})).populations}[null]
    assert len(set(share)) == 1


def about(planted):
    """The shift of a signature: some of its genes are off in some populations, and 1 is added."""
    return pytest.approx(0.85 * planted, abs=0.15 + 0.17 * abs(planted))


def planted_shifts(**settings):
    """Truth of the shifts of a cohort that is not drawn."""
    world = make_world(plan_of(settings))
    design = pd.DataFrame([library.identity for library in world.plan.libraries()])
    samples = design.set_index("sample").sort_index()
    return shifts_truth(world, contrasts=world.plan.contrasts(), samples=samples)


def test_truth_of_the_shifts_follows_the_plan():
    table = planted_shifts(cells_per_sample=20_000)
    assert list(table.columns) == keys.SHIFTS_TABLE.names
    assert not table.duplicated(list(keys.SHIFTS_TABLE.index)).any()
    rows = table.set_index(["contrast", "feature", "population"])
    estimate, names = rows["estimate"], set(table["population"])
    for signature, by_population in plant(plan_of({})).responses.items():
        present = {name: by_population[name] for name in names if name in by_population}
        for population, (_, car_t, anakinra, tocilizumab) in present.items():
            assert estimate["cart", signature, population] == about(car_t)
            drug = estimate["anakinra", signature, population]
            assert drug == about(anakinra - car_t)
            drug = estimate["tocilizumab", signature, population]
            assert drug == about(tocilizumab - car_t)
    absent = table[(table["population"] == "CAR T") & (table["contrast"] == "cart")]
    assert (absent["status"] == keys.ABSENT_IN_REFERENCE).all()
    assert absent["estimate"].isna().all()
    rest = table[table["population"] != "CAR T"]
    assert set(rest["status"]) == {keys.OK, keys.TOO_FEW_GENES, keys.NOT_DETECTED}
    assert (rest.loc[rest["status"] == keys.TOO_FEW_GENES, "n_genes"] < 3).all()
    assert ((rest["n_genes"] == 0) == (rest["status"] == keys.NOT_DETECTED)).all()
    assert ((rest["n_genes"] == 0) == rest["estimate"].isna()).all()


def test_truth_of_the_shifts_counts_what_can_be_seen_at_the_depth_of_the_cohort():
    shallow, deep = (
        planted_shifts(cells_per_sample=n).set_index(["contrast", "feature", "population"])
        for n in (200, 20_000)
    )
    seen = shallow["status"] == keys.OK
    assert (shallow["n_genes"] <= deep["n_genes"]).all()
    assert shallow["n_genes"].sum() < 0.7 * deep["n_genes"].sum()
    both = shallow["estimate"][seen].to_frame("shallow").join(deep["estimate"].rename("deep"))
    assert (both["shallow"] - both["deep"]).abs().median() < 0.05
    # Nobody but monocytes and dendritic cells makes IL-1; T cells have it from ambient RNA.
    made = deep["status"].sort_index().loc["cart", "IL1B"]
    assert set(made.index[made == keys.OK]) == {
        "Classical monocyte",
        "Non-classical monocyte",
        "cDC2",
    }


def test_planted_shifts_are_those_that_the_analysis_finds():
    # Without ambient RNA, which the analysis would have to estimate.
    made = simulate_cohort(
        arms=("vehicle", "CART"),
        n_subjects_per_arm=3,
        cells_per_sample=1200,
        n_background_genes=50,
        contamination=0.0,
    )
    cells = made.truth["cells"]
    good = ((cells["droplet"] == "singlet") & (cells["species"] == "human")).to_numpy()
    human = made.adata.var_names.str.startswith("GRCh38_")
    adata = made.adata[good, human].copy()
    adata.var_names = adata.var_names.str.removeprefix("GRCh38_")
    adata.layers[keys.COUNTS] = adata.X
    columns = ["sample", "subject", "condition", "population"]
    adata.obs = cells.loc[good, columns].astype("category").set_axis(adata.obs_names)
    bulk = pseudobulk(adata)
    found = shifts(
        bulk, contrasts=[Contrast("cart", "CART", "vehicle")], signatures=genesets.signatures()
    )
    n_cells = bulk.obs.groupby("population", observed=True)["n_cells"].median()
    row = ["contrast", "kind", "feature", "population"]
    both = made.truth["shifts"].merge(found, on=row, suffixes=("_planted", "_found"))
    both = both[both["population"].isin(n_cells.index[n_cells >= 100])]
    both = both.dropna(subset=["estimate_planted", "estimate_found"])
    assert len(both) > 40
    gap = both["estimate_found"] - both["estimate_planted"]
    assert abs(gap.mean()) < 0.05
    assert np.sqrt((gap**2).mean()) < 0.25
    slope = np.polyfit(both["estimate_planted"], both["estimate_found"], 1)[0]
    assert slope == pytest.approx(1, abs=0.1)


def test_decomposition_of_the_truth_adds_up(cohort):
    table = cohort.truth["decomposition"]
    assert list(table.columns) == keys.DECOMPOSITION_TABLE.names
    parts = table[["composition", "producer_fraction", "intensity"]].sum(axis=1)
    np.testing.assert_allclose(parts, table["total"], atol=1e-12)
    assert table["total_ci_low"].isna().all()
    ledger = cohort.truth["ledger"].query("gene == 'IL6'")
    per_sample = ledger.groupby(["condition", "sample"])[["corrected_umi", "n_cells"]].sum()
    output = (per_sample["corrected_umi"] / per_sample["n_cells"]).groupby("condition").mean()
    rows = table.query("gene == 'IL6' and contrast == 'cart'").set_index("population")["total"]
    change = output["CART"] - output["vehicle"]
    assert rows[keys.ALL_POPULATIONS] == pytest.approx(change)
    assert rows.drop(keys.ALL_POPULATIONS).sum() == pytest.approx(change)


def test_without_effect_all_arms_are_alike():
    made = simulate_cohort(**SMALL, effect_scale=0.0)
    shifts = made.truth["shifts"]
    assert (shifts["estimate"].dropna() == 0).all()
    assert not (made.truth["cells"]["population"] == "CAR T").any()


def test_cells_that_lyse_more_easily_fill_the_soup():
    settings = {"arms": ("CART",), "n_subjects_per_arm": 1, "cells_per_sample": 600}
    settings |= {"n_background_genes": 0, "contamination": (0.1, 0.1)}
    lyz = []
    for lysis in (None, {"Classical monocyte": 5.0}):
        made = simulate_cohort(**settings, lysis=lysis)
        cells = made.truth["cells"]
        t_cells = (cells["population"] == "CD4 T") & (cells["droplet"] == "singlet")
        lyz.append(human_counts(made).loc[t_cells, "LYZ"].sum())
    assert lyz[1] > 1.4 * lyz[0]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("arms", ("vehicle", "placebo")),
        ("arms", ("CART", "CART")),
        ("arms", ()),
        ("lysis", {"Astrocyte": 2.0}),
        ("lysis", {"NK": -1.0}),
        ("n_subjects_per_arm", 0),
        ("cells_per_sample", 0),
        ("contamination", (0.2, 0.1)),
        ("contamination", (0.0, 1.0)),
        ("doublet_rate", -0.1),
        ("other_species_fraction", 0.95),
        ("effect_scale", -1.0),
        ("n_background_genes", 100_000),
        ("noise", {"composition_concentration": 0.0}),
    ],
)
def test_settings_out_of_range_are_refused(setting, value):
    with pytest.raises(InputError, match=setting):
        simulate_cohort(**{setting: value})
