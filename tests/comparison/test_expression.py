"""Expression: PyDESeq2's own answer, planted changes, null data, designs and statuses."""

from __future__ import annotations

import time
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import optimize, sparse, stats

from crs_sc import keys
from crs_sc.comparison.design import Contrast
from crs_sc.comparison.expression import expression, full_rank, wald_tests
from crs_sc.comparison.negative_binomial import GeneBatches, dispersion_fit
from crs_sc.errors import InputError, MissingKeyError

CART = Contrast("cart", treated="CART", reference="vehicle")
PAIRED = Contrast("cart", treated="CART", reference="vehicle", paired=True)
pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:(pydeseq2|anndata)")


def simulate(seed, units, *, n_genes=300, fold=None, dispersion=0.1, spread=0.0):
    """Negative binomial counts, shape (n_units, n_genes); `fold` is (n_units, n_genes) or None."""
    rng = np.random.default_rng(seed)
    mean = rng.lognormal(4, 1, n_genes)
    depth = rng.lognormal(0, 0.3, len(units))
    subject = {s: rng.normal(0, spread, n_genes) for s in dict.fromkeys(units["subject"])}
    level = mean * depth[:, None] * np.exp(np.array([subject[s] for s in units["subject"]]))
    level = level if fold is None else level * fold
    size = 1 / (dispersion + 3 / mean)
    return rng.negative_binomial(size, size / (size + level)).astype(float)


def make_bulk(units, counts, *, population="Mono", n_cells=50, ambient=None):
    """A pseudobulk of one population; `ambient` is the expected ambient RNA, shape of `counts`."""
    obs = units.astype(str).reset_index(drop=True)
    obs["population"] = population
    obs["n_cells"] = n_cells
    obs["n_cells_total"] = 500
    obs["weight"], obs["weight_total"] = obs["n_cells"].astype(float), 500.0
    obs.index = [f"{population}{i}" for i in range(len(obs))]
    var = pd.DataFrame(index=[f"G{j}" for j in range(counts.shape[1])])
    carried = np.zeros_like(counts) if ambient is None else ambient
    layers = {"counts": sparse.csr_matrix(counts), "ambient": sparse.csr_matrix(carried)}
    X = sparse.csr_matrix(np.maximum(counts - carried, 0))
    return ad.AnnData(X=X, obs=obs, var=var, layers=layers)


def design(**arms):
    """One row a subject: design(vehicle=4, CART=4)."""
    rows = [(f"{arm}{i}", arm) for arm, n in arms.items() for i in range(n)]
    return pd.DataFrame(rows, columns=["subject", "condition"])


def pairs(n):
    rows = [(f"m{i}", arm) for arm in ("vehicle", "CART") for i in range(n)]
    return pd.DataFrame(rows, columns=["subject", "condition"])


def by_gene(counts, metadata, formula):
    """PyDESeq2 by itself, gene after gene."""
    from pydeseq2.dds import DeseqDataSet
    from pydeseq2.ds import DeseqStats

    counts = pd.DataFrame(counts.astype(int), columns=[f"G{j}" for j in range(counts.shape[1])])
    counts.index = metadata.index = [f"u{i}" for i in range(len(counts))]
    data = DeseqDataSet(counts=counts, metadata=metadata, design=formula, n_cpus=1, quiet=True)
    data.deseq2()
    test = DeseqStats(
        data, ["condition", "CART", "vehicle"], independent_filter=False, n_cpus=1, quiet=True
    )
    test.summary()
    return test.results_df


