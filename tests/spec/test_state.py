"""The arrays of a layer: shapes, equality that NaN cannot fool, and a bit-exact JSON form."""

from __future__ import annotations

import json
import pickle
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evenkeel.errors import ChannelError, DTypeError, InputError, ShapeError
from evenkeel.spec import Spec, State

FLOATS = st.sampled_from([np.float16, np.float32, np.float64])


@st.composite
def states(draw):
    """Every combination of arrays, with NaN, Inf, subnormal numbers and -0."""
    channels = draw(st.integers(0, 4))
    arrays = FLOATS.flatmap(lambda dtype: hnp.arrays(dtype, channels))
    names = ("weight", "bias", "running_mean", "running_var")
    return State(
        **{name: draw(st.none() | arrays) for name in names},
        batches=draw(st.none() | st.integers(0, 2**63 - 1)),
        others=draw(st.dictionaries(st.text(max_size=3), arrays, max_size=2)),
    )


@given(states())
def test_json_round_trip_keeps_every_bit(state):
    back = State.from_json(state.to_json())
    assert back.identical(state)
    nan = any(np.isnan(array).any() for array in state.arrays().values())
    assert (back == state) is not nan


@given(states())
def test_pickle_keeps_every_bit(state):
    assert pickle.loads(pickle.dumps(state)).identical(state)


def full():
    weight, bias, mean, var, extra = (np.full(2, 1.0 + i, np.float32) for i in range(5))
    return State(weight, bias, mean, var, batches=3, others={"extra": extra})


def test_equal_states_are_equal():
    assert full() == full()
    assert full().identical(full())
    assert State() == State()
    assert full() != "a state"


@pytest.mark.parametrize(
    "change",
    [
        {"weight": None}, {"bias": np.float32([2, 9])}, {"running_mean": np.float64([3, 3])},
        {"running_var": np.float32([4, np.nan])}, {"batches": 4}, {"batches": None},
        {"others": {}}, {"others": {"other": np.float32([5, 5])}},
        {"others": {"extra": np.float32([5, 6])}},
    ],
    ids=str,
)  # fmt: skip
def test_every_difference_counts(change):
    changed = replace(full(), **change)
    assert changed != full()
    assert not changed.identical(full())


def test_states_of_different_size_differ():
    assert State(np.ones(1)) != State(np.ones(2))
    assert State(np.ones(0)) != State()


def test_nan_equals_nothing_but_is_identical_to_itself():
    state = State(np.array([np.nan, 1.0]))
    assert state != state  # noqa: PLR0124 - that is the point
    assert state.identical(state)


def test_negative_zero_is_equal_but_not_identical():
    plus, minus = State(np.array([0.0])), State(np.array([-0.0]))
    assert plus == minus
    assert not plus.identical(minus)


def test_arrays_are_copied_and_state_is_frozen_and_no_key():
    weight = np.ones(2)
    state = State(weight)
    weight[0] = 5.0
    assert state.weight[0] == 1.0
    with pytest.raises(FrozenInstanceError):
        state.weight = None
    with pytest.raises(TypeError, match="unhashable"):
        hash(state)


def test_foreign_byte_order_and_strides_are_made_native():
    state = State(np.arange(6, dtype=">f4")[::2])
    assert state.weight.dtype == np.float32
    assert state.weight.dtype.isnative
    assert state == State(np.float32([0, 2, 4]))


def test_counter_may_be_an_array_of_one_integer():
    for counter in (np.array(5), np.array([5]), np.int64(5), torch.tensor(5)):
        state = State(batches=counter)
        assert state.batches == 5
        assert type(state.batches) is int


@pytest.mark.parametrize("batches", [-1, 1.0, np.array([1, 2]), "3", True, np.array([])])
def test_impossible_counter_is_refused(batches):
    with pytest.raises(InputError, match="whole number"):
        State(batches=batches)


