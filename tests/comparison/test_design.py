"""Designs: who stands against whom, and what cannot be answered."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from crs_sc.comparison import Contrast, check_design
from crs_sc.comparison.design import arms_of, expand_contrasts
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
    ]
    assert (row.n_reference, row.n_treated, row.n_pairs) == (3, 3, 0)
    assert (row.test, row.blocks, row.status, row.note) == ("unpaired", "", "ok", "")
    assert row.pvalue_floor == pytest.approx(0.1)


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
    expected = ["reference"] * 3 + [""] + ["treated"] * 3 + [""]
    assert list(arms_of(samples, comparison)) == expected


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
