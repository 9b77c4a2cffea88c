"""Momentum: what is read stays, and changing sides is lossless."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.errors import InputError
from evenkeel.spec import Momentum


def test_binary_subtraction_would_drift():
    assert 1 - (1 - 0.1) != 0.1
    assert Momentum(0.1, "new").as_weighing("old").as_weighing("new") == Momentum(0.1, "new")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (0.99, 0.01), (0.9, 0.1), (0.997, 0.003), (0.999, 0.001), (0.9997, 0.0003),
        (0.99999, 1e-5), (0.9999999, 1e-7), (0.0, 1.0), (1.0, 0.0), (0.5, 0.5), (2.0, -1.0),
        (-0.5, 1.5),
    ],
)  # fmt: skip
def test_known_pairs(old, new):
    assert Momentum(old, "old").as_weighing("new") == Momentum(new, "new")
    assert Momentum(new, "new").as_weighing("old") == Momentum(old, "old")


@given(st.integers(0, 10**15), st.integers(0, 15))
def test_decimals_of_15_places_come_back(digits, places):
    value = float(Decimal(digits).scaleb(-places) % 1)
    for side, other in (("new", "old"), ("old", "new")):
        momentum = Momentum(value, side)
        there = momentum.as_weighing(other)
        assert there.weighs == other
        assert there.as_weighing(side) == momentum


@given(st.floats(0.5, 1))
def test_every_number_from_half_to_one_comes_back(value):
    momentum = Momentum(value, "old")
    assert momentum.as_weighing("new").as_weighing("old") == momentum


@given(st.floats(-2, 3))
def test_every_number_keeps_its_meaning(value):
    """Up to the rounding of the value's decimal, of 1 - value, and of the result."""
    momentum = Momentum(value, "new")
    there = momentum.as_weighing("old")
    assert abs(there.new_weight(1) - value) <= 3 * 2.0**-53 * 3


def test_float32_of_onnx_keeps_its_digits():
    there = Momentum(0.8999999761581421, "old").as_weighing("new")
    assert there.value == 0.1000000238418579
    assert there.as_weighing("old").value == 0.8999999761581421


def test_numpy_numbers_are_numbers():
    assert Momentum(np.float64(0.99), "old").as_weighing("new") == Momentum(0.01, "new")


def test_weights():
    assert Momentum(0.1, "new").new_weight(7) == 0.1
    assert Momentum(0.1, "new").old_weight(7) == 0.9
    assert Momentum(0.99, "old").old_weight(7) == 0.99
    assert Momentum(0.99, "old").new_weight(7) == 1 - 0.99
    assert [Momentum.cumulative().new_weight(t) for t in (1, 2, 4)] == [1.0, 0.5, 0.25]
    assert [Momentum.cumulative().old_weight(t) for t in (1, 2, 4)] == [0.0, 0.5, 0.75]


def test_cumulative_has_no_sides():
    cumulative = Momentum.cumulative()
    assert cumulative.is_cumulative
    assert not Momentum(0.0, "new").is_cumulative
    assert cumulative.as_weighing("old") is cumulative
    assert cumulative == Momentum(None, "new")


def test_equal_numbers_on_different_sides_differ():
    assert Momentum(0.5, "new") != Momentum(0.5, "old")


@pytest.mark.parametrize(
    ("value", "weighs"),
    [
        (float("nan"), "new"), (float("inf"), "old"), (0.1, "both"), (0.1, None), (None, "old"),
        ("0.1", "new"), (True, "new"), ([0.1], "new"), (10**400, "new"),
    ],
)  # fmt: skip
def test_impossible_momentum_is_refused(value, weighs):
    with pytest.raises(InputError, match="weighs"):
        Momentum(value, weighs)
