"""What each setting of a simulated cohort plants."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from crs_sc import genesets, keys
from crs_sc.datasets import Batches, iter_samples, simulate_cohort
from crs_sc.datasets.profiles import ARMS, plant
from crs_sc.datasets.simulate import plan_of
from crs_sc.errors import InputError

TINY = {"n_subjects_per_arm": 2, "cells_per_sample": 60, "n_background_genes": 0}
ONE = {"arms": ("CART",), "n_subjects_per_arm": 1, "n_background_genes": 0}
SINGLETS = {"doublet_rate": 0.0, "cross_species_rate": 0.0, "low_quality_rate": 0.0}


def counts_by_symbol(cohort, *, prefix="GRCh38_"):
    counts = cohort.adata.to_df().reset_index(drop=True)
    counts = counts.loc[:, counts.columns.str.startswith(prefix)]
    return counts.rename(columns=lambda name: name.removeprefix(prefix))


def logit(p):
    return np.log(p / (1 - p))


def test_responses_are_near_zero_at_rest():
    made = simulate_cohort(
        **ONE | {"arms": ("vehicle",)}, cells_per_sample=1500, contamination=0.0, **SINGLETS
    )
    counts = counts_by_symbol(made).groupby(made.truth["cells"]["population"]).sum()
    cpm = 1e6 * counts.div(counts.sum(axis=1), axis=0)
    signatures = genesets.signatures()
    for name in ("type1_ifn_response", "ifn_gamma_response", "il1_response"):
        at_rest = cpm.drop(index="Mouse myeloid")[signatures[name]].mean(axis=1)
        assert at_rest.max() < 90, name
        assert at_rest["Classical monocyte"] > 5, name
    assert cpm.loc["Classical monocyte", "S100A8"] > 3000


@pytest.mark.parametrize("contamination", [0.0, 0.1, 0.3])
def test_fixed_contamination_is_the_share_of_soup(contamination):
    made = simulate_cohort(**TINY, contamination=contamination)
    cells = made.truth["cells"]
    assert (cells["contamination"] == contamination).all()
    assert (made.truth["samples"]["contamination"] == contamination).all()
    share = cells["n_soup_umi"].sum() / cells["n_umi"].sum()
    assert share == pytest.approx(contamination, abs=0.003)


def test_soup_is_the_mixture_of_the_cells_weighted_by_lysis():
    lysis = {"Monocyte": 3.0, "Non-classical monocyte": 0.5, "B": 0.0}
    made = simulate_cohort(
        **ONE, **SINGLETS, cells_per_sample=300, contamination=0.0, lysis=lysis, erythroid_soup=0.02
    )
    # Without ambient RNA and doublets the counts are the cells themselves.
    weight = made.truth["cells"]["lineage"].map(lysis).fillna(1.0)
    weight[made.truth["cells"]["population"] == "Non-classical monocyte"] = 0.5
    lysed = weight.to_numpy() @ made.adata.X
    expected = 0.98 * lysed / lysed.sum()
    genes = made.adata.var_names
    for gene, share in {"HBB": 0.01, "HBA1": 0.005, "HBA2": 0.005}.items():
        expected[genes.get_loc(f"GRCh38_{gene}")] += share
    ambient = made.truth["soup"]
    assert list(ambient.columns) == ["sample", "gene", "symbol", "species", "share"]
    assert ambient["gene"].to_list() == genes.to_list()
    np.testing.assert_allclose(ambient["share"], expected, rtol=1e-5)
    assert ambient["share"].sum() == pytest.approx(1)


def test_empty_droplets_hold_the_soup_of_their_sample():
    made = simulate_cohort(
        **TINY | {"n_subjects_per_arm": 1}, arms=("vehicle", "CART"), n_empty_droplets=3000
    )
    assert list(made.empty_droplets) == ["lib01", "lib02"]
    share_of = dict(iter(made.truth["soup"].groupby("sample")["share"]))
    for name, empty in made.empty_droplets.items():
        assert empty.shape == (3000, made.adata.n_vars)
        total = np.asarray(empty.sum(axis=1)).ravel()
        assert total.mean() == pytest.approx(40, abs=2)
        assert (total <= 100).mean() > 0.95
        share = share_of[name].to_numpy()
        found = np.asarray(empty.sum(axis=0)).ravel()
        spread = np.sqrt(total.sum() * share * (1 - share))
        assert (np.abs(found - total.sum() * share) <= 5 * spread + 3).all()
    without = simulate_cohort(**TINY | {"n_subjects_per_arm": 1}, arms=("vehicle", "CART"))
    assert without.empty_droplets == {}
    assert (without.adata.X != made.adata.X).nnz == 0


def test_production_is_scaled_by_gene_population_and_lineage():
    scale = {"IL6": 0.1, "Monocyte": 0.5, "cDC2": 0.0, "CXCL8": 3.0}
    made = simulate_cohort(
        **TINY, arms=("CART",), production_scale=scale, noise={"producer_sd": 0.0}
    )
    rates = made.truth["production_rates"].groupby(["gene", "population"])["probability"].first()
    arm = ARMS.index("CART")
    for entry in plant(plan_of({})).production:
        factor = scale.get(entry.gene, 1) * scale.get(entry.population, 1)
        factor *= 0.5 if "monocyte" in entry.population else 1
        expected = min(factor * entry.share[arm], 1.0)
        assert rates[entry.gene, entry.population] == pytest.approx(expected), entry
    assert rates["CXCL8", "Classical monocyte"] == pytest.approx(0.9)


def test_silent_cohort_makes_nothing_but_the_transgene():
    made = simulate_cohort(**TINY, production_scale=0)
    assert made.truth["producers"]["n_producers"].sum() == 0
    assert made.truth["ledger"]["umi"].sum() == 0
    assert made.truth["producer_cells"].empty
    assert counts_by_symbol(made)["CAR"].sum() > 0
    assert (made.truth["cells"]["population"] == "Classical monocyte").any()


def test_producer_cells_are_the_cells_of_the_truth():
    made = simulate_cohort(**TINY, arms=("CART",))
    cells, found = made.truth["cells"], made.truth["producer_cells"]
    assert (found["native_umi"] >= 1).all()
    assert (found["umi"] >= found["native_umi"]).all()
    counts = counts_by_symbol(made).set_index(cells["cell"])
    seen = [counts.loc[cell, gene] for cell, gene in zip(found["cell"], found["gene"], strict=True)]
    assert (found["umi"] == seen).all()
    own = found[(found["droplet"] == "singlet") & (found["population"] != "Mouse myeloid")]
    by_row = own.groupby(["gene", "population", "sample"]).size()
    producers = made.truth["producers"].set_index(["gene", "population", "sample"])["n_producers"]
    pd.testing.assert_series_equal(
        by_row.astype(np.int64), producers[producers > 0].sort_index(), check_names=False
    )


def test_sorted_t_cells_have_no_il6():
    names = ("CD4 T", "CD8 T", "CAR T")
    made = simulate_cohort(**TINY, populations=names)
    human = made.truth["cells"].query("species == 'human'")
    assert set(human["population"]) == set(names)
    ledger = made.truth["ledger"]
    assert set(ledger["population"]) == set(names)
    assert ledger.loc[ledger["gene"].isin(["IL6", "IL1B"]), "umi"].sum() == 0
    assert ledger.loc[ledger["gene"] == "IFNG", "corrected_umi"].sum() > 0
    assert made.settings["null_population"] is None


def test_one_population_has_doublets_of_its_own():
    made = simulate_cohort(**ONE, cells_per_sample=100, populations=["Classical monocyte"])
    doublets = made.truth["cells"].query("droplet == 'doublet'")
    assert len(doublets) == 5
    assert (doublets["partner"] == "Classical monocyte").all()


def test_monocytic_blasts_resemble_monocytes_and_make_nothing():
    settings = ONE | SINGLETS | {"arms": ("vehicle",), "cells_per_sample": 800}
    settings |= {"n_background_genes": 500}
    made = simulate_cohort(**settings, leukaemia="monocytic", contamination=0.0)
    cells = made.truth["cells"]
    assert "B-ALL blast" not in set(cells["population"])
    mean = counts_by_symbol(made).groupby(cells["population"]).sum()
    cpm = 1e6 * mean.div(mean.sum(axis=1), axis=0)
    blast, monocyte = cpm.loc["AML blast"], cpm.loc["Classical monocyte"]
    assert (
        blast[["MPO", "AZU1", "ELANE", "MKI67"]] > 20 * monocyte[["MPO", "AZU1", "ELANE", "MKI67"]]
    ).all()
    assert 0.1 * monocyte["LYZ"] < blast["LYZ"] < 0.7 * monocyte["LYZ"]
    assert 0 < blast["S100A8"] < 0.1 * monocyte["S100A8"]
    assert (blast[["IL1B", "IL6"]] == 0).all()
    likeness = np.log1p(cpm).T.corr()["AML blast"]
    lymphoid = ["CD4 T", "CD8 T", "NK", "B"]
    assert likeness["Classical monocyte"] > likeness[lymphoid].max() + 0.03
    none = simulate_cohort(**settings, leukaemia="none")
    assert "Blast" not in set(none.truth["cells"]["lineage"])


def test_time_points_follow_the_course_and_keep_the_mouse():
    noise = {"producer_sd": 1.0, "repeat_sd": 0.0}
    made = simulate_cohort(**TINY, timepoints=("d0", "d2", "d5"), noise=noise)
    samples = made.truth["samples"]
    assert len(samples) == 4 * 2 * 3
    assert list(made.adata.obs.columns) == ["lib", "mouse", "arm", "day"]
    assert (
        samples.groupby("subject")["timepoint"].agg(list).map(tuple) == ("d0", "d2", "d5")
    ).all()
    assert samples.groupby("timepoint")["effect"].first().to_dict() == {"d0": 0, "d2": 1, "d5": 0.5}
    cells = made.truth["cells"]
    assert not (cells["population"] == "CAR T")[cells["timepoint"] == "d0"].any()
    # The mouse keeps its own odds of producers: the planted ones moved by the same logit.
    rates = made.truth["production_rates"].merge(samples[["sample", "timepoint"]], on="sample")
    il1b = rates.query("gene == 'IL1B' and population == 'Classical monocyte'")
    il1b = il1b[il1b["condition"] == "CART"].pivot_table(
        index="subject", columns="timepoint", values="probability"
    )
    for time, planted in {"d0": 0.05, "d2": 0.55, "d5": 0.3}.items():
        own = logit(il1b[time]) - logit(planted)
        np.testing.assert_allclose(own, logit(il1b["d2"]) - logit(0.55), atol=1e-9)
    assert il1b["d2"].nunique() == 2
    at_once = simulate_cohort(**TINY).truth["shifts"].set_index(["feature", "population"])
    shifts = made.truth["shifts"].set_index(["feature", "population"])
    assert (shifts.query("contrast == 'cart@d0'")["estimate"].dropna() == 0).all()
    pd.testing.assert_series_equal(
        shifts.query("contrast == 'cart@d2'")["estimate"],
        at_once.query("contrast == 'cart'")["estimate"],
    )
    given = simulate_cohort(**TINY, timepoints={"before": 0.0, "peak": 0.8})
    assert sorted(given.truth["samples"]["effect"].unique()) == [0.0, 0.8]


def test_paired_subjects_are_in_every_arm():
    made = simulate_cohort(**TINY, paired=True)
    samples = made.truth["samples"]
    assert (samples.groupby("subject")["condition"].agg(list).map(tuple) == ARMS).all()
    assert samples["subject"].nunique() == 2
    assert all(contrast["paired"] for contrast in made.settings["contrasts"])


def test_a_subject_is_itself_in_all_its_samples():
    noise = {"subject_sd": 1.5, "dispersion": 0.0, "composition_concentration": 5.0}
    made = simulate_cohort(
        **TINY | {"cells_per_sample": 400},
        **SINGLETS,
        arms=("CART", "CART_tocilizumab"),
        paired=True,
        contamination=0.0,
        noise=noise,
    )
    cells = made.truth["cells"]
    kept = cells["population"] == "Classical monocyte"
    sums = counts_by_symbol(made)[kept].groupby(cells["sample"][kept]).sum()
    filler = [gene for gene in sums if sums[gene].min() > 30]
    likeness = np.log(sums[filler]).T.corr()
    # lib01 and lib02 are mouse01 in its two arms.
    assert likeness.loc["lib01", "lib02"] > 0.95
    assert likeness.loc["lib01", "lib02"] > likeness.loc["lib01", "lib03"] + 0.1
    share = pd.crosstab(cells["sample"], cells["population"], normalize="index")
    own = (share.loc["lib01"] - share.loc["lib02"]).abs().sum()
    assert own < 0.5 * (share.loc["lib01"] - share.loc["lib03"]).abs().sum()


def test_batches_are_balanced_or_follow_the_arm():
    balanced = simulate_cohort(**TINY, batches=Batches(number=2))
    table = balanced.truth["samples"]
    assert (pd.crosstab(table["condition"], table["batch"]) == 1).all(axis=None)
    aliased = simulate_cohort(**TINY, batches={"number": 4, "aliased": True})
    table = aliased.truth["samples"]
    assert (table.groupby("condition")["batch"].nunique() == 1).all()
    assert table["batch"].nunique() == 4
    assert list(aliased.adata.obs.columns) == ["lib", "mouse", "arm", "batch"]


def test_batch_effects_are_in_the_counts():
    made = simulate_cohort(
        **TINY | {"cells_per_sample": 600},
        arms=("vehicle",),
        batches=Batches(number=2, sd=0.5),
        noise={"subject_sd": 0.0, "response_sd": 0.0},
        contamination=0.0,
    )
    effects = made.truth["batches"].pivot_table(index="gene", columns="batch", values="log_effect")
    assert effects.to_numpy().std() == pytest.approx(0.5, abs=0.05)
    sums = made.adata.to_df().groupby(made.adata.obs["batch"].to_numpy()).sum().T
    sums = sums[sums.min(axis=1) > 300]
    found = np.log(sums["batch2"] / sums["batch1"])
    planted = (effects["batch2"] - effects["batch1"])[sums.index]
    difference = found - planted
    assert (difference - difference.median()).abs().median() < 0.08
    assert np.corrcoef(found, planted)[0, 1] > 0.95


def test_mouse_macrophages_are_the_source_where_asked_for():
    made = simulate_cohort(
        **TINY | {"cells_per_sample": 300}, myeloid_species="mouse", other_species_fraction=0.3
    )
    cells = made.truth["cells"]
    good = cells[cells["droplet"] == "singlet"]
    human = good[good["species"] == "human"]
    assert set(human["population"]) == {"CAR T", "B-ALL blast"}
    assert set(human.query("condition == 'vehicle'")["population"]) == {"B-ALL blast"}
    assert (good["species"] == "human").mean() == pytest.approx(0.3 / 0.9, abs=0.01)
    ledger = made.truth["ledger"]
    assert ledger["gene"].unique().tolist() == genesets.target_cytokines(organism="mouse")
    assert "CAR T" not in set(ledger["population"])
    largest = ledger.groupby(["gene", "population"])["corrected_umi"].sum()
    assert largest["Il6"].idxmax() == "Macrophage"
    assert largest["Il1b"].idxmax() == "Macrophage"
    assert made.settings["organism"] == "mouse+human"
    shifts = made.truth["shifts"].set_index(["contrast", "feature", "population"])["estimate"]
    assert shifts["cart", "il1_response", "Macrophage"] == pytest.approx(1.4, abs=0.2)
    # Tocilizumab does not block the receptor of the mouse, anakinra does.
    assert shifts["tocilizumab", "il6_stat3_response", "Macrophage"] == 0
    assert shifts["anakinra", "il1_response", "Macrophage"] < -0.8
    in_nk = shifts.xs("NK", level="population").dropna()
    assert len(in_nk) > 0
    assert (in_nk.abs() < 1e-12).all()
    counts = counts_by_symbol(made)
    assert counts[["IL6", "IL1B"]].to_numpy().sum() == 0
    samples = made.truth["samples"]
    assert (samples["contamination_analysed"] < samples["contamination"]).all()


def test_contamination_of_the_analysed_species_is_what_its_cells_show():
    made = simulate_cohort(
        **ONE,
        cells_per_sample=600,
        myeloid_species="mouse",
        other_species_fraction=0.4,
        contamination=0.2,
    )
    cells, counts = made.truth["cells"], counts_by_symbol(made, prefix="mm10___")
    # NK cells make no haemoglobin: theirs is ambient RNA.
    own = (cells["population"] == "NK") & (cells["droplet"] == "singlet")
    ambient = made.truth["soup"].query("species == 'mouse'").set_index("symbol")["share"]
    genes = ["Hbb-bs", "S100a8", "Lyz2"]
    share = ambient[genes].sum() / ambient.sum()
    found = counts.loc[own, genes].to_numpy().sum() / counts[own].to_numpy().sum() / share
    expected = made.truth["samples"]["contamination_analysed"].iloc[0]
    assert found == pytest.approx(expected, rel=0.1)
    assert expected < 0.18


def test_samples_come_one_at_a_time_as_in_the_cohort():
    settings = {**TINY, "arms": ("vehicle", "CART"), "n_empty_droplets": 50}
    cohort = simulate_cohort(**settings)
    samples = list(iter_samples(settings))
    assert [sample.identity["sample"] for sample in samples] == [f"lib{i:02d}" for i in range(1, 5)]
    for sample in samples:
        name = sample.identity["sample"]
        whole = cohort.adata[cohort.adata.obs["lib"] == name]
        assert (sample.counts != whole.X).nnz == 0
        assert (cohort.empty_droplets[name] != sample.empty_droplets).nnz == 0
        assert sample.genes.equals(cohort.adata.var_names)
        assert sample.ambient.sum() == pytest.approx(1)
    cells = pd.concat([sample.cells for sample in samples], ignore_index=True)
    pd.testing.assert_frame_equal(cells, cohort.truth["cells"])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("contamination", 1.0),
        ("contamination", (0.1, 0.2, 0.3)),
        ("n_empty_droplets", -1),
        ("production_scale", {"IL17A": 1.0}),
        ("production_scale", {"IL6": -1.0}),
        ("production_scale", -0.5),
        ("populations", ("CD4 T", "Astrocyte")),
        ("populations", ()),
        ("populations", ("CAR T",)),
        ("lysis", dict.fromkeys(("Monocyte", "DC", "T", "NK", "B", "Blast"), 0.0)),
        ("leukaemia", "CLL"),
        ("myeloid_species", "rat"),
        ("timepoints", ("d0", "d0")),
        ("timepoints", {"d0": -1.0}),
        ("courses", {"IL6": {"d0": 0.0}}),
        ("batches", {"number": 0}),
        ("batches", {"count": 2}),
        ("batches", 3),
        ("noise", {"spread": 1.0}),
        ("noise", {"depth_sd": -1.0}),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting, value):
    with pytest.raises(InputError, match=setting):
        simulate_cohort(**{setting: value})


def test_settings_from_a_file_are_checked_by_name():
    with pytest.raises(InputError, match="Unknown setting cels_per_sample"):
        next(iter_samples({"cels_per_sample": 10}))
    with pytest.raises(InputError, match="cannot be used"):
        next(iter_samples({"cells_per_sample": "many"}))


def test_truth_has_the_columns_of_the_contract():
    truth = simulate_cohort(**TINY, arms=("vehicle", "CART")).truth
    for name in ("ledger", "producers", "decomposition", "shifts"):
        assert list(truth[name].columns) == keys.TABLES[name].names