@pytest.mark.parametrize("shape", [(), (1, 2), (2, 1, 1)])
def test_other_ranks_are_refused(shape):
    with pytest.raises(ShapeError, match=r"\(C,\)"):
        State(running_mean=np.ones(shape))


@pytest.mark.parametrize("dtype", [np.int64, complex, bool, object, np.longdouble])
def test_other_dtypes_are_refused(dtype):
    if np.dtype(dtype) == np.float64:
        pytest.skip("longdouble is float64 on this platform")
    with pytest.raises(DTypeError, match="weight of dtype"):
        State(np.ones(2, dtype))


def test_arrays_of_different_size_are_refused():
    with pytest.raises(ChannelError, match="one number per channel"):
        State(np.ones(2), np.ones(3))
    with pytest.raises(ChannelError, match="one number per channel"):
        State(np.ones(2), others={"a": np.ones(3)})


def test_no_other_array_hides_a_field():
    with pytest.raises(InputError, match="fields of their own"):
        State(np.ones(2), others={"weight": np.zeros(2)})


@given(st.booleans(), st.booleans(), st.booleans())
def test_initial_state_fits_its_spec(scale, offset, tracked):
    spec = Spec(3, scale=scale, offset=offset, track_statistics=tracked)
    state = State.initial(spec)
    assert state.check(spec) is state
    for other in (replace(spec, scale=not scale), replace(spec, offset=not offset)):
        with pytest.raises(InputError, match="not as described"):
            state.check(other)
    with pytest.raises(InputError, match="running_var"):
        state.check(replace(spec, track_statistics=not tracked))


def test_initial_state_is_torchs():
    layer = torch.nn.BatchNorm2d(3)
    got = State.initial(Spec(3, parameter_dtype="bfloat16", statistics_dtype="float32"))
    expected = [layer.weight, layer.bias, layer.running_mean, layer.running_var]
    assert got == State(*(t.detach().numpy() for t in expected), batches=0)


def test_check_refuses_another_number_of_channels():
    with pytest.raises(ChannelError, match="layer 'bn' has 4 channels"):
        State.initial(Spec(3)).check(Spec(4, name="bn"))
    extra = State(np.ones(3), others={"moving_stddev": np.ones(3)})
    spec = Spec(4, offset=False, track_statistics=False)
    with pytest.raises(ChannelError, match="4 channels"):
        extra.check(spec)


def edited(**changes):
    return json.dumps(json.loads(full().to_json()) | changes)


def array(**changes):
    return {"dtype": "float32", "base64": "AACAPwAAAEA="} | changes


def test_the_written_form_of_version_1_stays_readable():
    text = json.dumps(
        {"evenkeel": "state", "version": 1, "weight": array(), "bias": None,
         "running_mean": None, "running_var": None, "batches": 7, "others": {"a": array()}}
    )  # fmt: skip
    values = np.float32([1, 2])
    assert State.from_json(text) == State(values, batches=7, others={"a": values})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "not valid JSON"),
        (Spec(3).to_json(), "without that header"),
        (edited(version=99), "version 99"),
        (edited(gamma=None), "unknown keys"),
        (edited(weight=[1.0, 2.0]), "an object was expected"),
        (edited(weight=array(dtype="int8")), "int8"),
        (edited(weight=array(dtype=["float32"])), "float32"),
        (edited(weight=array(base64="AACAPwAA")), "damaged"),
        (edited(weight=array(base64="????")), "damaged"),
        (edited(weight=array(base64=None)), "damaged"),
        (edited(weight=array(base64="AACAPw==")), "one number per channel"),
        (edited(weight=array(shape=[2])), "unknown keys"),
        (edited(batches=-1), "whole number"),
        (edited(batches=1.5), "whole number"),
        (edited(others=None), "object of arrays"),
        (edited(others={"a": 1}), "an object was expected"),
    ],
    ids=lambda v: v[-40:],
)
def test_damaged_json_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        State.from_json(text)


def test_the_unedited_text_is_accepted():
    assert State.from_json(edited()) == full()
