"""Time points in the order of time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crs_sc.comparison.design import time_order, time_values


@pytest.mark.parametrize(
    "names",
    [
        ["d0", "d2", "d10"],
        ["day 0", "day 2", "day 10"],
        ["D-1", "D0", "D3", "D10"],
        ["day-1", "day-2", "day-10"],  # all have the dash: no minus
        ["-3", "-1", "0", "7"],
        ["0", "0.5", "1.25", "1.5", "10"],
        ["30min", "2h", "6h", "24h", "2d", "1 week"],
        ["pre", "d1", "d7"],
        ["baseline", "6h", "day 3"],
        ["day_2", "day_10"],
        ["early 2", "early 10", "late"],  # no time, but numbers
        ["pre", "during", "post"],
        ["2 x", "10 x", "late"],
        ["Tag 1a", "Tag 2a", "Tag 10a"],
    ],
)
def test_order(names: list[str]) -> None:
    assert time_order(reversed(names)) == names


def test_values_are_days() -> None:
    values = time_values(["pre", "6h", "D1", "2 weeks", "D-2"])
    assert values == pytest.approx({"pre": -3, "6h": 0.25, "D1": 1, "2 weeks": 14, "D-2": -2})
    assert time_values(["d1", "late"]) == {}
    assert time_values(["pre"]) == {}
    assert time_values([]) == {}


@given(
    st.lists(st.integers(0, 400), min_size=1, unique=True), st.sampled_from(["d{}", "{} h", "{}"])
)
def test_any_numbers_in_any_dress(numbers: list[int], dress: str) -> None:
    names = [dress.format(n) for n in numbers]
    assert time_order(names) == [dress.format(n) for n in sorted(numbers)]
    values = np.array([time_values(names)[name] for name in names])
    assert np.array_equal(np.argsort(values), np.argsort(numbers))
