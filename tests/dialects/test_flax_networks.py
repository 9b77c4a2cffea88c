"""Live Flax models, NNX and Linen, as networks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from evenkeel.dialects import flax as dialect
from evenkeel.errors import InputError, ShapeError, UnsayableError
from evenkeel.spec import Momentum

from ._flax_nets import (
    NETS,
    U,
    half_square,
    nnx_net,
    opened,
    picture,
    randomized,
    values,
)


@NETS
def test_layers_have_kinds_settings_and_names(make):
    network = opened(make())
    layers = {layer.name: layer for layer in network.layers()}
    kinds = {layer.kind for layer in layers.values()}
    assert kinds == {"conv", "batch_norm", "conv_transpose", "group_norm", "prelu", "dense",
                     "layer_norm", "other"}  # fmt: skip
    assert layers["stem"].settings == {
        "strides": (2, 2), "dilation": (1, 1), "padding": "same", "groups": 1,
    }  # fmt: skip
    assert layers["stem"].shapes == {"kernel": (3, 3, 3, 4), "bias": (4,)}
    assert layers["up"].shapes["kernel"] == (3, 3, 6, 4)
    assert layers["group"].settings == {"eps": 1e-6, "groups": 3}
    assert layers["slope"].shapes == {"alpha": (1,)}
    assert layers[""].shapes == {"gain": (5,)}
    spec = layers["norm"].spec
    assert spec.momentum == Momentum(0.9, "old")
    assert not spec.statistics_frozen
    assert layers["norm"].assumed == ()


@NETS
def test_a_trace_lists_the_calls_in_order_and_changes_nothing(make):
    model = make()
    network = opened(model)
    randomized(network)
    before = values(network)
    trace = network.trace(picture())
    names = [call.layer for call in trace.calls]
    body = ["body/layers/0", "body/layers/1", "more/0", "more/0"]
    wanted = body if make is nnx_net else ["body", "body/1", "more", "more"]
    assert names == ["stem", "norm", "up", "group", "slope", *wanted]
    stem = trace.calls[0]
    assert stem.input.shape == (6, 8, 8, 3)
    assert stem.output.shape == (6, 4, 4, 4)
    norm = trace.calls[1]
    np.testing.assert_array_equal(norm.input, stem.output)
    after = values(network)
    for name, roles in before.items():
        for role, array in roles.items():
            np.testing.assert_array_equal(after[name][role], array)
    if make is nnx_net:
        assert type(model.norm) is nnx.BatchNorm
        assert not model.norm.use_running_average
        assert type(model.drop) is nnx.Dropout


@NETS
def test_a_trace_is_what_the_framework_computes(make):
    model = make()
    network = opened(model)
    randomized(network)
    output = network.trace(picture()).output
    if make is nnx_net:
        model.eval()
        expected = model(picture())
    else:
        expected = model[0].apply(model[1], picture(), train=False)
    np.testing.assert_allclose(output, expected, rtol=64 * U, atol=64 * U)


def _by_hand(make, model, x):
    """Gradients and statistics as a user of the framework takes them, dropout left out."""
    if make is nnx_net:
        model = nnx.clone(model)
        model.drop.rate = 0.0
        model.train()
        gradients = nnx.grad(lambda model: 0.5 * jnp.square(model(x)).sum())(model)
        return gradients["stem"]["kernel"][...], gradients["gain"][...], model.norm.var[...]
    module, variables = model
    state = variables["batch_stats"]

    def loss(params):
        with linen.intercept_methods(_no_dropout):
            output, updated = module.apply(
                {"params": params, "batch_stats": state}, x, train=True, mutable=["batch_stats"]
            )
        return 0.5 * jnp.square(output).sum(), updated

    gradients, updated = jax.grad(loss, has_aux=True)(variables["params"])
    return gradients["stem"]["kernel"], gradients["gain"], updated["batch_stats"]["norm"]["var"]


def _no_dropout(function, args, kwargs, context):
    return args[0] if isinstance(context.module, linen.Dropout) else function(*args, **kwargs)


@NETS
def test_a_step_gives_gradients_and_statistics_of_the_framework(make):
    model = make()
    network = opened(model)
    randomized(network)
    kernel, gain, var = _by_hand(make, model, picture())
    parameters = values(network)
    step = network.step(picture(), half_square)
    assert step.remarks == ("Dropout was switched off.",)
    assert step.loss == pytest.approx(half_square(step.output)[0])
    bound = 256 * U
    scale = np.abs(kernel).max()
    np.testing.assert_allclose(step.gradients["stem"]["kernel"], kernel, atol=bound * scale)
    np.testing.assert_allclose(step.gradients[""]["gain"], gain, rtol=bound)
    np.testing.assert_allclose(step.statistics["norm"]["running_var"], var, rtol=bound)
    after = values(network)
    np.testing.assert_array_equal(after["norm"]["running_var"],
                                  step.statistics["norm"]["running_var"])  # fmt: skip
    assert not np.array_equal(after["norm"]["running_mean"], parameters["norm"]["running_mean"])
    np.testing.assert_array_equal(after["stem"]["kernel"], parameters["stem"]["kernel"])
    trained = {(name, role) for name, roles in parameters.items() for role in roles}
    trained -= {("norm", "running_mean"), ("norm", "running_var")}
    assert {(n, r) for n, roles in step.gradients.items() for r in roles} == trained


@NETS
def test_double_computes_in_float64_and_leaves_the_original(make):
    network = opened(make())
    randomized(network)
    double = network.double()
    trace, wide = network.trace(picture()), double.trace(picture())
    assert wide.output.dtype == np.float64
    assert all(call.output.dtype == np.float64 for call in wide.calls)
    error = np.abs(trace.output - wide.output).max()
    assert 0 < error < 1e-4 * np.abs(wide.output).max()
    step = double.step(picture(), half_square)
    assert {array.dtype for roles in step.gradients.values() for array in roles.values()} == {
        np.dtype(np.float64)
    }
    # A derivative by finite differences, which float32 could not resolve.
    kernel = values(double)["stem"]["kernel"]
    moved = np.zeros_like(kernel)
    moved[0, 1, 2, 3] = 1e-6
    losses = []
    for sign in (1, -1):
        double.write({"stem": {"kernel": kernel + sign * moved}})
        losses.append(double.step(picture(), half_square).loss)
    slope = (losses[0] - losses[1]) / 2e-6
    assert slope == pytest.approx(step.gradients["stem"]["kernel"][0, 1, 2, 3], rel=1e-5)
    assert network.trace(picture()).output.dtype == np.float32
    assert not jax.config.read("jax_enable_x64")


@NETS
def test_what_is_written_is_read_again_and_types_stay(make):
    network = opened(make())
    new = values(network)
    new["stem"]["kernel"] = np.random.default_rng(2).normal(size=(3, 3, 3, 4))
    network.write({"stem": {"kernel": new["stem"]["kernel"]}})
    again = values(network)["stem"]["kernel"]
    assert again.dtype == np.float32
    np.testing.assert_array_equal(again, new["stem"]["kernel"].astype(np.float32))


@NETS
@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"nothing": {"kernel": np.zeros(1)}}, InputError),
        ({"stem": {"recurrent": np.zeros(1)}}, InputError),
        ({"stem": {"bias": np.zeros(5)}}, ShapeError),
    ],
)
def test_all_or_nothing_is_written(make, wrong, error):
    network = opened(make())
    before = values(network)
    good = {"norm": {"weight": np.full(4, 7.0)}}
    with pytest.raises(error):
        network.write({**good, **wrong})
    np.testing.assert_array_equal(values(network)["norm"]["weight"], before["norm"]["weight"])


def test_an_nnx_gru_refuses_a_recurrent_bias_before_anything_is_written():
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(nnx.Linear(3, 3, rngs=rngs), nnx.RNN(nnx.GRUCell(3, 4, rngs=rngs)))
    network = dialect.open_network(model)
    bias = np.zeros((2, 12))
    bias[1, 8:] = 0.5
    with pytest.raises(UnsayableError, match=r"0\.5"):
        network.write({"layers/0": {"bias": np.ones(3)}, "layers/1/cell": {"bias": bias}})
    assert not values(network)["layers/0"]["bias"].any()
