"""Live Keras layers and networks; ``test_keras.py`` runs this file once per backend."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from keras import layers

import evenkeel.integrations.keras as ours
from evenkeel.dialects import keras as dialect
from evenkeel.dialects._layers import layer_state
from evenkeel.dialects._open import open_network
from evenkeel.dialects.keras._variables import to_numpy
from evenkeel.errors import InputError, UnsayableError
from evenkeel.spec import Activation, Momentum, Renorm, Spec, State

from ._keras_models import (
    Subclassed,
    fill,
    loss,
    picture_model,
    pictures,
    same,
    sequence_model,
    values_of,
)
from ._specs import pairs

BACKEND = keras.backend.backend()
KINDS = (None, ours.BatchNormalization)
#: As torch's layers: none of it is Keras's default.
TORCH = Spec(4, eps=1e-5, momentum=Momentum(0.1, "new"), rank=4)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(pair=pairs())
def test_what_is_built_reads_as_what_was_written_or_is_named(kind, pair):
    spec, state = pair
    found = dialect.unsayable(spec, state, kind)
    lost = [item.field for item in found if item.effect != "none"]
    if lost:
        with pytest.raises(UnsayableError) as caught:
            dialect.build_module(spec, state, kind)
        assert all(field in str(caught.value) for field in lost)
        return
    again, there = dialect.read_module(dialect.build_module(spec, state, kind), spec.name)
    named = {item.field for item in found}
    changed = {field for field in spec.to_dict() if getattr(again, field) != getattr(spec, field)}
    # Without scale and offset nothing can be frozen; a momentum is written for the other side.
    allowed = {"momentum"} if spec.scale or spec.offset else {"momentum", "affine_frozen"}
    # Our layer has a setting of its own for batches with NaN.
    allowed |= {"options"} if kind else set()
    assert changed - named <= allowed
    assert again.momentum == spec.momentum.as_weighing("old")
    counted = replace(state, batches=there.batches) if "batches" in named else state
    assert there.identical(counted)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"scale": False, "axis": 1},
        {"center": False, "epsilon": 1e-6, "momentum": 0.9},
        {"trainable": False},
        {"dtype": "mixed_bfloat16"},
        {"dtype": "bfloat16"},
        {"gamma_initializer": keras.initializers.RandomNormal(1.0, 0.02, seed=3)},
        {"beta_regularizer": "l2", "gamma_constraint": "non_neg"},
        {"renorm": True, "renorm_clipping": {"rmax": 3.0, "dmax": 5.0}, "renorm_momentum": 0.9},
        *([{"synchronized": True}] if BACKEND == "tensorflow" else []),
    ],
)
def test_every_setting_of_keras_comes_back(arguments):
    layer = layers.BatchNormalization(name="bn", **arguments)
    layer.build((None, 5, 5, 5))
    fill(layer, 3)
    spec, state = dialect.read_module(layer)
    again = dialect.build_module(spec, state)
    assert dialect.read_module(again)[0] == spec
    assert dialect.read_module(again)[1].identical(state)
    ignored = {"dtype", "axis"}
    mine, its = again.get_config(), layer.get_config()
    assert {k: v for k, v in mine.items() if k not in ignored} == {
        k: v for k, v in its.items() if k not in ignored
    }
    assert again.dtype_policy.name == layer.dtype_policy.name


@pytest.mark.parametrize(
    ("changes", "field", "effect"),
    [
        ({"variance": "unbiased"}, "variance", "training"),
        ({"momentum": Momentum.cumulative()}, "momentum", "training"),
        ({"track_statistics": False}, "track_statistics", "inference"),
        ({"activation": Activation("relu")}, "activation", "inference"),
        ({"affine_frozen": True}, "affine_frozen", "training"),
        ({"average": "debiased"}, "average", "training"),
        ({"parameter_dtype": "float16"}, "parameter_dtype", "training"),
        ({"options": {"track_running_stats": False}}, "options.track_running_stats", "training"),
        ({"options": {"class": "timm.BatchNormAct2d"}}, "options.class", "inference"),
        ({"rank": None}, "rank", "none"),
        ({"masked": True}, "masked", "none"),
    ],
)
def test_what_keras_cannot_say_is_named(changes, field, effect):
    plain = Spec(3, variance="biased", rank=4)
    assert not dialect.unsayable(plain)
    (found,) = dialect.unsayable(replace(plain, **changes))
    assert (found.field, found.effect) == (field, effect)
    spec = replace(plain, **changes)
    if effect == "none":
        dialect.build_module(spec, State.initial(plain))
    elif effect == "training":
        layer = dialect.build_module(spec, State.initial(spec), inference_only=True)
        assert layer.built
    else:
        with pytest.raises(UnsayableError, match=field.partition(".")[0]):
            dialect.build_module(spec, State.initial(spec), inference_only=True)


def test_our_layer_says_what_torch_means():
    spec = replace(TORCH, momentum=Momentum.cumulative())
    state = replace(State.initial(spec), batches=7)
    assert not dialect.unsayable(spec, state, ours.BatchNormalization)
    layer = dialect.build_module(spec, state, ours.BatchNormalization)
    again, there = dialect.read_module(layer, spec.name)
    assert (again.variance, again.momentum) == ("unbiased", Momentum.cumulative())
    assert there.batches == 7
    renorm = replace(spec, renorm=Renorm(Momentum(0.9, "old")))
    assert {item.field for item in dialect.unsayable(renorm, None, ours.BatchNormalization)} == {
        "renorm"
    }


def test_the_layers_of_a_network_have_canonical_shapes():
    network = open_network(picture_model())
    found = {layer.name: layer for layer in network.layers()}
    assert network.framework == f"keras ({BACKEND})"
    assert [*found] == [
        *("scale", "conv", "bn", "dw", "sep/depthwise", "sep/pointwise", "frozen", "inner/conv"),
        *("inner/bn", "up", "prelu", "head"),
    ]
    assert found["dw"].shapes == {"kernel": (3, 3, 1, 8), "bias": (8,)}
    assert found["up"].shapes["kernel"] == (3, 3, 2, 4)
    assert found["prelu"].shapes == {"alpha": (2,)}
    assert found["scale"].settings == {"scale": 0.5, "offset": 0.1}
    assert found["bn"].spec.momentum == Momentum(0.9, "old")
    assert found["frozen"].spec.statistics_frozen
    assert not found["frozen"].trainable
    assert layer_state(found["bn"]).check(found["bn"].spec)


@pytest.mark.parametrize("make", [picture_model, sequence_model, Subclassed])
def test_a_trace_holds_every_call_and_changes_nothing(make):
    model = make()
    inputs = pictures()
    if make is sequence_model:
        inputs = np.random.default_rng(0).integers(0, 9, (3, 5)).astype("int32")
    direct = to_numpy(model(inputs, training=False))
    network = open_network(model)
    before = values_of(network)
    trace = network.trace(inputs)
    held = [layer.name for layer in network.layers()]
    assert [call.layer for call in trace.calls] == held
    # Both sum in float32; only the path of the input differs.
    np.testing.assert_allclose(trace.output, direct, rtol=1e-6, atol=1e-6)
    assert same(before, values_of(network))
    assert "call" not in vars(model.layers[-1])


def test_the_output_before_a_built_in_activation_is_recorded():
    model = picture_model()
    trace = open_network(model).trace(pictures())
    calls = {call.layer: call for call in trace.calls}
    kernel, bias = (to_numpy(v) for v in model.get_layer("conv").weights)
    patch = calls["conv"].input[0, :3, :3]
    wanted = (patch[..., None] * kernel).sum((0, 1, 2)) + bias
    np.testing.assert_allclose(calls["conv"].output[0, 0, 0], wanted, rtol=1e-5)
    np.testing.assert_allclose(calls["bn"].input, np.tanh(calls["conv"].output), atol=1e-6)


@pytest.mark.parametrize("make", [picture_model, sequence_model, Subclassed])
def test_gradients_are_those_of_finite_differences_in_float64(make):
    inputs = pictures()
    if make is sequence_model:
        inputs = np.random.default_rng(0).integers(0, 9, (3, 5)).astype("int32")
    model = make()
    model(inputs)
    single = open_network(model)
    start = values_of(single)
    double = single.double()
    if inputs.dtype == "float32":
        inputs = inputs.astype("float64")
    step = double.step(inputs, loss)
    assert step.output.dtype == np.float64
    trained = {layer.name for layer in single.layers() if layer.trainable and layer.arrays}
    assert step.gradients.keys() == trained
    for name, roles in step.gradients.items():
        for role, gradient in roles.items():
            at = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)
            results = []
            for shift in (1e-5, -1e-5):
                value = start[name][role].astype("float64")
                value[at] += shift
                double.write(start)
                double.write({name: {role: value}})
                results.append(double.step(inputs, loss).loss)
            # Error of the difference: h^2 times the third derivative, and rounding / h.
            slope = (results[0] - results[1]) / 2e-5
            assert slope == pytest.approx(gradient[at], rel=1e-4, abs=1e-6)
    assert same(start, values_of(single))


def test_a_step_moves_the_statistics_only_and_says_what_it_switched_off():
    model = picture_model()
    network = open_network(model)
    before = values_of(network)
    step = network.step(pictures(), loss)
    after = values_of(network)
    moved = {
        (name, role)
        for name in before
        for role in before[name]
        if not np.array_equal(before[name][role], after[name][role])
    }
    assert moved == {
        (name, role) for name in ("bn", "inner/bn") for role in ("running_mean", "running_var")
    }
    assert any("drop" in remark for remark in step.remarks)
    for name, roles in step.statistics.items():
        for role, value in roles.items():
            assert np.array_equal(value, after[name][role])
    network.write(before)
    assert network.step(pictures(), loss).loss == step.loss
    moments = open_network(model).trace(pictures())
    batch = {call.layer: call.input for call in moments.calls}["bn"].astype("float64")
    wanted = 0.9 * before["bn"]["running_mean"] + 0.1 * batch.mean((0, 1, 2))
    np.testing.assert_allclose(step.statistics["bn"]["running_mean"], wanted, rtol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"conv": {"kernel": np.zeros((3, 3, 3, 5))}},
        {"conv": {"alpha": np.zeros(4)}},
        {"nowhere": {"kernel": np.zeros(4)}},
    ],
)
def test_writing_is_all_or_nothing(wrong):
    network = open_network(picture_model())
    before = values_of(network)
    new = {"bn": {"weight": before["bn"]["weight"] + 1}}
    with pytest.raises(InputError, match=next(iter(wrong))):
        network.write(new | wrong)
    assert same(before, values_of(network))
    network.write(new)
    assert np.array_equal(values_of(network)["bn"]["weight"], new["bn"]["weight"])


def test_configure_changes_what_keras_can_say_and_uses_our_layer_for_the_rest():
    model = picture_model()
    layer = model.get_layer("bn")
    network = open_network(model)
    assert network.configure("bn", replace(TORCH, variance="biased")) == ()
    assert (type(layer), layer.epsilon, layer.momentum) == (layers.BatchNormalization, 1e-5, 0.9)
    assert network.configure("bn", TORCH) == ()
    assert type(layer) is ours.BatchNormalization
    assert model.get_layer("bn") is layer
    before = values_of(network)["bn"]
    batch = {c.layer: c.input for c in network.trace(pictures()).calls}["bn"].astype("float64")
    step = network.step(pictures(), loss)
    wanted = 0.9 * before["running_var"] + 0.1 * batch.var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(step.statistics["bn"]["running_var"], wanted, rtol=1e-5)
    cumulative = replace(TORCH, momentum=Momentum.cumulative())
    assert network.configure("bn", cumulative) == ()
    assert int(network.step(pictures(), loss).statistics["bn"]["batches"]) == 1
    (found,) = network.configure("bn", replace(TORCH, average="debiased"))
    assert found.field == "average"
    with pytest.raises(InputError, match="nowhere"):
        network.configure("nowhere", TORCH)


def test_a_copy_in_float64_is_independent():
    model = picture_model()
    network = open_network(model)
    double = network.double()
    before = values_of(network)
    a, b = network.trace(pictures()), double.trace(pictures().astype("float64"))
    np.testing.assert_allclose(a.output, b.output, rtol=1e-4, atol=1e-4)
    double.step(pictures().astype("float64"), loss)
    assert same(before, values_of(network))
    assert keras.config.floatx() == "float32"
    assert keras.config.dtype_policy().name == "float32"
    assert keras.backend.result_type("float32", "float64") == (
        "float64" if BACKEND == "tensorflow" else "float32"
    )


@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow has no such layout on the CPU")
def test_features_of_a_channels_first_model_cross_channels_last():
    model = keras.Sequential(
        [
            keras.Input((3, 7, 7)),
            layers.Conv2D(4, 3, data_format="channels_first", name="conv"),
            layers.BatchNormalization(axis=1, name="bn"),
            layers.PReLU(shared_axes=[2, 3], name="prelu"),
        ]
    )
    network = open_network(model)
    own = np.moveaxis(pictures(), -1, 1)
    assert network.canonical_inputs(own).shape == (4, 7, 7, 3)
    trace = network.trace(pictures())
    assert [call.output.shape for call in trace.calls] == [(4, 5, 5, 4)] * 3
    np.testing.assert_allclose(np.moveaxis(to_numpy(model(own)), 1, -1), trace.output, atol=1e-6)
    assert network.step(pictures(), loss).output.shape == (4, 5, 5, 4)
    with pytest.raises(InputError, match="shape"):
        network.canonical_inputs(pictures())


def test_models_that_cannot_be_opened_or_copied_are_refused():
    with pytest.raises(InputError, match="never called"):
        open_network(Subclassed())
    a, b = keras.Input((2,)), keras.Input((2,))
    with pytest.raises(InputError, match="2 inputs"):
        open_network(keras.Model([a, b], a + b))

    class Stubborn(keras.Model):
        def __init__(self, size):
            super().__init__()
            self.head = layers.Dense(size["units"], dtype="float32")

        def get_config(self):
            raise NotImplementedError("no configuration")

        def call(self, x):
            return self.head(x)

    model = Stubborn({"units": 2})
    model(np.zeros((1, 3), "float32"))
    with pytest.raises(InputError, match="float64"):
        open_network(model).double()
