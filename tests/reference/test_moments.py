"""Moments against exact rational arithmetic, and every promise about masks and edge cases."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evenkeel import reference
from evenkeel.errors import ChannelError, DTypeError, InputError, ShapeError

U = 2.0**-53

# Blocks of 128 with 8 partial sums each are NumPy's pairwise summation: 16 + 3 roundings, and
# one per doubling of the number of blocks (none here). Twice that also covers the roundings of
# difference, square and division.
K = 40


def exact(values):
    """Mean and biased variance of one channel as fractions."""
    values = [Fraction(float(v)) for v in values]
    mean = sum(values, Fraction(0)) / len(values)
    return mean, sum(((v - mean) ** 2 for v in values), Fraction(0)) / len(values)


def assert_exact(got, rows):
    """Check moments against exact ones, within the bound of the corrected two-pass algorithm."""
    assert got.count == len(rows[0])
    for channel, row in enumerate(rows):
        mean, var = exact(row)
        spread = sum(abs(Fraction(float(v)) - mean) for v in row) / len(row)
        mean_bound = U * abs(mean) * (1 + K * U * len(row)) + K * U * spread
        assert abs(Fraction(float(got.mean[channel])) - mean) <= mean_bound
        # The rounding of the mean enters squared, and is taken off again up to rounding.
        var_bound = K * U * (var + (2 * U * abs(mean)) ** 2)
        assert abs(Fraction(float(got.var[channel])) - var) <= var_bound


def offsets():
    return st.sampled_from([0.0, 1.0, -3e3, 1e6, -1e8, 1e8])


@st.composite
def slabs(draw, max_side=5):
    shape = draw(hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=max_side))
    elements = st.floats(-4, 4, width=32)
    values = draw(hnp.arrays(np.float64, shape, elements=elements))
    return values * draw(st.sampled_from([1.0, 1e-6, 1e4])) + draw(offsets())


@given(slabs())
def test_equals_exact_moments(x):
    rows = x.transpose(1, 0, 2).reshape(x.shape[1], -1)
    assert_exact(reference.moments(x), rows)


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e6, 1e8])
def test_equals_exact_moments_of_many_values(offset):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 2, 30)) + offset
    assert_exact(reference.moments(x), x.transpose(1, 0, 2).reshape(2, -1))


def test_textbook_variance_would_not_pass():
    x = np.random.default_rng(0).standard_normal((50, 1, 30)) + 1e8
    mean = x.mean()
    textbook = reference.Moments(x.size, np.array([mean]), np.array([(x**2).mean() - mean**2]))
    with pytest.raises(AssertionError):
        assert_exact(textbook, x.reshape(1, -1))


def test_one_outlier_does_not_cost_the_rest():
    x = np.random.default_rng(1).standard_normal((64, 1, 16))
    x[0, 0, 0] = 1e8
    assert_exact(reference.moments(x), x.reshape(1, -1))


def test_tiny_variance_at_large_mean():
    x = (1e6 + np.arange(64) % 2 * 2.0**-30).reshape(8, 1, 8)
    got = reference.moments(x)
    assert got.mean[0] == pytest.approx(1e6 + 2.0**-31, rel=2 * U)
    assert got.var[0] == pytest.approx(2.0**-62, rel=K * U)


def test_variance_of_one_unit_in_the_last_place():
    """The mean, 1e6 and two thirds of a unit, is no float; what its rounding does is taken off."""
    unit = np.spacing(1e6)
    row = 1e6 + unit * np.array([0.0, 1.0, 1.0])
    got = reference.moments(row.reshape(1, 1, 3))
    assert got.var[0] == pytest.approx(unit**2 * 2 / 9, rel=K * U)


@given(st.floats(-1e30, 1e30), st.integers(1, 400))
def test_constant_channel_has_variance_exactly_zero(value, count):
    got = reference.moments(np.full((count, 1, 1), value))
    assert got.mean[0] == value
    assert got.var[0] == 0.0


def test_one_value_per_channel():
    got = reference.moments(np.array([[[1e8 + 0.1], [3.3]]]))
    assert got.count == 1
    np.testing.assert_array_equal(got.mean, [1e8 + 0.1, 3.3])
    np.testing.assert_array_equal(got.var, [0.0, 0.0])


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0)])
def test_no_value_gives_zeros(shape):
    got = reference.moments(np.empty(shape))
    assert got.count == 0
    np.testing.assert_array_equal(got.mean, np.zeros(3))
    np.testing.assert_array_equal(got.var, np.zeros(3))


@given(slabs(), st.data())
def test_mask_selects_values_and_hides_nan(x, data):
    mask = data.draw(hnp.arrays(bool, (x.shape[0], x.shape[2])))
    kept = x.transpose(1, 0, 2)[:, mask]
    poisoned = np.where(mask[:, None, :], x, np.nan)
    got = reference.moments(poisoned, mask)
    assert got.count == mask.sum()
    if mask.any():
        assert_exact(got, kept)
    else:
        np.testing.assert_array_equal([got.mean, got.var], np.zeros((2, x.shape[1])))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nonfinite_value_stays_in_its_channel(bad):
    x = np.random.default_rng(2).standard_normal((4, 3, 5))
    clean = reference.moments(x)
    x[1, 1, 2] = bad
    got = reference.moments(x)
    assert not np.isfinite(got.mean[1])
    assert np.isnan(got.var[1])
    np.testing.assert_array_equal(got.mean[[0, 2]], clean.mean[[0, 2]])
    np.testing.assert_array_equal(got.var[[0, 2]], clean.var[[0, 2]])


def test_infinite_mean_is_inf_not_nan():
    got = reference.moments(np.array([[[np.inf, 1.0]]]))
    assert got.mean[0] == np.inf


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int8, np.uint64, bool])
def test_everything_else_becomes_float64(dtype):
    got = reference.moments(np.ones((2, 1, 2), dtype))
    assert got.mean.dtype == got.var.dtype == np.float64


def test_bfloat16_is_read_by_value():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = np.array([[[1.5, 2.5]]], ml_dtypes.bfloat16)
    assert reference.moments(x).mean[0] == 2.0


def test_longdouble_stays_and_is_finer():
    if np.finfo(np.longdouble).eps >= np.finfo(np.float64).eps:
        pytest.skip("longdouble is float64 on this platform")
    third = np.longdouble(1) / 3
    x = np.array([[[third, third + 1]]])
    got = reference.moments(x)
    assert got.mean.dtype == got.var.dtype == np.longdouble
    assert abs(got.mean[0] - (third + np.longdouble(0.5))) < np.longdouble(2) ** -62
    assert float(got.mean[0]) != got.mean[0]


def test_input_is_not_written_to():
    x = np.random.default_rng(3).standard_normal((3, 2, 4))
    before = x.copy()
    reference.moments(x, np.eye(3, 4, dtype=bool))
    np.testing.assert_array_equal(x, before)


@given(slabs(max_side=7), st.data())
def test_merge_equals_exact_moments_of_the_union(x, data):
    cuts = data.draw(st.lists(st.integers(0, x.shape[0]), max_size=5).map(sorted))
    parts = [reference.moments(part) for part in np.split(x, cuts)]
    order = data.draw(st.permutations(parts))
    rows = x.transpose(1, 0, 2).reshape(x.shape[1], -1)
    got = reference.merge(order)
    assert got.count == rows.shape[1]
    for channel, row in enumerate(rows):
        mean, var = exact(row)
        scale = max(abs(mean), Fraction(float(np.abs(row).max())))
        assert abs(Fraction(float(got.mean[channel])) - mean) <= K * U * scale
        # Each part's mean is a rounded number, and their differences enter the variance.
        std = Fraction(float(var) ** 0.5)
        bound = K * U * var + 4 * K * U * scale * std + (K * U * scale) ** 2
        assert abs(Fraction(float(got.var[channel])) - var) <= bound


def test_merge_is_exact_where_the_result_is_representable():
    first = reference.Moments(1, np.array([1e8]), np.array([0.0]))
    second = reference.Moments(3, np.array([1e8 + 4]), np.array([2.0]))
    got = reference.merge([first, second])
    assert got.count == 4
    assert got.mean[0] == 1e8 + 3
    assert got.var[0] == 1.5 + 3.0
    assert got.m2[0] == 18.0


def test_merge_of_one_part_changes_nothing():
    part = reference.moments(np.random.default_rng(4).standard_normal((5, 3, 2)) * 7 + 1e8)
    got = reference.merge([part])
    np.testing.assert_array_equal(got.mean, part.mean)
    np.testing.assert_array_equal(got.var, part.var)


def test_merge_ignores_empty_parts_even_with_nan():
    part = reference.moments(np.array([[[1.0, 3.0]]]))
    empty = reference.Moments(0, np.array([np.nan]), np.array([np.nan]))
    got = reference.merge([empty, part, empty])
    assert (got.count, got.mean[0], got.var[0]) == (2, 2.0, 1.0)
    nothing = reference.merge([empty, empty])
    assert (nothing.count, nothing.mean[0], nothing.var[0]) == (0, 0.0, 0.0)


def test_merge_keeps_nonfinite_in_its_channel():
    finite = reference.Moments(2, np.array([1.0, 2.0]), np.array([1.0, 1.0]))
    infinite = reference.Moments(2, np.array([np.inf, 2.0]), np.array([np.nan, 3.0]))
    got = reference.merge([finite, infinite])
    assert got.mean[0] == np.inf
    assert np.isnan(got.var[0])
    assert (got.mean[1], got.var[1]) == (2.0, 2.0)


def test_merge_takes_an_iterator_and_refuses_none():
    part = reference.moments(np.ones((1, 2, 1)))
    assert reference.merge(p for p in [part]).count == 1
    with pytest.raises(InputError, match="no part"):
        reference.merge([])
    with pytest.raises(ChannelError, match="same layer"):
        reference.merge([part, reference.moments(np.ones((1, 3, 1)))])


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 4, 5)])
def test_only_the_canonical_view_is_taken(shape):
    with pytest.raises(ShapeError, match="canonical_view"):
        reference.moments(np.ones(shape))


@pytest.mark.parametrize("dtype", [complex, object, "S3", "U3", "M8[s]", "V2"])
def test_what_is_not_real_is_refused(dtype):
    with pytest.raises(DTypeError, match="real numbers"):
        reference.moments(np.empty((1, 1, 1), dtype))


@pytest.mark.parametrize("mask", [np.ones((2, 4)), np.ones((2, 4), np.uint8)])
def test_mask_of_numbers_is_refused(mask):
    with pytest.raises(DTypeError, match="True = keep"):
        reference.moments(np.ones((2, 3, 4)), mask)


@pytest.mark.parametrize("shape", [(2,), (2, 1), (4, 2), (2, 3, 4), (1, 4)])
def test_mask_of_another_shape_is_refused(shape):
    with pytest.raises(ShapeError, match=r"shape \(N, S\) = \(2, 4\)"):
        reference.moments(np.ones((2, 3, 4)), np.ones(shape, bool))
