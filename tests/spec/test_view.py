"""The canonical view of every axis order, there and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evenkeel.errors import ShapeError
from evenkeel.spec import canonical_view, from_canonical


@st.composite
def cases(draw):
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=5, min_side=0, max_side=4))
    array = np.arange(np.prod(shape)).reshape(shape)
    array = array.transpose(draw(st.permutations(range(len(shape)))))
    return array, draw(st.integers(-len(shape), len(shape) - 1))


@given(cases())
def test_there_and_back(case):
    array, axis = case
    view = canonical_view(array, axis)
    assert view.ndim == 3
    assert view.shape[1] == array.shape[axis]
    back = from_canonical(view, array.shape, axis)
    np.testing.assert_array_equal(back, array, strict=True)


@given(cases())
def test_channel_c_holds_exactly_the_elements_of_channel_c(case):
    array, axis = case
    view = canonical_view(array, axis)
    others = np.moveaxis(array, axis, 0).reshape(array.shape[axis], view.shape[0], view.shape[2])
    np.testing.assert_array_equal(view, others.transpose(1, 0, 2))


@pytest.mark.parametrize(
    ("shape", "axis", "expected"),
    [
        ((8, 3), 1, (8, 3, 1)),
        ((8, 3), 0, (3, 8, 1)),
        ((8, 3, 5), 1, (8, 3, 5)),
        ((8, 3, 5, 7), 1, (8, 3, 35)),
        ((8, 5, 7, 3), -1, (8, 3, 35)),
        ((3, 8, 5, 7), 0, (8, 3, 35)),
        ((8, 5, 3, 7), 2, (8, 3, 35)),
        ((3,), 0, (1, 3, 1)),
        ((0, 3, 5), 1, (0, 3, 5)),
        ((2, 0, 5, 0), 1, (2, 0, 0)),
    ],
)
def test_shapes(shape, axis, expected):
    assert canonical_view(np.zeros(shape), axis).shape == expected


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_contiguous_arrays_are_not_copied(axis):
    array = np.zeros((2, 3, 4, 5))
    view = canonical_view(array, axis)
    assert np.shares_memory(view, array)
    assert np.shares_memory(from_canonical(view, array.shape, axis), array)


def test_positions_keep_their_order():
    array = np.arange(24).reshape(2, 3, 4)
    np.testing.assert_array_equal(canonical_view(array, -1)[1, 2], [14, 18, 22])


@pytest.mark.parametrize(("shape", "axis"), [((), 0), ((3,), 1), ((2, 3), 2), ((2, 3), -3)])
def test_missing_axis_is_refused(shape, axis):
    with pytest.raises(ShapeError, match="no such axis"):
        canonical_view(np.zeros(shape), axis)
    with pytest.raises(ShapeError, match="no such axis"):
        from_canonical(np.zeros((1, 1, 1)), shape, axis)


def test_view_of_another_shape_is_refused():
    with pytest.raises(ShapeError, match=r"is \(2, 5, 12\)"):
        from_canonical(np.zeros((2, 12, 5)), (2, 3, 4, 5), -1)
