"""Our Keras layer; ``test_keras_layer.py`` runs this file once per backend."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import torch
from keras import layers

from evenkeel import reference
from evenkeel.dialects.keras._variables import to_numpy
from evenkeel.errors import InputError, NonFiniteError, NonFiniteWarning, ShapeError
from evenkeel.integrations.keras import BatchNormalization
from evenkeel.spec import Momentum

#: Keras on torch saves a model with a call that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
BACKEND = keras.backend.backend()
U = 2.0**-24


def batches(number=4, shape=(6, 3, 5, 4), mean=2.0):
    generator = np.random.default_rng(5)
    return [(generator.normal(size=shape) + mean).astype("float32") for _ in range(number)]


def reference_moments(x, axis=-1):
    view = np.moveaxis(x.astype("float64"), axis, 1)
    return reference.moments(view.reshape(*view.shape[:2], -1))


def built(shape=(None, 3, 5, 4), **arguments):
    layer = BatchNormalization(**arguments)
    layer.build(shape)
    return layer


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("variance", ["biased", "unbiased"])
@pytest.mark.parametrize("momentum", [0.9, None])
def test_statistics_and_outputs_are_those_of_the_reference(momentum, variance, axis):
    layer = built(momentum=momentum, variance=variance, axis=axis, epsilon=1e-5)
    channels = layer.moving_mean.shape[0]
    running = reference.Running(np.zeros(channels), np.ones(channels), 0)
    law = Momentum.cumulative() if momentum is None else Momentum(momentum, "old")
    for x in batches():
        y = to_numpy(layer(x, training=True))
        moments = reference_moments(x, axis)
        running = reference.update_running(running, moments, law, variance)
        shape = [1] * 4
        shape[axis] = -1
        wanted = (x - moments.mean.reshape(shape)) / np.sqrt(moments.var + 1e-5).reshape(shape)
        # Two passes in float32: some roundings of the largest input and output.
        assert np.abs(y - wanted).max() <= 16 * U * np.abs(x).max()
        assert np.abs(to_numpy(layer.moving_mean) - running.mean).max() <= 16 * U * np.abs(x).max()
        assert np.abs(to_numpy(layer.moving_variance) / running.var - 1).max() <= 32 * U
    if momentum is None:
        assert int(to_numpy(layer.batches)) == running.batches
    else:
        assert layer.batches is None


def test_a_large_mean_costs_no_digits_of_the_variance():
    (x,) = batches(1, (32, 8, 8, 4), mean=1e4)
    layer = built((None, 8, 8, 4), momentum=0.0)
    layer(x, training=True)
    # Keras on torch stores a negative variance here, on TensorFlow one of four digits.
    wanted = reference_moments(x).var
    assert np.abs(to_numpy(layer.moving_variance) / wanted - 1).max() <= 1e-5


def test_training_equals_torch_step_by_step():
    ours = built(momentum=0.9, epsilon=1e-5, variance="unbiased")
    model = keras.Sequential([keras.Input((3, 5, 4)), ours])
    theirs = torch.nn.BatchNorm2d(4)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    for number, x in enumerate(batches(5)):
        target = np.roll(x, 1, axis=0)
        model.train_on_batch(x, target)
        optimizer.zero_grad()
        out = theirs(torch.tensor(x).movedim(-1, 1))
        torch.nn.functional.mse_loss(out, torch.tensor(target).movedim(-1, 1)).backward()
        optimizer.step()
        for mine, its in (
            (ours.gamma, theirs.weight),
            (ours.beta, theirs.bias),
            (ours.moving_mean, theirs.running_mean),
            (ours.moving_variance, theirs.running_var),
        ):
            wanted = its.detach().numpy()
            error = np.abs(to_numpy(mine) - wanted).max()
            assert error <= 64 * (number + 1) * U * np.abs(wanted).max()


def test_plain_keras_differs_from_torch_so_that_the_test_above_can_fail():
    plain = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
    theirs = torch.nn.BatchNorm2d(4)
    (x,) = batches(1)
    plain(x, training=True)
    theirs(torch.tensor(x).movedim(-1, 1))
    ratio = to_numpy(plain.moving_variance) - theirs.running_var.numpy()
    assert np.abs(ratio).min() > 1e-4


@pytest.mark.parametrize("fault", [np.nan, np.inf])
def test_a_non_finite_batch_stays_outside(fault):
    layer = built(momentum=None)
    good, bad = batches(2)
    layer(good, training=True)
    before = [to_numpy(value) for value in layer.weights]
    bad[0, 0, 0, 0] = fault
    with pytest.warns(NonFiniteWarning, match="running statistics"):
        layer(bad, training=True)
    assert all(np.array_equal(a, to_numpy(b)) for a, b in zip(before, layer.weights, strict=True))


def test_other_choices_for_non_finite_batches():
    (bad,) = batches(1)
    bad[0] = np.nan
    layer = built(nonfinite="raise")
    with pytest.raises(NonFiniteError):
        layer(bad, training=True)
    assert np.array_equal(to_numpy(layer.moving_mean), np.zeros(4))
    layer = built(nonfinite="propagate")
    layer(bad, training=True)
    assert np.isnan(to_numpy(layer.moving_mean)).all()


@pytest.mark.parametrize("nonfinite", ["skip", "propagate", "raise"])
def test_an_empty_batch_changes_nothing(nonfinite):
    layer = built(nonfinite=nonfinite, momentum=None)
    assert layer(np.zeros((0, 3, 5, 4), "float32"), training=True).shape == (0, 3, 5, 4)
    assert np.array_equal(to_numpy(layer.moving_mean), np.zeros(4))
    assert np.array_equal(to_numpy(layer.moving_variance), np.ones(4))
    assert int(to_numpy(layer.batches)) == 0


def test_one_value_per_channel_stores_a_variance_of_0():
    layer = built((None, 2), momentum=0.0, variance="unbiased")
    layer(np.ones((1, 2), "float32"), training=True)
    assert np.array_equal(to_numpy(layer.moving_variance), np.zeros(2))


def test_masked_positions_count_nowhere():
    (x,) = batches(1, (5, 6, 3))
    mask = np.random.default_rng(0).random((5, 6)) > 0.4
    spoiled = np.where(mask[..., None], x, np.nan).astype("float32")
    layer = built((None, 6, 3), momentum=0.0, variance="unbiased")
    y = to_numpy(layer(spoiled, training=True, mask=keras.ops.convert_to_tensor(mask)))
    kept = x[mask].astype("float64")
    np.testing.assert_allclose(to_numpy(layer.moving_mean), kept.mean(0), rtol=1e-6)
    np.testing.assert_allclose(to_numpy(layer.moving_variance), kept.var(0, ddof=1), rtol=1e-6)
    wanted = (kept - kept.mean(0)) / np.sqrt(kept.var(0) + 1e-3)
    np.testing.assert_allclose(y[mask], wanted, atol=1e-5)
    with pytest.raises(ShapeError, match="one dimension less"):
        layer.call(keras.ops.convert_to_tensor(x), training=True, mask=np.ones((5, 6, 3), bool))


def test_a_frozen_layer_is_in_inference():
    layer = built(trainable=False)
    (x,) = batches(1)
    plain = layers.BatchNormalization(trainable=False)
    np.testing.assert_array_equal(
        to_numpy(layer(x, training=True)), to_numpy(plain(x, training=True))
    )
    assert np.array_equal(to_numpy(layer.moving_mean), np.zeros(4))


def test_compiled_training_and_the_file_of_the_model(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((3, 5, 4)),
            BatchNormalization(momentum=None, variance="unbiased", name="bn"),
            layers.Flatten(),
            layers.Dense(1),
        ]
    )
    model.compile("sgd", "mse", jit_compile="auto" if BACKEND == "torch" else True)
    x = np.concatenate(batches(4))
    model.fit(x, np.zeros((len(x), 1)), batch_size=6, shuffle=False, verbose=0)
    layer = model.get_layer("bn")
    wanted = np.mean([part.mean((0, 1, 2)) for part in batches(4)], 0)
    np.testing.assert_allclose(to_numpy(layer.moving_mean), wanted, rtol=1e-5)
    assert int(to_numpy(layer.batches)) == 4
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    same = again.get_layer("bn")
    assert isinstance(same, BatchNormalization)
    assert (same.variance, same.momentum, same.nonfinite) == ("unbiased", None, "skip")
    for mine, its in zip(model.weights, again.weights, strict=True):
        assert np.array_equal(to_numpy(mine), to_numpy(its))


@pytest.mark.parametrize(
    "wrong", [{"variance": "n"}, {"nonfinite": "warn"}, {"renorm": True}, {"synchronized": True}]
)
def test_wrong_arguments_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        BatchNormalization(**wrong)
