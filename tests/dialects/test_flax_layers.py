"""Kinds and layouts of the layers of live Flax models."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from evenkeel.dialects import flax as dialect

from ._flax_nets import (
    U,
    half_square,
    randomized,
    values,
)


@pytest.mark.parametrize(
    "cell",
    [
        "SimpleCell",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("LSTMCell", "OptimizedLSTMCell", "GRUCell")
        ),
    ],
)
def test_cells_of_nnx_and_linen_compute_alike_from_the_same_canonical_arrays(cell):
    class Nnx(nnx.Module):
        def __init__(self, rngs):
            self.rnn = nnx.RNN(getattr(nnx, cell)(3, 4, rngs=rngs))

        def __call__(self, x):
            return self.rnn(x, rngs=nnx.Rngs(0))

    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    module = linen.RNN(getattr(linen, cell)(4))
    theirs = dialect.open_network((module, module.init(jax.random.key(0), x)))
    theirs.trace(x)
    ours = dialect.open_network(Nnx(nnx.Rngs(0)))
    randomized(ours)
    (layer,), (other,) = ours.layers(), theirs.layers()
    assert layer.kind == other.kind != "other"
    theirs.write({other.name: values(ours)[layer.name]})
    mine, trace = ours.trace(x), theirs.trace(x)
    np.testing.assert_allclose(mine.output, trace.output, rtol=16 * U, atol=16 * U)
    np.testing.assert_array_equal(mine.calls[0].output, mine.output)
    assert [call.layer for call in trace.calls] == [other.name]
    slopes = [net.step(x, half_square).gradients for net in (ours, theirs)]
    for role, slope in slopes[0][layer.name].items():
        there = slopes[1][other.name][role].copy()
        if layer.kind == "gru" and role == "bias":
            there[1, 8:] = 0
        np.testing.assert_allclose(slope, there, rtol=0, atol=256 * U * np.abs(slope).max())


@pytest.mark.parametrize("transposed", [False, True])
def test_transposed_convolutions_are_canonical_either_way(transposed):
    def net(flag):
        return nnx.ConvTranspose(
            2, 3, (3, 2), strides=(2, 1), padding="VALID", transpose_kernel=flag, rngs=nnx.Rngs(0)
        )

    x = np.random.default_rng(0).normal(size=(1, 4, 4, 2)).astype(np.float32)
    one, other = (dialect.open_network(net(flag)) for flag in (transposed, not transposed))
    (layer,) = one.layers()
    assert layer.shapes["kernel"] == (3, 2, 3, 2)
    assert layer.settings["padding"] == "valid"
    other.write(values(one))
    np.testing.assert_allclose(one.trace(x).output, other.trace(x).output, rtol=16 * U, atol=16 * U)


def test_explicit_padding_of_a_transposed_convolution_is_what_is_cut_off():
    layer = nnx.ConvTranspose(2, 3, (4, 3), padding=((2, 1), (1, 1)), rngs=nnx.Rngs(0))
    (found,) = dialect.open_network(layer).layers()
    assert found.settings["padding"] == ((1, 2), (1, 1))
    output = layer(jnp.ones((1, 5, 5, 2)))
    full = (5 - 1) + 4, (5 - 1) + 3
    assert output.shape[1:3] == (full[0] - 3, full[1] - 2)


@pytest.mark.parametrize(
    "layer",
    [
        lambda rngs: nnx.Conv(2, 3, (3,), input_dilation=2, rngs=rngs),
        lambda rngs: nnx.Conv(2, 3, (3,), mask=jnp.ones((3, 2, 3)), rngs=rngs),
        lambda rngs: nnx.LinearGeneral(2, (3, 4), rngs=rngs),
        lambda rngs: nnx.RMSNorm(3, rngs=rngs),
        lambda rngs: nnx.LayerNorm(3, reduction_axes=(1, 2), feature_axes=-1, rngs=rngs),
        lambda rngs: nnx.SimpleCell(2, 3, residual=True, rngs=rngs),
        lambda rngs: nnx.LSTMCell(2, 3, activation_fn=nnx.relu, rngs=rngs),
    ],
)
def test_what_computes_something_else_is_of_unknown_kind(layer):
    made = layer(nnx.Rngs(0))

    class Net(nnx.Module):
        def __init__(self):
            self.inner = made

        def __call__(self, x):
            return x

    (only,) = dialect.open_network(Net()).layers()
    assert (only.kind, only.name) == ("other", "inner")
    assert only.settings["class"].endswith(type(made).__name__)
