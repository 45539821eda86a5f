"""Designs: who stands against whom, and what cannot be answered."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.power import TTestIndPower, TTestPower

from crs_sc.comparison import Contrast, check_design, subjects_per_arm
from crs_sc.comparison.design import expand_contrasts, model_matrix, numbers_or_names, unit_of
from crs_sc.errors import DesignError


def _samples(**arms: list[str]) -> pd.DataFrame:
    rows = [(subject, arm) for arm, subjects in arms.items() for subject in subjects]
    table = pd.DataFrame(rows, columns=["subject", "condition"])
    table.index = pd.Index([f"lib{i}" for i in range(len(table))], name="sample")
    return table


CART = Contrast("cart", treated="CART", reference="vehicle")


def test_unpaired_three_against_three() -> None:
    design = check_design(
        _samples(vehicle=["m1", "m2", "m3"], CART=["m4", "m5", "m6"]), contrasts=[CART]
    )
    row = design.iloc[0]
    assert list(design.columns) == [
        "contrast",
        "n_reference",
        "n_treated",
        "n_pairs",
        "test",
        "blocks",
        "pvalue_floor",
        "status",
        "note",
        "covariates",
        "df",
        "detectable_sd",
    ]
    assert (row.n_reference, row.n_treated, row.n_pairs) == (3, 3, 0)
    assert (row.test, row.blocks, row.status, row.note) == ("unpaired", "", "ok", "")
    assert row.pvalue_floor == pytest.approx(0.1)
    assert (row.covariates, row.df) == ("", 4)


def test_samples_of_a_subject_are_one_unit() -> None:
    samples = _samples(vehicle=["m1", "m1", "m1", "m2"], CART=["m4", "m5"])
    assert check_design(samples, contrasts=[CART]).iloc[0].n_reference == 2


def test_paired_uses_complete_pairs_and_names_the_rest() -> None:
    samples = _samples(vehicle=["d1", "d2", "d3", "d4"], CART=["d1", "d2", "d3", "d9"])
    contrast = Contrast("cart", "CART", "vehicle", paired=True)
    row = check_design(samples, contrasts=[contrast]).iloc[0]
    assert (row.n_pairs, row.test, row.blocks) == (3, "paired", "subject")
    assert row.pvalue_floor == pytest.approx(2 / 8)
    assert "d4" in row.note
    assert "d9" in row.note
    (comparison,) = expand_contrasts([contrast], samples)
    assert comparison.subjects("treated") == ["d1", "d2", "d3"]
    expected = [0, 1, 2, -1, 3, 4, 5, -1]
    assert list(unit_of(samples, comparison)) == expected


def test_subject_in_both_arms_unpaired_is_an_error() -> None:
    with pytest.raises(DesignError, match=r"m2 are in both arms.*paired: true"):
        check_design(_samples(vehicle=["m1", "m2"], CART=["m2", "m3"]), contrasts=[CART])


def test_one_subject_an_arm_has_no_p() -> None:
    row = check_design(_samples(vehicle=["m1", "m2"], CART=["m3"]), contrasts=[CART]).iloc[0]
    assert row.status == "too_few_subjects"
    assert np.isnan(row.pvalue_floor)
    assert "1 of 'CART'" in row.note


def test_no_pair_at_all() -> None:
    contrast = Contrast("cart", "CART", "vehicle", paired=True)
    samples = _samples(vehicle=["m1", "m2"], CART=["m3", "m4"])
    row = check_design(samples, contrasts=[contrast]).iloc[0]
    assert (row.n_pairs, row.status) == (0, "too_few_subjects")


def test_batch_aliased_with_condition_is_confounded() -> None:
    samples = _samples(vehicle=["m1", "m2", "m3"], CART=["m4", "m5", "m6"])
    samples["batch"] = ["a"] * 3 + ["b"] * 3
    row = check_design(samples, contrasts=[CART]).iloc[0]
    assert row.status == "confounded"
    assert np.isnan(row.pvalue_floor)


def test_batch_is_a_block() -> None:
    samples = _samples(vehicle=["m1", "m2", "m3", "m4"], CART=["m5", "m6", "m7", "m8"])
    samples["batch"] = list("aabb") * 2
    row = check_design(samples, contrasts=[CART]).iloc[0]
    assert (row.blocks, row.status) == ("batch", "ok")
    assert row.pvalue_floor == pytest.approx(2 / 36)


@pytest.mark.parametrize(
    ("treated", "status", "floor"),
    [
        (["a", "a", "b", "b"], "ok", 2 / 16),  # each pair within one batch
        (["b", "b", "a", "a"], "ok", np.nan),  # crossed over: model only
        (["b", "b", "c", "c"], "confounded", np.nan),
    ],
)
def test_pairs_and_batches(treated: list[str], status: str, floor: float) -> None:
    samples = _samples(vehicle=["d1", "d2", "d3", "d4"], CART=["d1", "d2", "d3", "d4"])
    reference = ["a", "a", "a", "a"] if status == "confounded" else ["a", "a", "b", "b"]
    samples["batch"] = reference + treated
    contrast = Contrast("cart", "CART", "vehicle", paired=True)
    row = check_design(samples, contrasts=[contrast]).iloc[0]
    assert row.status == status
    assert row.pvalue_floor == pytest.approx(floor, nan_ok=True)


def test_within_time_points_in_natural_order() -> None:
    samples = pd.DataFrame(
        {
            "subject": ["m1", "m2", "m3", "m4"] * 2 + ["m5"],
            "condition": ["vehicle", "vehicle", "CART", "CART"] * 2 + ["CART"],
            "timepoint": ["d2"] * 4 + ["d10"] * 4 + ["d14"],
        }
    )
    contrast = Contrast("cart", "CART", "vehicle", within="timepoint")
    design = check_design(samples, contrasts=[contrast])
    assert list(design["contrast"]) == ["cart@d2", "cart@d10", "cart@d14"]
    assert list(design["status"]) == ["ok", "ok", "too_few_subjects"]
    pooled = check_design(samples, contrasts=[CART]).iloc[0]
    assert "different times" in pooled.note
    assert (pooled.n_reference, pooled.n_treated) == (2, 3)


@pytest.mark.parametrize(
    ("contrast", "message"),
    [
        (Contrast("x", "CAR", "vehicle"), "treated 'CAR' is not a condition.*CART, vehicle"),
        (Contrast("x", "CART", "vehicle", baseline="healthy"), "baseline 'healthy'"),
        (Contrast("x", "CART", "CART"), "different condition"),
        (Contrast("x", "CART", "vehicle", within="timepoint"), "no such column"),
        (Contrast("x", "CART", "vehicle", within="batch"), "within can only be"),
    ],
)
def test_contrasts_that_cannot_be_read(contrast: Contrast, message: str) -> None:
    samples = _samples(vehicle=["m1", "m2"], CART=["m3", "m4"])
    with pytest.raises(DesignError, match=message):
        check_design(samples, contrasts=[contrast])


def test_repeated_names_and_no_contrast() -> None:
    samples = _samples(vehicle=["m1", "m2"], CART=["m3", "m4"])
    with pytest.raises(DesignError, match="repeated: cart"):
        check_design(samples, contrasts=[CART, CART])
    assert check_design(samples, contrasts=[]).empty


def _covariates(**columns: list) -> pd.DataFrame:
    """Four subjects an arm."""
    samples = _samples(vehicle=["m1", "m2", "m3", "m4"], CART=["m5", "m6", "m7", "m8"])
    return samples.assign(**columns)


def _with(*names: str, paired: bool = False) -> Contrast:
    return Contrast("cart", "CART", "vehicle", paired=paired, covariates=names)


def test_number_is_a_slope_and_a_name_a_factor_and_a_block() -> None:
    samples = _covariates(age=[7, 9, 8, 12, 10, 9, 8, 7.5], sex=list("ffmm") * 2)
    row = check_design(samples, contrasts=[_with("sex")]).iloc[0]
    assert (row.blocks, row.covariates, row.df, row.status) == ("sex", "sex", 5, "ok")
    assert row.pvalue_floor == pytest.approx(2 / 36)
    row = check_design(samples, contrasts=[_with("age", "sex")]).iloc[0]
    assert (row.blocks, row.covariates, row.df, row.status) == ("", "age, sex", 4, "ok")
    assert np.isnan(row.pvalue_floor)
    assert "numbers (age)" in row.note
    # The model is that of least squares with these columns.
    (comparison,) = expand_contrasts([_with("age", "sex")], samples.astype("category"))
    nuisance, arm = model_matrix(comparison.tested, paired=False)
    y = np.random.default_rng(0).normal(size=8)
    own = np.column_stack([np.ones(8), samples["age"], samples["sex"] == "f", arm])
    given = np.column_stack([nuisance, arm])
    fitted = [X @ np.linalg.lstsq(X, y, rcond=None)[0] for X in (own.astype(float), given)]
    # Units are sorted as the samples are here.
    np.testing.assert_allclose(fitted[0], fitted[1], atol=1e-12)


def test_blocks_are_of_batch_and_factor_together() -> None:
    samples = _covariates(batch=list("aabb") * 2, sex=list("fmfm") * 2)
    row = check_design(samples, contrasts=[_with("sex")]).iloc[0]
    assert (row.blocks, row.df) == ("batch, sex", 4)
    assert row.pvalue_floor == pytest.approx(2 / 16)


@pytest.mark.parametrize(
    ("columns", "names", "told"),
    [
        ({"sex": list("ffffmmmm")}, ("sex",), "sex and condition"),
        ({"age": [1, 1, 1, 1, 2, 2, 2, 2]}, ("age",), "age and condition"),
        ({"sex": list("ffffmmmf"), "site": list("aaaabbbc")}, ("sex", "site"), "sex, site and"),
        ({"batch": list("aaaabbbb"), "sex": list("fm") * 4}, ("sex",), "batch and condition"),
    ],
)
def test_covariate_aliased_with_condition_is_confounded(
    columns: dict, names: tuple[str, ...], told: str
) -> None:
    row = check_design(_covariates(**columns), contrasts=[_with(*names)]).iloc[0]
    assert row.status == "confounded"
    assert row.note.startswith(told)


def test_constant_covariate_changes_nothing() -> None:
    samples = _covariates(age=[3.0] * 8, sex=["f"] * 8)
    plain = check_design(samples, contrasts=[CART])
    with_both = check_design(samples, contrasts=[_with("age", "sex")])
    same = [c for c in plain.columns if c != "covariates"]
    pd.testing.assert_frame_equal(plain[same], with_both[same])


def test_covariates_of_pairs() -> None:
    samples = _samples(vehicle=["d1", "d2", "d3", "d4"], CART=["d1", "d2", "d3", "d4"])
    samples["age"] = [30, 40, 50, 61] * 2
    samples["hour"] = [9, 10, 11, 12, 12, 11, 9, 10]
    # What belongs to the subject is in the pairs already.
    row = check_design(samples, contrasts=[_with("age", paired=True)]).iloc[0]
    assert (row.blocks, row.df, row.pvalue_floor) == ("subject", 3, 2 / 16)
    row = check_design(samples, contrasts=[_with("hour", paired=True)]).iloc[0]
    assert (row.blocks, row.df, row.status) == ("", 2, "ok")
    assert row.note == "pairs straddle hour: in the model, no permutation p"


def test_covariates_can_use_up_the_subjects() -> None:
    samples = _samples(vehicle=["m1", "m2"], CART=["m3", "m4"]).assign(age=[1, 2, 1, 3])
    assert check_design(samples, contrasts=[CART]).iloc[0].df == 2
    samples["site"] = list("abab")
    row = check_design(samples, contrasts=[_with("age", "site")]).iloc[0]
    assert (row.status, row.df) == ("too_few_subjects", 0)
    assert "no degree of freedom" in row.note
    assert np.isnan(row.pvalue_floor)


@pytest.mark.parametrize(
    ("contrast", "message"),
    [
        (_with("weight"), "no covariate 'weight'.*age"),
        (_with("batch"), "'batch' is no covariate"),
        (_with("age"), "covariate 'age' is empty for the subjects m2, m5"),
    ],
)
def test_covariates_that_cannot_be_used(contrast: Contrast, message: str) -> None:
    samples = _covariates(age=[1, np.nan, 3, 4, np.nan, 6, 7, 8], batch="a")
    with pytest.raises(DesignError, match=message):
        check_design(samples, contrasts=[contrast])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2.5, None], [1, 2.5, np.nan]),
        (["1", "2.5", "nan"], [1, 2.5, np.nan]),
        (pd.Categorical(["10", "9", ""]), [10, 9, np.nan]),
        (["a", "1", None], ["a", "1", np.nan]),
        ([True, False, True], ["True", "False", "True"]),
        (["inf", "1", "2"], ["inf", "1", "2"]),
        ([None, None, None], [np.nan] * 3),
    ],
)
def test_numbers_or_names(values: object, expected: list) -> None:
    index = ["x", "y", "z"]
    found = numbers_or_names(pd.Series(values, index=index))
    wanted = pd.Series(expected, index=index)
    is_number = all(isinstance(v, int | float) for v in expected)
    assert (found.dtype == np.float64) == is_number
    pd.testing.assert_series_equal(found, wanted, check_dtype=False)


def test_samples_of_a_subject_are_averaged() -> None:
    samples = _samples(vehicle=["m1", "m1", "m2"], CART=["m3", "m4"])
    samples = samples.assign(age=[10, 20, 30, 40, 50], site=["a", "b", "a", "a", "c"])
    (comparison,) = expand_contrasts([_with("age", "site")], samples)
    assert comparison.units["covariate:age"].tolist() == [15, 30, 40, 50]
    assert comparison.units["covariate:site"].tolist() == ["a+b", "a", "a", "c"]


def test_smallest_effect_of_the_design() -> None:
    unpaired = _samples(vehicle=["m1", "m2", "m3"], CART=["m4", "m5", "m6", "m7"])
    row = check_design(unpaired, contrasts=[CART]).iloc[0]
    power = TTestIndPower().power(row.detectable_sd, nobs1=3, ratio=4 / 3, alpha=0.05)
    assert power == pytest.approx(0.8, abs=1e-9)
    pairs = _samples(vehicle=["d1", "d2", "d3", "d4"], CART=["d1", "d2", "d3", "d4"])
    row = check_design(pairs, contrasts=[_with(paired=True)]).iloc[0]
    power = TTestPower().power(row.detectable_sd / np.sqrt(2), nobs=4, alpha=0.05)
    assert power == pytest.approx(0.8, abs=1e-9)
    single = _samples(vehicle=["m1", "m2"], CART=["m3"])
    assert np.isnan(check_design(single, contrasts=[CART]).iloc[0].detectable_sd)
    # A batch that is out of balance costs power.
    batches = _covariates(batch=list("aaabbbba"))
    plain = check_design(_covariates(), contrasts=[CART]).iloc[0].detectable_sd
    assert check_design(batches, contrasts=[CART]).iloc[0].detectable_sd > plain


def test_subjects_per_arm_and_time() -> None:
    samples = pd.DataFrame(
        {
            "subject": ["m1", "m2", "m1", "m2", "m3", "m4", "m5"],
            "condition": ["CART"] * 4 + ["vehicle"] * 3,
            "timepoint": ["d2", "d2", "d10", "d10", "d2", "d10", "pre"],
        }
    )
    table = subjects_per_arm(samples)
    assert list(table.columns) == ["pre", "d2", "d10", "subjects"]
    assert table.loc["CART"].tolist() == [0, 2, 2, 2]  # followed
    assert table.loc["vehicle"].tolist() == [1, 1, 1, 3]  # taken
    assert subjects_per_arm(samples.drop(columns="timepoint")).columns.tolist() == ["subjects"]
    with pytest.raises(DesignError, match="no column subject"):
        subjects_per_arm(samples.drop(columns="subject"))
