"""Reversal against the ratio by hand, planted truth and designs that cannot answer."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import sparse

from crs_sc import keys
from crs_sc.comparison import Contrast, reversal, signature_scores
from crs_sc.comparison.reversal import arm_effects, subject_weights
from crs_sc.errors import InputError

GENES = [f"G{i}" for i in range(100)]
SIGNATURES = {"up": GENES[:10], "flat": GENES[40:60], "absent": ["X"]}
DRUG = Contrast("drug", treated="CART_drug", reference="CART", baseline="vehicle")


def _bulk(
    levels: dict[str, float], *, n: int = 5, seed: int = 0, paired: bool = False
) -> ad.AnnData:
    """Simulated pseudobulk of one population; the ten first genes stand at `levels` (log2)."""
    rng = np.random.default_rng(seed)
    base = rng.lognormal(0, 1, size=100)
    base[-1] = 50 * base.sum()  # holds the total, so that CPM follow the planted levels
    rows, counts = [], []
    for condition, level in levels.items():
        for i in range(n):
            rate = base * 2 ** rng.normal(0, 0.2, size=100)
            rate[:10] *= 2**level
            rate *= 1e6 / rate.sum()
            counts.append(rng.poisson(rate))
            rows.append((f"d{i}" if paired else f"{condition}{i}", condition, "Mono"))
    obs = pd.DataFrame(rows, columns=["subject", "condition", "population"])
    obs.index = pd.Index([f"r{i}" for i in range(len(obs))])
    obs["n_cells"], obs["n_cells_total"] = 100, 100
    obs["weight"], obs["weight_total"] = 100.0, 100.0
    X = sparse.csr_matrix(np.array(counts, dtype=np.float64))
    return ad.AnnData(
        X=X,
        obs=obs,
        var=pd.DataFrame(index=GENES),
        layers={"counts": X.copy(), "ambient": sparse.csr_matrix(X.shape)},
    )


def _row(bulk: ad.AnnData, feature: str = "up", contrast: Contrast = DRUG) -> pd.Series:
    table = reversal(bulk, contrasts=[contrast], signatures=SIGNATURES, n_bootstrap=500)
    return table[table["feature"] == feature].iloc[0]


@pytest.mark.parametrize("truth", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("paired", [False, True])
def test_planted_reversal(truth: float, *, paired: bool) -> None:
    bulk = _bulk(
        {"vehicle": 0, "CART": 3, "CART_drug": 3 * (1 - truth)}, n=6, paired=paired, seed=3
    )
    contrast = Contrast("drug", "CART_drug", "CART", paired=paired, baseline="vehicle")
    row = _row(bulk, contrast=contrast)
    assert row.status == "ok"
    assert row.reversal == pytest.approx(truth, abs=0.12)
    assert row.ci_low - 0.03 <= truth <= row.ci_high + 0.03


def test_reversal_is_the_ratio_of_means() -> None:
    bulk = _bulk({"vehicle": 0, "CART": 2, "CART_drug": 1})
    scores = signature_scores(bulk, signatures=SIGNATURES)["up"]
    mean = scores.groupby(bulk.obs["condition"]).mean()
    expected = (mean["CART_drug"] - mean["CART"]) / (mean["vehicle"] - mean["CART"])
    assert _row(bulk).reversal == pytest.approx(expected, rel=1e-9)


def test_interval_covers_the_truth() -> None:
    # 80 simulated cohorts of 4 an arm: four standard errors below 0.95.
    covered = []
    for seed in range(80):
        bulk = _bulk({"vehicle": 0, "CART": 2, "CART_drug": 1}, n=4, seed=seed)
        row = _row(bulk)
        covered.append(row.ci_low <= 0.5 <= row.ci_high)
    assert np.mean(covered) >= 0.85


def test_nothing_to_reverse() -> None:
    row = _row(_bulk({"vehicle": 0, "CART": 0, "CART_drug": 0}, seed=1), feature="flat")
    assert row.status == "no_shift_to_reverse"
    assert np.isnan([row.reversal, row.ci_low, row.ci_high]).all()


def test_statuses_and_rows() -> None:
    bulk = _bulk({"vehicle": 0, "CART": 3, "CART_drug": 1})
    table = reversal(bulk, contrasts=[DRUG], signatures=SIGNATURES, genes=["G1"], n_bootstrap=50)
    assert list(table.columns) == keys.REVERSAL_TABLE.names
    assert list(table["feature"]) == ["up", "flat", "absent", "G1"]
    assert table.loc[2, "status"] == "not_measured"
    for condition, status in (
        ("vehicle", "absent_in_baseline"),
        ("CART", "absent_in_reference"),
        ("CART_drug", "absent_in_treated"),
    ):
        changed = bulk.copy()
        changed.obs.loc[changed.obs["condition"] == condition, "n_cells"] = 0
        assert _row(changed).status == status
    few = bulk.copy()
    few.obs["n_cells"] = 9
    assert _row(few).status == "too_few_cells"
    aliased = bulk.copy()
    aliased.obs["batch"] = aliased.obs["condition"]
    assert _row(aliased).status == "confounded"


def test_one_subject_in_an_arm_gives_a_ratio_and_no_interval() -> None:
    bulk = _bulk({"vehicle": 0, "CART": 3, "CART_drug": 0})
    bulk = bulk[~bulk.obs["subject"].isin([f"vehicle{i}" for i in range(1, 5)])].copy()
    row = _row(bulk)
    assert row.status == "too_few_subjects"
    assert row.reversal == pytest.approx(1, abs=0.3)
    assert np.isnan(row.ci_low)


def test_contrasts_without_baseline_are_left_out() -> None:
    bulk = _bulk({"vehicle": 0, "CART": 3})
    plain = Contrast("cart", treated="CART", reference="vehicle")
    table = reversal(bulk, contrasts=[plain], signatures=SIGNATURES)
    assert table.empty
    assert list(table.columns) == keys.REVERSAL_TABLE.names
    with pytest.raises(InputError, match="n_bootstrap"):
        reversal(bulk, contrasts=[plain], signatures=SIGNATURES, n_bootstrap=0)


def test_same_seed_same_bytes() -> None:
    bulk = _bulk({"vehicle": 0, "CART": 3, "CART_drug": 1})
    shuffled = bulk[np.random.default_rng(0).permutation(bulk.n_obs)].copy()
    tables = [
        reversal(b, contrasts=[DRUG], signatures=SIGNATURES, n_bootstrap=200).to_csv()
        for b in (bulk, shuffled)
    ]
    assert tables[0] == tables[1]


def test_arm_effects_agree_with_weighted_statsmodels() -> None:
    rng = np.random.default_rng(2)
    arm, batch = np.repeat([0, 1, 2], 4), np.tile([0, 0, 1, 1], 3)
    design = np.column_stack([np.eye(3)[arm], batch])
    Y, weights = rng.normal(size=(12, 2)), rng.integers(0, 3, size=(5, 12)).astype(float)
    weights[-1] = np.where(arm == 1, batch, 1 - batch)  # reference in one batch, others not
    effects = arm_effects(Y, design, weights)
    for b in range(4):
        for j in range(2):
            beta = sm.WLS(Y[:, j], design, weights=weights[b]).fit().params
            np.testing.assert_allclose(effects[b, :, j], [beta[2] - beta[1], beta[0] - beta[1]])
    assert np.isnan(effects[-1]).all()


def test_subjects_are_drawn_within_their_arms_and_pairs_stay() -> None:
    units = pd.DataFrame(
        {
            "subject": ["a", "b", "c", "a", "b", "c", "x", "y"],
            "arm": ["reference"] * 3 + ["treated"] * 3 + ["baseline"] * 2,
        }
    )
    weights = subject_weights(units, n_bootstrap=300, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(weights[:, :3], weights[:, 3:6])
    assert (weights[:, :3].sum(axis=1) == 3).all()
    assert (weights[:, 6:].sum(axis=1) == 2).all()
    assert weights[:, 0].std() > 0
