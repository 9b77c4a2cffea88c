"""The layouts of Flax's arrays, without Flax."""

from __future__ import annotations

import numpy as np
import pytest

from evenkeel.checkpoints import StoredArray
from evenkeel.dialects.flax import _codec
from evenkeel.errors import UnsayableError

#: Codec and the shapes of its canonical roles, of 3 inputs and 4 units.
CODECS = {
    "dense": (_codec.DENSE, {"kernel": (3, 4), "bias": (4,)}),
    "transposed": (_codec.TRANSPOSED, {"kernel": (3, 2, 4, 5), "bias": (4,)}),
    "prelu": (_codec.PRELU, {"alpha": (1,)}),
    "lstm": (_codec.LSTM, {"kernel": (3, 16), "recurrent": (4, 16), "bias": (16,)}),
    "lstm_nnx": (_codec.LSTM_NNX, {"kernel": (3, 16), "recurrent": (4, 16), "bias": (16,)}),
    "lstm_joined": (_codec.LSTM_JOINED, {"kernel": (3, 16), "bias": (16,)}),
    "gru": (_codec.GRU, {"kernel": (3, 12), "recurrent": (4, 12), "bias": (2, 12)}),
    "gru_joined": (_codec.GRU_JOINED, {"kernel": (3, 12), "recurrent": (4, 12)}),
    "simple": (_codec.SIMPLE, {"kernel": (3, 4), "recurrent": (4, 4), "bias": (4,)}),
}
EACH = pytest.mark.parametrize(("codec", "shapes"), CODECS.values(), ids=CODECS)


def drawn(shapes) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {name: generator.normal(size=shape) for name, shape in shapes.items()}


@EACH
def test_reading_undoes_writing(codec, shapes):
    values = drawn(shapes)
    if codec is _codec.GRU:
        values["bias"][1, :8] = 0  # Flax adds these to the first row
    own = {k: StoredArray(a.shape, "float64", lambda a=a: a)
           for k, a in _codec.parts(codec, values).items()}  # fmt: skip
    read = _codec.roles(codec, own)
    assert {role: array.shape for role, array in read.items()} == shapes
    for role, array in values.items():
        np.testing.assert_array_equal(read[role].read(), array)


@EACH
def test_gradients_are_the_transpose_of_writing(codec, shapes):
    values = drawn(shapes)
    written = _codec.parts(codec, values)
    slopes = {name: np.cos(np.arange(a.size)).reshape(a.shape) for name, a in written.items()}
    pulled = _codec.gradients(codec, slopes)
    there = sum(float(np.vdot(slopes[name], written[name])) for name in written)
    back = sum(float(np.vdot(pulled[role], values[role])) for role in values)
    assert back == pytest.approx(there, rel=1e-12)


def test_the_bias_of_an_nnx_gru_cell():
    bias = np.arange(24.0).reshape(2, 12)
    with pytest.raises(UnsayableError, match="23"):
        _codec.parts(_codec.GRU_JOINED, {"bias": bias})
    bias[1, 8:] = 0
    own = _codec.parts(_codec.GRU_JOINED, {"bias": bias})["dense_i/bias"]
    np.testing.assert_array_equal(own[:4], bias[:, 4:8].sum(0))  # r, which is second there
    np.testing.assert_array_equal(own[4:8], bias[:, :4].sum(0))
    np.testing.assert_array_equal(own[8:], bias[0, 8:])
    slope = _codec.gradients(_codec.GRU_JOINED, {"dense_i/bias": np.arange(12.0)})["bias"]
    np.testing.assert_array_equal(slope[:, :8], np.tile([4, 5, 6, 7, 0, 1, 2, 3], (2, 1)))
    np.testing.assert_array_equal(slope[1, 8:], 0)


def test_a_transposed_kernel_is_turned_around():
    kernel = np.arange(6.0).reshape(3, 1, 2)
    own = _codec.parts(_codec.TRANSPOSED, {"kernel": kernel})["kernel"]
    np.testing.assert_array_equal(own[:, :, 0], kernel[::-1, 0, :])


def test_parts_that_are_not_all_there_are_no_role():
    assert not _codec.covers(_codec.LSTM, ["ii/kernel", "if/kernel", "ig/kernel"])
    assert _codec.covers(_codec.DENSE, ["kernel"])
    assert not _codec.covers(_codec.DENSE, ["kernel", "gain"])
