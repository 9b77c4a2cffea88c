"""Running statistics against the frameworks themselves, or their published formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evenkeel import reference
from evenkeel.errors import ChannelError, InputError
from evenkeel.spec import Momentum

U = 2.0**-53


def batches(count=5, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((rng.integers(2, 9), 3, 4)) * 2 + 5 for _ in range(count)]


def fresh(channels=3):
    return reference.Running(np.zeros(channels), np.ones(channels), 0)


def run(momentum, variance, data):
    running = fresh()
    for x in data:
        running = reference.update_running(running, reference.moments(x), momentum, variance)
    return running


@pytest.mark.parametrize("value", [0.1, 0.0, 1.0, 1.5, None])
def test_equals_torch(value):
    layer = torch.nn.BatchNorm1d(3, momentum=value, dtype=torch.float64)
    for x in batches():
        layer(torch.from_numpy(x))
    got = run(Momentum(value, "new"), "unbiased", batches())
    # 5 updates of numbers below 100, and the moments' own rounding on both sides.
    np.testing.assert_allclose(got.mean, layer.running_mean.numpy(), rtol=0, atol=100 * 40 * U)
    np.testing.assert_allclose(got.var, layer.running_var.numpy(), rtol=0, atol=100 * 40 * U)
    assert got.batches == layer.num_batches_tracked.item() == 5


def test_biased_variance_would_not_equal_torch():
    layer = torch.nn.BatchNorm1d(3, dtype=torch.float64)
    for x in batches():
        layer(torch.from_numpy(x))
    got = run(Momentum(0.1, "new"), "biased", batches())
    assert np.abs(got.var - layer.running_var.numpy()).min() > 1e-3


def test_equals_onnx():
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    node = onnx.helper.make_node(
        "BatchNormalization", list("xsbmv"), ["y", "m1", "v1"], momentum=0.75, training_mode=1
    )
    double = onnx.TensorProto.DOUBLE
    values = [onnx.helper.make_tensor_value_info(n, double, None) for n in "xsbmv"]
    outputs = [onnx.helper.make_tensor_value_info(n, double, None) for n in ("y", "m1", "v1")]
    graph = onnx.helper.make_graph([node], "g", values, outputs)
    opset = [onnx.helper.make_opsetid("", 15)]
    evaluator = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=opset))
    mean, var = np.zeros(3), np.ones(3)
    for x in batches():
        feed = {"x": x, "s": np.ones(3), "b": np.zeros(3), "m": mean, "v": var}
        _, mean, var = evaluator.run(None, feed)
    got = run(Momentum(0.75, "old"), "biased", batches())
    np.testing.assert_allclose(got.mean, mean, rtol=0, atol=100 * 40 * U)
    np.testing.assert_allclose(got.var, var, rtol=0, atol=100 * 40 * U)


@pytest.mark.parametrize(
    ("momentum", "variance", "mean", "var"),
    [
        # One batch of 1, 2, 3, 6 (mean 3, biased variance 3.5, unbiased 14/3) from 0 and 1.
        pytest.param(Momentum(0.99, "old"), "biased", 0.03, 1.025, id="Keras 3, Flax, Keras 2"),
        pytest.param(Momentum(0.99, "old"), "unbiased", 0.03, 1.11 / 3 + 2 / 3, id="Keras 2 fused"),
        pytest.param(Momentum(0.1, "new"), "biased", 0.3, 1.25, id="MLX to 0.32.0"),
        pytest.param(Momentum(0.1, "new"), "unbiased", 0.3, 4.1 / 3, id="torch, tinygrad, MLX"),
        pytest.param(Momentum.cumulative(), "unbiased", 3.0, 14 / 3, id="torch, momentum None"),
    ],
)
def test_conventions_by_hand(momentum, variance, mean, var):
    batch = reference.moments(np.array([1.0, 2.0, 3.0, 6.0]).reshape(4, 1, 1))
    got = reference.update_running(fresh(1), batch, momentum, variance)
    # Values up to 5, and 1 - 0.99 is off by up to U/2.
    np.testing.assert_allclose(got.mean, [mean], rtol=0, atol=32 * U)
    np.testing.assert_allclose(got.var, [var], rtol=0, atol=32 * U)


def test_cumulative_average_weighs_batches_not_values():
    small, large = np.full((1, 1, 2), 2.0), np.full((99, 1, 2), 4.0)
    running = fresh(1)
    for x in (small, large):
        batch = reference.moments(x)
        running = reference.update_running(running, batch, Momentum.cumulative(), "biased")
    assert running.mean[0] == 3.0
    assert running.var[0] == 0.0


def test_one_value_per_channel_stores_variance_zero_not_nan():
    batch = reference.moments(np.full((1, 1, 1), 7.0))
    np.testing.assert_array_equal(reference.stored_variance(batch, "unbiased"), [0.0])
    got = reference.update_running(fresh(1), batch, Momentum(0.5, "new"), "unbiased")
    assert (got.mean[0], got.var[0], got.batches) == (3.5, 0.5, 1)


@pytest.mark.parametrize("momentum", [Momentum(0.1, "new"), Momentum.cumulative()])
def test_empty_batch_changes_nothing(momentum):
    before = reference.Running(np.array([1.5]), np.array([2.5]), 7)
    batch = reference.moments(np.empty((0, 1, 4)))
    got = reference.update_running(before, batch, momentum, "unbiased")
    assert (got.mean[0], got.var[0], got.batches) == (1.5, 2.5, 7)


def test_statistics_before_are_not_written_to():
    before = fresh(1)
    batch = reference.moments(np.full((2, 1, 1), 7.0))
    reference.update_running(before, batch, Momentum(0.5, "new"), "biased")
    assert (before.mean[0], before.var[0], before.batches) == (0.0, 1.0, 0)


def test_wrong_channels_and_conventions_are_refused():
    batch = reference.moments(np.ones((2, 3, 1)))
    with pytest.raises(ChannelError, match="same layer"):
        reference.update_running(fresh(1), batch, Momentum(0.1, "new"), "biased")
    with pytest.raises(InputError, match="n - 1"):
        reference.update_running(fresh(), batch, Momentum(0.1, "new"), "sample")
