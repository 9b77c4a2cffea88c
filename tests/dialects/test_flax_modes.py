"""How Flax models are opened, told to train, and configured."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from flax.core import freeze

from evenkeel.dialects import flax as dialect
from evenkeel.dialects._open import open_network
from evenkeel.errors import DTypeError, InputError
from evenkeel.integrations.flax import BatchNorm
from evenkeel.spec import Momentum, Spec

from ._flax_nets import (
    NETS,
    LinenNet,
    U,
    half_square,
    linen_net,
    nnx_net,
    opened,
    picture,
    values,
)


def test_configure_of_nnx_sets_what_it_can_and_keeps_the_object():
    model = nnx_net()
    network = dialect.open_network(model)
    layer, variable = model.norm, model.norm.mean
    assert network.configure("norm", Spec(4, eps=1e-3, momentum=Momentum(0.2, "new"))) == ()
    assert model.norm is layer
    assert layer.mean is variable
    assert type(layer) is BatchNorm
    assert (layer.epsilon, layer.momentum, layer.variance) == (1e-3, 0.8, "unbiased")
    # Whatever else the layer does stays as it was.
    assert (layer.nonfinite, layer.use_fast_variance) == ("propagate", True)
    x = picture()
    before = values(network)["norm"]["running_var"]
    step = network.step(x, half_square)
    batch = network.double().trace(x)  # the input of the layer depends on no statistics
    fed = next(call.input for call in batch.calls if call.layer == "norm")
    wanted = 0.8 * before + 0.2 * fed.var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(step.statistics["norm"]["running_var"], wanted, rtol=1e-5)
    assert step.statistics["norm"]["batches"] == 1


def test_configure_names_what_a_subclass_cannot_say_and_changes_nothing():
    class Own(nnx.BatchNorm):
        pass

    network = dialect.open_network(Own(3, rngs=nnx.Rngs(0)))
    (item,) = network.configure("", Spec(3, eps=1e-3))
    assert item.field == "variance"
    assert network.model.epsilon == 1e-5
    spec = Spec(3, eps=1e-3, momentum=Momentum(0.5, "old"), variance="biased")
    assert network.configure("", spec) == ()
    assert (network.model.epsilon, network.model.momentum) == (1e-3, 0.5)


def test_linen_settings_are_in_the_code():
    network = opened(linen_net())
    same = Spec(4, eps=1e-5, momentum=Momentum(0.1, "new"), variance="biased")
    assert network.configure("norm", same) == ()
    found = network.configure("norm", Spec(4, eps=1e-3, momentum=Momentum(0.2, "new")))
    assert [item.field for item in found] == ["eps", "momentum", "variance"]
    assert "epsilon=0.001" in found[0].do
    assert "momentum=0.8" in found[1].do
    with pytest.raises(InputError, match="stem"):
        network.configure("stem", same)


def test_before_its_first_input_a_linen_model_is_told_by_names():
    network = dialect.open_network(linen_net())
    layers = {layer.name: layer for layer in network.layers()}
    assert layers["norm"].kind == "batch_norm"
    assert {"eps", "momentum"} <= {*layers["norm"].assumed}
    assert layers["group"].kind == layers["stem"].kind == "other"


def test_frozen_variables_are_refused_where_they_would_change():
    module, variables = linen_net()
    network = dialect.open_network((module, freeze(variables)))
    network.trace(picture())
    for change in (
        lambda: network.write({}),
        lambda: network.step(picture(), half_square),
    ):
        with pytest.raises(InputError, match="unfreeze"):
            change()


class Told(linen.Module):
    """A model that is told the mode in its own way."""

    argument: str

    @linen.compact
    def __call__(self, x, **mode):
        running = mode[self.argument] == (self.argument in {"deterministic", "frozen"})
        return linen.BatchNorm(use_running_average=running)(x)


class Fielded(linen.Module):
    train: bool = False

    @linen.compact
    def __call__(self, x):
        return linen.BatchNorm(use_running_average=not self.train)(x)


class Bare(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.BatchNorm(use_running_average=False)(x)


class Thawed(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(3, rngs=rngs)

    def __call__(self, x, training):
        return self.norm(x, use_running_average=not training)


ROWS = np.random.default_rng(0).normal(3, 1, (8, 3)).astype(np.float32)


def _moves(network) -> bool:
    name = next(layer.name for layer in network.layers() if layer.kind == "batch_norm")
    return bool(network.step(ROWS, half_square).statistics[name]["running_mean"].any())


def test_the_mode_is_given_by_a_known_argument_a_field_or_as_the_caller_says():
    fielded = Fielded()
    variables = fielded.init(jax.random.key(0), ROWS)
    told = Told("is_it_training")
    given = told.init(jax.random.key(0), ROWS, is_it_training=False)
    for model in (
        (fielded, variables),
        (told, given, {"is_it_training": True}),
        Thawed(nnx.Rngs(0)),
    ):
        network = open_network(model)
        output = network.trace(ROWS).output
        np.testing.assert_allclose(output, ROWS / np.sqrt(1 + 1e-5), rtol=4 * U)
        assert _moves(network)


def test_a_model_whose_mode_is_unknown_is_refused():
    module = Bare()
    network = dialect.open_network((module, module.init(jax.random.key(0), ROWS)))
    with pytest.raises(InputError, match="in training mode"):
        network.trace(ROWS)
    with pytest.raises(InputError, match="takes no nothing"):
        dialect.open_network((module, module.init(jax.random.key(0), ROWS), {"nothing": True}))


@pytest.mark.parametrize("make", ["nnx", "linen"])
def test_frozen_statistics_stay_in_a_step(make):
    if make == "nnx":
        model = nnx.Sequential(
            nnx.BatchNorm(3, use_running_average=True, rngs=nnx.Rngs(0)),
            nnx.BatchNorm(3, rngs=nnx.Rngs(0)),
        )
    else:
        module = linen.Sequential([linen.BatchNorm(True), linen.BatchNorm(True)])
        model = module, module.init(jax.random.key(0), ROWS)
    network = dialect.open_network(model)
    network.trace(ROWS)
    first = network.layers()[0]
    assert first.spec.statistics_frozen
    assert "use_running_average" not in first.spec.options
    assert not network.step(ROWS, half_square).statistics[first.name]["running_mean"].any()


def test_a_shared_layer_is_one_layer_with_two_calls():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.one = nnx.Linear(3, 3, rngs=rngs)
            self.other = self.one

        def __call__(self, x):
            return self.other(self.one(x))

    network = dialect.open_network(Net(nnx.Rngs(0)))
    assert [layer.name for layer in network.layers()] == ["one"]
    assert [call.layer for call in network.trace(ROWS).calls] == ["one", "one"]


def test_calls_inside_compiled_code_are_seen():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.dense = nnx.Linear(3, 2, rngs=rngs)

        def __call__(self, x):
            return nnx.jit(lambda dense, x: dense(x))(self.dense, x)

    calls = dialect.open_network(Net(nnx.Rngs(0))).trace(ROWS).calls
    assert [call.layer for call in calls] == ["dense"]


def test_a_batch_norm_over_another_axis_is_traced_channels_last():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(3, axis=1, rngs=rngs)

        def __call__(self, x):
            return self.norm(x)

    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    (call,) = dialect.open_network(Net(nnx.Rngs(0))).trace(x).calls
    np.testing.assert_array_equal(call.input, np.moveaxis(x, 1, -1))
    assert call.output.shape == (2, 4, 5, 3)


def test_token_numbers_stay_as_they_are():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.table = nnx.Embed(7, 3, rngs=rngs)

        def __call__(self, tokens):
            return self.table(tokens).mean(1)

    tokens = np.array([[1, 2], [3, 6]])
    network = dialect.open_network(Net(nnx.Rngs(0)))
    assert network.canonical_inputs(tokens).dtype == tokens.dtype
    (call,) = network.trace(tokens).calls
    assert call.input.dtype.kind == "i"
    slope = network.step(tokens, half_square).gradients["table"]["embedding"]
    assert sorted(np.flatnonzero(slope.any(1))) == [1, 2, 3, 6]


@NETS
def test_inputs_that_the_model_does_not_take_are_refused(make):
    network = dialect.open_network(make())
    with pytest.raises(InputError, match=r"float32 of shape \(2, 8, 8, 5\)"):
        network.canonical_inputs(np.zeros((2, 8, 8, 5), np.float32))


def test_a_model_that_fixes_its_type_cannot_compute_in_float64():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.dense = nnx.Linear(3, 2, rngs=rngs)

        def __call__(self, x):
            return self.dense(x).astype(jnp.float32)

    with pytest.raises(DTypeError, match="float32"):
        dialect.open_network(Net(nnx.Rngs(0))).double().trace(ROWS)


def test_types_that_layers_fix_are_widened():
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(2, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)(x)

    module = Net()
    network = dialect.open_network((module, module.init(jax.random.key(0), ROWS)))
    (layer,) = network.layers()
    assert layer.arrays["kernel"].dtype == "bfloat16"
    assert layer.arrays["kernel"].read().dtype == np.float32
    assert network.double().trace(ROWS).output.dtype == np.float64


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (lambda: (LinenNet(), {"weights": 1}), "comes with its variables"),
        (LinenNet, "comes with its variables"),
        (lambda: (nnx_net(), {"train": 1}), "mode argument"),
        (lambda: linen.LSTMCell(3), "comes with its variables"),
    ],
)
def test_what_cannot_be_opened_is_refused(model, match):
    with pytest.raises(InputError, match=match):
        dialect.open_network(model())


def test_several_inputs_and_several_outputs_are_refused():
    with pytest.raises(InputError, match="carry, inputs"):
        dialect.open_network(nnx.SimpleCell(2, 3, rngs=nnx.Rngs(0)))

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.dense = nnx.Linear(3, 2, rngs=rngs)

        def __call__(self, x):
            return self.dense(x), x

    with pytest.raises(InputError, match="one array"):
        dialect.open_network(Net(nnx.Rngs(0))).canonical_inputs(ROWS)