@pytest.mark.parametrize(
    ("units", "formula", "contrast"),
    [
        (design(vehicle=4, CART=4, CART_drug=4), "~condition", CART),
        (pairs(5), "~subject + condition", PAIRED),
    ],
)
def test_is_pydeseq2(units, formula, contrast):
    fold = np.ones((len(units), 150))
    fold[(units["condition"] == "CART").to_numpy(), :30] = 4
    counts = simulate(1, units, n_genes=150, fold=fold, spread=0.3)
    contrasts = [contrast]
    if "CART_drug" in set(units["condition"]):
        contrasts.append(Contrast("drug", treated="CART_drug", reference="CART"))
    table = expression(make_bulk(units, counts), contrasts=contrasts, min_count=1)
    table = table[table["contrast"] == "cart"].set_index("gene")
    expected = by_gene(counts, units.copy(), formula).loc[table.index]
    assert len(table) == 150
    np.testing.assert_allclose(table["base_mean"], expected["baseMean"], rtol=1e-10)
    np.testing.assert_allclose(table["log2fc"], expected["log2FoldChange"], atol=2e-5)
    np.testing.assert_allclose(table["lfc_se"], expected["lfcSE"], rtol=1e-4)
    np.testing.assert_allclose(table["statistic"], expected["stat"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(table["pvalue_wald"], expected["pvalue"], rtol=2e-3)


def test_dispersion_is_at_the_minimum_of_the_criterion():
    rng = np.random.default_rng(0)
    X = np.c_[np.ones(12), np.repeat([0.0, 1], 6)]
    mu = rng.lognormal(3, 1, (12, 20))
    y = rng.negative_binomial(4, 4 / (4 + mu)).astype(float)
    centre = np.full(20, np.log(0.3))
    found = np.log(dispersion_fit(y, X, mu, centre, 0.8, (np.log(1e-8), np.log(12))))

    def criterion(j, log_alpha):
        a = np.exp(log_alpha)
        W = np.diag(mu[:, j] / (1 + a * mu[:, j]))
        nll = -stats.nbinom.logpmf(y[:, j], 1 / a, 1 / (1 + a * mu[:, j])).sum()
        return nll + 0.5 * np.linalg.slogdet(X.T @ W @ X)[1] + (log_alpha - centre[j]) ** 2 / 1.6

    for j in range(20):
        best = optimize.minimize_scalar(lambda x, j=j: criterion(j, x), bounds=(-8, 2))
        assert found[j] == pytest.approx(best.x, abs=1e-4)


def test_genes_that_run_away_are_handed_to_pydeseq2():
    from pydeseq2.utils import irls_solver

    X = np.c_[np.ones(6), np.repeat([0.0, 1], 3)]
    y = np.array([[0.0, 5], [0, 9], [0, 7], [900000, 4], [900, 6], [0, 5]])
    args = {"size_factors": np.ones(6), "design_matrix": X, "min_mu": 1e-14, "beta_tol": 1e-8}
    beta, mu, leverage, _ = GeneBatches().irls(counts=y, disp=np.array([9.0, 0.1]), **args)
    for j, alpha in enumerate([9.0, 0.1]):
        expected = irls_solver(counts=y[:, j], disp=alpha, **args)
        np.testing.assert_allclose(beta[j], expected[0], rtol=1e-6)
        np.testing.assert_allclose(mu[:, j], expected[1], rtol=1e-6)
        np.testing.assert_allclose(leverage[:, j], expected[2], rtol=1e-5, atol=1e-10)


def test_planted_fold_changes_are_found_and_the_rest_is_not():
    units = design(vehicle=4, CART=4)
    fold = np.ones((8, 400))
    fold[4:, :20], fold[4:, 20:40] = 8, 1 / 8
    bulk = make_bulk(units, simulate(2, units, n_genes=400, fold=fold, dispersion=0.05))
    table = expression(bulk, contrasts=[CART])
    assert list(table.columns) == keys.EXPRESSION_TABLE.names
    table = table.set_index("gene")
    up, down = (table[table.index.isin([f"G{j}" for j in r])] for r in (range(20), range(20, 40)))
    assert up["log2fc"].median() == pytest.approx(3, abs=0.3)
    assert down["log2fc"].median() == pytest.approx(-3, abs=0.3)
    assert (up["padj"] < 0.05).mean() > 0.9
    assert (down["padj"] < 0.05).mean() > 0.9
    assert (table.drop([*up.index, *down.index])["padj"] < 0.05).mean() < 0.03
    assert ((table["n_reference"] == 4) & (table["n_treated"] == 4)).all()
    np.testing.assert_allclose(
        table["padj"].dropna(), stats.false_discovery_control(table["pvalue"].dropna())
    )


def test_null_p_are_near_uniform():
    units = design(vehicle=5, CART=5)
    bulk = make_bulk(units, simulate(3, units, n_genes=1500))
    p = expression(bulk, contrasts=[CART])["pvalue"].dropna()
    assert len(p) > 1400
    assert 0.03 < (p < 0.05).mean() < 0.08
    assert 0.45 < p.mean() < 0.55


def test_pairs_take_out_the_subject():
    units = pairs(6)
    fold = np.ones((12, 200))
    fold[6:, :40] = 4
    counts = simulate(4, units, fold=fold, n_genes=200, dispersion=0.03, spread=1.0)
    bulk = make_bulk(units, counts)
    bulk = bulk[:-1].copy()  # m5 loses its second arm and with it the first.
    paired = expression(bulk, contrasts=[PAIRED])
    assert (paired["n_reference"] == 5).all()
    assert (paired["n_treated"] == 5).all()
    loose = make_bulk(design(vehicle=6, CART=6), counts)
    unpaired = expression(loose, contrasts=[CART])
    power = [
        (t["padj"] < 0.05)[t["gene"].isin([f"G{j}" for j in range(40)])].mean()
        for t in (paired, unpaired)
    ]
    assert power[0] > 0.7 > 0.4 > power[1]


def test_batch_is_a_factor_and_an_aliased_batch_is_refused():
    units = design(vehicle=4, CART=4)
    units["batch"] = ["a", "b"] * 4
    fold = np.ones((8, 200))
    fold[1::2] *= np.random.default_rng(0).lognormal(0, 1.5, 200)
    fold[4:, :20] *= 5
    counts = simulate(5, units, n_genes=200, fold=fold, dispersion=0.03)
    table = expression(make_bulk(units, counts), contrasts=[CART])
    assert (table["padj"].iloc[:20] < 0.05).mean() > 0.8
    units["batch"] = ["a"] * 4 + ["b"] * 4
    table = expression(make_bulk(units, counts), contrasts=[CART])
    assert table[["gene", "status"]].to_numpy().tolist() == [["", keys.CONFOUNDED]]


def test_a_contrast_does_not_depend_on_which_others_were_asked_but_for_the_dispersions():
    units = design(vehicle=4, CART=4, drug=4)
    bulk = make_bulk(units, simulate(6, units, n_genes=150))
    drug = Contrast("drug", treated="drug", reference="CART")
    both = expression(bulk, contrasts=[drug, CART])
    assert list(dict.fromkeys(both["contrast"])) == ["drug", "cart"]
    alone = expression(bulk, contrasts=[CART]).set_index("gene")
    shared = both[both["contrast"] == "cart"].set_index("gene").loc[alone.index]
    assert np.corrcoef(alone["statistic"], shared["statistic"])[0, 1] > 0.95
    # The fit is one: going round the three arms comes back to zero.
    back = Contrast("back", treated="vehicle", reference="drug")
    loop = expression(bulk, contrasts=[drug, CART, back], min_count=1)
    np.testing.assert_allclose(loop.groupby("gene")["log2fc"].sum(), 0, atol=1e-8)


def test_populations_without_a_test_keep_a_row_that_says_why():
    units = design(vehicle=3, CART=3)
    counts = simulate(7, units, n_genes=120)
    cells = {
        "A ok": [50] * 6,
        "B absent": [0] * 3 + [50] * 3,
        "C gone": [50] * 3 + [0] * 3,
        "D few": [50] * 3 + [50, 5, 5],
        "E silent": [50] * 6,
    }
    bulks = []
    for name, n_cells in cells.items():
        n = np.array(n_cells)
        values = counts * (n > 0)[:, None] if name != "E silent" else np.minimum(counts, 3)
        bulks.append(make_bulk(units, values, population=name, n_cells=n))
    bulk = ad.concat(bulks)
    before = bulk.copy()
    table = expression(bulk, contrasts=[CART])
    first = table.drop_duplicates("population").set_index("population")
    assert first["status"].to_dict() == {
        "A ok": keys.OK,
        "B absent": keys.ABSENT_IN_REFERENCE,
        "C gone": keys.ABSENT_IN_TREATED,
        "D few": keys.TOO_FEW_CELLS,
        "E silent": keys.NOT_DETECTED,
    }
    untested = table[table["population"] != "A ok"]
    assert len(untested) == 4
    assert (untested["gene"] == "").all()
    assert untested["pvalue"].isna().all()
    assert sparse.issparse(bulk.X)
    np.testing.assert_array_equal(bulk.X.toarray(), before.X.toarray())
    pd.testing.assert_frame_equal(bulk.obs, before.obs)


def test_one_subject_in_an_arm_is_no_test():
    units = design(vehicle=3, CART=1)
    table = expression(make_bulk(units, simulate(8, units)), contrasts=[CART])
    assert table[["gene", "status"]].to_numpy().tolist() == [["", keys.TOO_FEW_SUBJECTS]]


def test_a_count_outlier_has_no_p():
    units = design(vehicle=4, CART=4)
    counts = simulate(9, units, n_genes=150, dispersion=0.02)
    counts[6, 3] = 60_000
    table = expression(make_bulk(units, counts), contrasts=[CART]).set_index("gene")
    assert table.loc["G3", "status"] == keys.COUNT_OUTLIER
    assert np.isnan(table.loc["G3", "pvalue"])
    assert (table["status"].drop("G3") == keys.OK).mean() > 0.95


def test_outliers_are_replaced_in_larger_groups():
    units = design(vehicle=8, CART=8)
    counts = simulate(10, units, n_genes=120, dispersion=0.02)
    counts[10, 3] = 90_000
    table = expression(make_bulk(units, counts), contrasts=[CART], min_count=1).set_index("gene")
    expected = by_gene(counts, units.copy(), "~condition").loc[table.index]
    assert table.loc["G3", "status"] == keys.OK
    assert abs(table.loc["G3", "log2fc"]) < 1
    np.testing.assert_allclose(table["pvalue_wald"], expected["pvalue"], rtol=2e-3)


def test_time_points_are_fitted_apart_and_pooled_where_not_asked():
    units = design(vehicle=3, CART=3)
    frame = pd.concat([units.assign(timepoint=t) for t in ("d2", "d10")], ignore_index=True)
    counts = simulate(11, frame, n_genes=100)
    bulk = make_bulk(frame, counts)
    within = Contrast("cart", treated="CART", reference="vehicle", within="timepoint")
    table = expression(bulk, contrasts=[within])
    assert list(dict.fromkeys(table["contrast"])) == ["cart@d2", "cart@d10"]
    day2 = expression(make_bulk(units, counts[:6]), contrasts=[CART])
    np.testing.assert_allclose(
        table.loc[table["contrast"] == "cart@d2", "pvalue"], day2["pvalue"], rtol=1e-12
    )
    pooled = expression(bulk, contrasts=[CART])
    whole = expression(make_bulk(units, counts[:6] + counts[6:]), contrasts=[CART])
    np.testing.assert_allclose(pooled["pvalue"], whole["pvalue"], rtol=1e-12)


@pytest.mark.parametrize(
    "counts",
    [
        np.random.default_rng(0).poisson(30.0, (6, 80)),
        20 + np.random.default_rng(0).integers(0, 2, (6, 80)),
        np.full((6, 80), 20),
    ],
    ids=["poisson", "less than poisson", "constant"],
)
def test_counts_without_overdispersion_have_a_finite_answer(counts):
    table = expression(make_bulk(design(vehicle=3, CART=3), counts * 1.0), contrasts=[CART])
    assert np.isfinite(table[["log2fc", "lfc_se", "statistic", "pvalue"]]).all().all()
    # No less than the Poisson error of two means.
    assert (table["lfc_se"] > 0.99 * np.sqrt(2 / 3 / counts.max()) / np.log(2)).all()


@pytest.mark.parametrize("n_genes", [1, 2, 5])
def test_a_handful_of_genes_can_be_tested(n_genes):
    units = design(vehicle=3, CART=3)
    table = expression(make_bulk(units, simulate(12, units, n_genes=n_genes)), contrasts=[CART])
    assert len(table) == n_genes
    assert table["pvalue"].notna().all()


def test_genes_zero_in_one_arm_and_no_gene_seen_everywhere():
    units = design(vehicle=4, CART=4)
    counts = simulate(13, units, n_genes=100)
    counts[:4, 0] = 0
    counts[np.arange(100) % 8, np.arange(100)] = 0
    table = expression(make_bulk(units, counts), contrasts=[CART]).set_index("gene")
    assert np.isfinite(table[["log2fc", "lfc_se", "statistic"]]).all().all()
    assert table.loc["G0", "log2fc"] > 3


def test_what_ambient_rna_carries_over_is_not_tested_and_what_it_adds_is_taken_off():
    units = design(vehicle=4, CART=4)
    counts = simulate(17, units, n_genes=100)
    rng = np.random.default_rng(0)
    carried = np.zeros_like(counts)
    carried[:, 0] = np.repeat([5.0, 400.0], 4)  # 80 times more in the treated
    carried[4:, 1] = 3000.0  # on top of what the cells make themselves
    counts[:, 0] = rng.poisson(carried[:, 0])
    counts[:, 1] = rng.poisson(1000.0 + carried[:, 1])
    blind = expression(make_bulk(units, counts), contrasts=[CART]).set_index("gene")
    aware = expression(make_bulk(units, counts, ambient=carried), contrasts=[CART])
    aware = aware.set_index("gene")
    assert blind.loc["G0", "log2fc"] > 4
    assert blind.loc["G1", "padj"] < 0.01
    assert "G0" not in aware.index
    assert abs(aware.loc["G1", "log2fc"]) < 0.7
    assert aware.loc["G1", "padj"] > 0.1


def test_quiet_deterministic_and_quick(capfd):
    units = design(vehicle=4, CART=4, anakinra=4, tocilizumab=4)
    bulk = make_bulk(units, simulate(14, units, n_genes=1500))
    asked = [CART, *(Contrast(d, treated=d, reference="CART") for d in ("anakinra", "tocilizumab"))]
    expression(bulk[:, :60].copy(), contrasts=[CART])
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = expression(bulk, contrasts=asked)
    assert time.process_time() - start < 6
    assert table.to_csv() == expression(bulk, contrasts=asked).to_csv()
    out = capfd.readouterr()
    assert out.out == ""
    assert out.err == ""


def test_full_rank_keeps_the_first_of_dependent_columns():
    a, b = np.repeat([1.0, 0], 3), np.repeat([0.0, 1], 3)
    columns = np.c_[a, b, a + b, [1.0, 0, 0, 1, 0, 0]]
    np.testing.assert_array_equal(full_rank(columns), columns[:, [0, 1, 3]])


def test_kernel_serves_several_contrasts_from_one_fit():
    units = design(a=3, b=3, c=3)
    counts = simulate(15, units, n_genes=80).astype(int)
    X = np.kron(np.eye(3), np.ones((3, 1)))
    ab, ba = wald_tests(counts, X, [np.array([-1.0, 1, 0]), np.array([1.0, -1, 0])])
    np.testing.assert_allclose(ab.statistic, -ba.statistic)
    np.testing.assert_array_equal(ab.base_mean, ba.base_mean)


def test_bad_settings_are_refused():
    units = design(vehicle=3, CART=3)
    bulk = make_bulk(units, simulate(16, units, n_genes=20))
    with pytest.raises(InputError, match="min_count"):
        expression(bulk, contrasts=[CART], min_count=0)
    with pytest.raises(InputError, match="min_cells"):
        expression(bulk, contrasts=[CART], min_cells=0)
    del bulk.obs["population"]
    with pytest.raises(MissingKeyError, match="population"):
        expression(bulk, contrasts=[CART])


def test_interferon_genes_of_real_monocytes_rise(shared_data):
    cells = ad.read_h5ad(shared_data / "kang_ifnb_3800.h5ad")
    cells = cells[cells.obs["cell_type"] == "CD14+ Monocytes"]
    units = cells.obs.groupby(["donor", "condition"], observed=True).indices
    counts = np.vstack([np.asarray(cells.X[rows].sum(axis=0)).ravel() for rows in units.values()])
    frame = pd.DataFrame(list(units), columns=["subject", "condition"])
    bulk = make_bulk(frame, counts, n_cells=[len(rows) for rows in units.values()])
    bulk.var_names = cells.var_names
    ifn = Contrast("ifn", treated="stim", reference="ctrl", paired=True)
    table = expression(bulk, contrasts=[ifn]).set_index("gene")
    assert (table["n_treated"] == 8).all()
    published = ["ISG15", "IFIT1", "IFIT2", "IFIT3", "CXCL10", "CXCL11", "ISG20", "RSAD2", "IL1RN"]
    assert (table.loc[published, "log2fc"] > 4).all()
    assert (table.loc[published, "padj"] < 1e-2).all()
    assert (table.loc[published, "pvalue_wald"] < 1e-10).all()
    assert table.loc["IL1B", "log2fc"] < -2


def test_few_degrees_of_freedom_are_no_warning() -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(2, 20, size=200), size=(4, 200)) + 1
    design = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (found,) = wald_tests(counts.astype(np.int64), design, [np.array([0.0, 1.0])])
    assert np.isfinite(found.log2fc).all()
