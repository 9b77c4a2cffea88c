"""The Flax layer with PyTorch's training semantics, against the law and against torch."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx, serialization

from evenkeel import reference
from evenkeel.dialects import flax as dialect
from evenkeel.errors import InputError
from evenkeel.integrations.flax import BatchNorm
from evenkeel.spec import Momentum, canonical_view

#: Unit round-off of float32.
U = 2.0**-24


def layer(channels: int = 3, **settings) -> BatchNorm:
    return BatchNorm(channels, **settings, rngs=nnx.Rngs(0))


def batches(count: int, shape=(4, 3, 3, 3), mean: float = 2.0, seed: int = 0):
    generator = np.random.default_rng(seed)
    return [generator.normal(mean, 2, shape).astype(np.float32) for _ in range(count)]


def law(xs, momentum: Momentum, variance: str) -> reference.Running:
    running = reference.Running(np.zeros(3), np.ones(3), 0)
    for x in xs:
        moments = reference.moments(canonical_view(x, -1))
        running = reference.update_running(running, moments, momentum, variance)
    return running


@pytest.mark.parametrize("variance", ["unbiased", "biased"])
@pytest.mark.parametrize("momentum", [0.9, 0.5, None])
def test_statistics_follow_the_law(variance, momentum):
    ours = layer(momentum=momentum, variance=variance)
    weight = Momentum.cumulative() if momentum is None else Momentum(momentum, "old")
    xs = batches(6)
    for x in xs:
        ours(x)
    wanted = law(xs, weight, variance)
    np.testing.assert_allclose(ours.mean[...], wanted.mean, rtol=16 * U)
    np.testing.assert_allclose(ours.var[...], wanted.var, rtol=16 * U)
    assert int(ours.batches[...]) == 6


@pytest.mark.parametrize("mean", [0.0, 1e2, 1e4, 1e6])
def test_output_and_variance_are_exact_at_every_mean(mean):
    (x,) = batches(1, (64, 8, 8, 3), mean)
    ours = layer(momentum=0.0, variance="biased")
    output = np.asarray(ours(x))
    moments = reference.moments(canonical_view(x, -1))
    wanted = (x.astype(np.float64) - moments.mean) / np.sqrt(moments.var + 1e-5)
    np.testing.assert_allclose(output, wanted, atol=1e-6 * np.abs(wanted).max(), rtol=0)
    np.testing.assert_allclose(ours.var[...], moments.var, rtol=1e-6)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_training_is_torchs(momentum):
    theirs = torch.nn.BatchNorm2d(3, momentum=momentum)
    ours = layer(momentum=None if momentum is None else 0.9)
    start = {"weight": torch.tensor([0.5, 1.5, -1.0]), "bias": torch.tensor([0.1, 0.0, 2.0])}
    theirs.load_state_dict(theirs.state_dict() | start)
    ours.scale.set_value(jnp.asarray(start["weight"].numpy()))
    ours.bias.set_value(jnp.asarray(start["bias"].numpy()))

    @nnx.jit
    def step(ours, x, dy):
        def loss(ours, x):
            y = ours(x)
            return (y * dy).sum(), y

        (own, dx), y = nnx.grad(loss, argnums=(0, 1), has_aux=True)(ours, x)
        for name in ("scale", "bias"):
            getattr(ours, name)[...] -= 0.05 * own[name][...]
        return dx, y

    for x, dy in zip(batches(20), batches(20, mean=0.0, seed=1), strict=True):
        there = torch.tensor(x).permute(0, 3, 1, 2).requires_grad_()
        output = theirs(there)
        output.backward(torch.tensor(dy).permute(0, 3, 1, 2))
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter.sub_(0.05 * parameter.grad)
        theirs.zero_grad()
        dx, y = step(ours, x, dy)
        last = lambda tensor: tensor.detach().permute(0, 2, 3, 1).numpy()  # noqa: E731 - one line
        largest = np.abs(y).max()
        np.testing.assert_allclose(y, last(output), rtol=0, atol=64 * U * largest)
        np.testing.assert_allclose(dx, last(there.grad), rtol=0, atol=64 * U * np.abs(dx).max())
    _, state = dialect.read_module(ours)
    assert state.batches == theirs.num_batches_tracked
    np.testing.assert_allclose(state.running_mean, theirs.running_mean.numpy(), rtol=64 * U)
    np.testing.assert_allclose(state.running_var, theirs.running_var.numpy(), rtol=64 * U)
    weight = theirs.weight.detach().numpy()
    np.testing.assert_allclose(state.weight, weight, rtol=0, atol=256 * U * np.abs(weight).max())


def test_inference_is_that_of_the_base_class():
    ours = layer(dtype=jnp.bfloat16)
    (x,) = batches(1)
    ours(x)
    ours.eval()
    plain = nnx.BatchNorm(3, dtype=jnp.bfloat16, use_running_average=True, rngs=nnx.Rngs(0))
    plain.mean.set_value(ours.mean[...])
    plain.var.set_value(ours.var[...])
    np.testing.assert_array_equal(ours(x), plain(x))
    np.testing.assert_array_equal(ours(x, use_running_average=True), plain(x))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.int32])
def test_moments_are_float32_and_types_are_those_of_the_base_class(dtype):
    x = jnp.asarray(batches(1)[0] * 10, dtype)
    plain = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    ours = layer()
    assert ours(x).dtype == plain(x).dtype
    assert ours.mean.dtype == jnp.float32
    wanted = law([np.asarray(x, np.float64)], Momentum(0.99, "old"), "unbiased")
    np.testing.assert_allclose(ours.var[...], wanted.var, rtol=16 * U)
    sixteen = layer(dtype=jnp.bfloat16)
    assert sixteen(x).dtype == jnp.bfloat16


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_batch_that_is_not_finite_does_not_enter(bad):
    ours = layer()
    good, poisoned = batches(2)
    ours(good)
    before = dialect.read_module(ours)[1]
    poisoned[0, 0, 0, 1] = bad
    output = ours(poisoned)
    assert dialect.read_module(ours)[1].identical(before)
    assert np.isfinite(output[..., 0]).all()
    propagates = layer(nonfinite="propagate")
    propagates(poisoned)
    assert not np.isfinite(propagates.mean[1])
    assert np.isfinite(propagates.mean[0])


@pytest.mark.parametrize(("variance", "enters"), [("unbiased", False), ("biased", True)])
def test_empty_batches_and_single_values(variance, enters):
    ours = layer(variance=variance)
    before = dialect.read_module(ours)[1]
    assert ours(jnp.zeros((0, 3))).shape == (0, 3)
    assert dialect.read_module(ours)[1].identical(before)
    np.testing.assert_array_equal(ours(jnp.full((1, 3), 7.0)), 0)
    assert (int(ours.batches[...]) == 1) is enters


def test_masked_positions_do_not_enter():
    ours = layer()
    (x,) = batches(1, (4, 5, 3))
    mask = np.zeros((4, 5, 1), bool)
    mask[:, :3] = True
    hidden = x.copy()
    hidden[:, 3:] = np.nan
    output = ours(hidden, mask=jnp.asarray(mask))
    wanted = law([x[:, :3]], Momentum(0.99, "old"), "unbiased")
    np.testing.assert_allclose(ours.var[...], wanted.var, rtol=16 * U)
    np.testing.assert_allclose(output[:, :3], layer()(x[:, :3]), rtol=16 * U, atol=16 * U)
    before = dialect.read_module(ours)[1]
    nothing = ours(x, mask=jnp.zeros((4, 5, 1), bool))
    assert np.isfinite(nothing).all()
    assert dialect.read_module(ours)[1].identical(before)


def test_frozen_statistics_normalize_in_training_and_stay():
    ours = layer(frozen=True)
    ours.train()
    (x,) = batches(1)
    np.testing.assert_allclose(ours(x), x / np.sqrt(1 + 1e-5), rtol=4 * U)
    assert int(ours.batches[...]) == 0
    assert dialect.read_module(ours)[0].statistics_frozen


def test_moments_are_those_of_all_devices_of_the_axis():
    alone, together = layer(), layer(axis_name="devices")
    (x,) = batches(1, (8, 3))
    mask = np.ones((8, 1), bool)
    mask[5:] = False  # an unequal number on each device
    graph, state = nnx.split(together)

    @partial(jax.vmap, axis_name="devices", in_axes=(None, 0, 0), out_axes=(0, None))
    def run(state, x, mask):
        one = nnx.merge(graph, state, copy=True)
        output = one(x, mask=mask)
        return output, nnx.to_pure_dict(nnx.state(one, nnx.BatchStat))

    output, stats = run(state, x.reshape(2, 4, 3), mask.reshape(2, 4, 1))
    wanted = alone(x, mask=jnp.asarray(mask))
    np.testing.assert_allclose(output.reshape(8, 3), wanted, rtol=16 * U, atol=16 * U)
    np.testing.assert_allclose(stats["var"], alone.var[...], rtol=16 * U)
    assert int(stats["batches"]) == 1


def test_the_fast_variance_is_there_for_those_who_ask():
    (x,) = batches(1, (64, 3))
    exact, fast = layer(), layer(use_fast_variance=True)
    np.testing.assert_allclose(fast(x), exact(x), atol=1e-4)
    np.testing.assert_allclose(fast.var[...], exact.var[...], rtol=1e-4)
    (far,) = batches(1, (64, 3), mean=1e5)
    assert not np.allclose(fast(far), exact(far), atol=1e-2)


def test_nothing_flows_back_through_the_running_statistics():
    (x,) = batches(1)

    def running(x):
        ours = layer()
        ours(x)
        return ours.mean[...].sum() + ours.var[...].sum()

    assert not jax.grad(running)(jnp.asarray(x)).any()


def test_state_survives_split_msgpack_and_orbax(tmp_path):
    from orbax import checkpoint

    ours = layer(momentum=None)
    for x in batches(3):
        ours(x)
    graph, state = nnx.split(ours)
    wanted = dialect.read_module(ours)
    merged = dialect.read_module(nnx.merge(graph, state))
    assert merged[0] == wanted[0]
    assert merged[1].identical(wanted[1])
    data = serialization.to_bytes(nnx.to_pure_dict(state))
    fresh = layer(momentum=None)
    nnx.update(fresh, serialization.from_bytes(nnx.to_pure_dict(nnx.state(fresh)), data))
    assert dialect.read_module(fresh)[1].identical(wanted[1])
    with checkpoint.StandardCheckpointer() as saver:
        saver.save(tmp_path / "folder", state)
        saver.wait_until_finished()
        again = saver.restore(tmp_path / "folder", nnx.state(layer(momentum=None)))
    other = layer(momentum=None)
    nnx.update(other, again)
    assert dialect.read_module(other)[1].identical(wanted[1])


@pytest.mark.parametrize("wrong", [{"variance": "sample"}, {"nonfinite": "raise"}])
def test_unknown_choices_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        layer(**wrong)


def test_a_missing_mode_is_refused_as_the_base_class_does():
    with pytest.raises(ValueError, match="use_running_average"):
        layer(use_running_average=None)(jnp.ones((2, 3)))


def test_adopting_keeps_what_a_layer_computes():
    plain, adopted = (nnx.BatchNorm(3, momentum=0.9, rngs=nnx.Rngs(0)) for _ in range(2))
    variables = adopted.mean, adopted.scale
    BatchNorm.adopt(adopted)
    assert (adopted.mean, adopted.scale) == variables
    for x in batches(3):
        np.testing.assert_allclose(adopted(x), plain(x), rtol=64 * U, atol=64 * U)
    np.testing.assert_allclose(adopted.var[...], plain.var[...], rtol=64 * U)
