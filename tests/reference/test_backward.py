"""Gradients against torch.autograd through elementary operations, and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from evenkeel import reference
from evenkeel.errors import ShapeError
from evenkeel.spec import ACTIVATIONS, IDENTITY, Activation

U = 2.0**-53
EPS = 1e-3
TORCH = {
    "identity": lambda z, _: z,
    "relu": lambda z, _: F.relu(z),
    "leaky_relu": F.leaky_relu,
    "relu6": lambda z, _: F.relu6(z),
    "silu": lambda z, _: F.silu(z),
    "gelu": lambda z, _: F.gelu(z),
    "hardswish": lambda z, _: F.hardswish(z),
    "elu": F.elu,
}
ACTIVATION = [Activation.parse(name) for name in ACTIVATIONS]


def problem(shape=(4, 3, 5), seed=0):
    """dy, x, residual, weight, bias, running mean and variance."""
    rng = np.random.default_rng(seed)
    dy, x, residual = rng.standard_normal((3, *shape)) * 2
    weight, bias, mean = rng.standard_normal((3, shape[1]))
    return dy, x, residual, weight, bias, mean, rng.random(shape[1]) + 0.5


def autograd(dy, x, residual, weight, bias, statistics, activation, mask):
    """Gradients by torch, of the definition written with sums over kept values."""
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, weight, bias, residual)]
    tx, tw, tb, tr = leaves
    keep = torch.ones(x.shape[0], 1, x.shape[2], dtype=torch.bool)
    keep = keep if mask is None else torch.from_numpy(mask)[:, None]
    if statistics is None:
        mean = (tx * keep).sum((0, 2), keepdim=True) / keep.sum()
        var = ((tx - mean).square() * keep).sum((0, 2), keepdim=True) / keep.sum()
    else:
        mean, var = (torch.from_numpy(s)[:, None] for s in statistics)
    z = (tx - mean) / (var + EPS).sqrt() * tw[:, None] + tb[:, None] + tr
    y = TORCH[activation.name](z, activation.parameter) * keep
    return [g.numpy() for g in torch.autograd.grad((y * torch.from_numpy(dy)).sum(), leaves)]


def assert_gradients(got, expected):
    """float64 against float64; sums of at most 64 values of size below 100."""
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=64 * U * 1000)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ACTIVATION, ids=lambda a: a.name)
def test_equals_autograd(activation, training, masked):
    dy, x, residual, weight, bias, mean, var = problem()
    mask = np.random.default_rng(1).random((4, 5)) < 0.7 if masked else None
    if training:
        _, mean, var = reference.moments(x, mask)
    statistics = None if training else (mean, var)
    got = reference.backward(
        dy, x, mean, var, weight, bias, EPS,
        residual=residual, activation=activation, mask=mask, training=training,
    )  # fmt: skip
    expected = autograd(dy, x, residual, weight, bias, statistics, activation, mask)
    assert_gradients(got, expected)


@given(
    st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4)),
    st.integers(0, 2**32),
    st.sampled_from(ACTIVATION),
)
def test_equals_autograd_for_random_shapes(shape, seed, activation):
    dy, x, residual, weight, bias, *_ = problem(shape, seed)
    _, mean, var = reference.moments(x)
    got = reference.backward(
        dy, x, mean, var, weight, bias, EPS, residual=residual, activation=activation
    )
    # With one value per channel xhat is 0, and 1/std is 1/sqrt(eps) = 32: cancellation of dz.
    assert_gradients(got, autograd(dy, x, residual, weight, bias, None, activation, None))


def test_gradient_without_the_mean_term_would_not_pass():
    dy, x, residual, weight, bias, *_ = problem()
    _, mean, var = reference.moments(x)
    constants = reference.backward(
        dy, x, mean, var, weight, bias, EPS, residual=residual, training=False
    )
    with pytest.raises(AssertionError):
        assert_gradients(constants, autograd(dy, x, residual, weight, bias, None, IDENTITY, None))


@pytest.mark.parametrize("name", ["identity", "silu", "hardswish"])
def test_equals_finite_differences_of_the_forward_pass(name):
    """Without torch: central differences of the loss, of order h^2."""
    activation, h = Activation(name), 2.0**-17
    dy, x, residual, weight, bias, *_ = problem((2, 2, 3), seed=3)
    _, mean, var = reference.moments(x)
    got = reference.backward(
        dy, x, mean, var, weight, bias, EPS, residual=residual, activation=activation
    )
    inputs = [x, weight, bias, residual]

    def loss():
        y, _ = reference.forward(*inputs[:3], EPS, residual=inputs[3], activation=activation)
        return float((y * dy).sum())

    for array, gradient in zip(inputs, got, strict=True):
        for index in np.ndindex(array.shape):
            kept = array[index]
            array[index] = kept + h
            above = loss()
            array[index] = kept - h
            below = loss()
            array[index] = kept
            # Third derivatives here stay below 1e3; the loss is below 100.
            bound = 1e3 * h**2 / 6 + 100 * 32 * U / h
            assert abs((above - below) / (2 * h) - gradient[index]) <= bound


@pytest.mark.parametrize("offset", [0.0, 1e6, 1e8])
def test_dx_is_orthogonal_to_shift_and_scale(offset):
    """Shifting a channel changes nothing; scaling it only by way of eps (docs/math.md)."""
    dy, x, _, weight, _, *_ = problem((16, 3, 16))
    x = x + offset
    count, mean, var = reference.moments(x)
    got = reference.backward(dy, x, mean, var, weight, eps=EPS)
    xhat = reference.standardize(x, mean, var, EPS)
    rounding = count * U * (np.abs(got.x).max() + np.abs(dy).max()) * (64 + 8 * offset)
    np.testing.assert_allclose(got.x.sum((0, 2)), 0.0, atol=rounding)
    by_eps = weight * (var + EPS) ** -1.5 * EPS * got.weight
    np.testing.assert_allclose((got.x * xhat).sum((0, 2)), by_eps, rtol=0, atol=rounding)
    assert np.abs(by_eps).min() > 100 * rounding or offset > 0


@pytest.mark.parametrize("offset", [0.0, 1e6, 1e8])
def test_gradients_do_not_depend_on_the_mean(offset):
    """x is a multiple of 1/32, so that adding the offset is exact."""
    dy, x, residual, weight, bias, *_ = problem()
    x = np.round(x * 32) / 32
    results = []
    for shifted in (x, x + offset):
        _, mean, var = reference.moments(shifted)
        results.append(reference.backward(dy, shifted, mean, var, weight, bias, residual=residual))
    bound = 1000 * U * (64 + offset)
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=bound)


def test_masked_positions_get_zero_and_give_nothing():
    dy, x, residual, weight, bias, *_ = problem()
    mask = np.random.default_rng(2).random((4, 5)) < 0.5
    hole = ~np.broadcast_to(mask[:, None], x.shape)
    _, mean, var = reference.moments(x, mask)
    for training in (True, False):
        options = {"residual": residual, "activation": Activation("gelu"), "training": training}
        clean = reference.backward(dy, x, mean, var, weight, bias, mask=mask, **options)
        options["residual"] = np.where(hole, np.nan, residual)
        poisoned = reference.backward(
            np.where(hole, np.nan, dy), np.where(hole, np.inf, x), mean, var, weight, bias,
            mask=mask, **options,
        )  # fmt: skip
        for a, b in zip(clean, poisoned, strict=True):
            assert np.isfinite(a).all()
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(clean.x[hole], 0.0)
        np.testing.assert_array_equal(clean.residual[hole], 0.0)


def test_parts_with_common_sums_give_the_whole():
    """What synchronized layers do: reduce each part, add the sums, finish each part."""
    dy, x, residual, weight, bias, *_ = problem((6, 3, 4))
    activation = Activation("relu")
    count, mean, var = reference.merge([reference.moments(x[:2]), reference.moments(x[2:])])
    common = (mean, var, weight, bias, EPS)
    sums, results = [], []
    for part in (slice(0, 2), slice(2, 6)):
        options = {"residual": residual[part], "activation": activation}
        sums.append(reference.backward_reduce(dy[part], x[part], *common, **options))
    total = reference.Sums(*(sum(pair) for pair in zip(*sums, strict=True)))
    for part in (slice(0, 2), slice(2, 6)):
        options = {"residual": residual[part], "activation": activation}
        results.append(
            reference.backward_input(dy[part], x[part], *common, total, count, **options)
        )
    whole = reference.backward(dy, x, *common, residual=residual, activation=activation)
    dx, dresidual = (np.concatenate(pair) for pair in zip(*results, strict=True))
    assert_gradients(whole, (dx, total.dz_xhat, total.dz, dresidual))


def test_empty_and_all_masked_give_zeros():
    x = np.ones((2, 3, 4))
    got = reference.backward(x, x, np.zeros(3), np.ones(3), mask=np.zeros((2, 4), bool))
    for gradient in got:
        np.testing.assert_array_equal(gradient, np.zeros_like(gradient))
    empty = np.empty((0, 3, 4))
    got = reference.backward(empty, empty, np.zeros(3), np.ones(3))
    assert got.x.shape == (0, 3, 4)
    np.testing.assert_array_equal(got.weight, np.zeros(3))


def test_one_value_per_channel_has_no_gradient_of_x():
    dy, x, *_ = problem((1, 3, 1))
    _, mean, var = reference.moments(x)
    got = reference.backward(dy, x, mean, var)
    np.testing.assert_array_equal(got.x, np.zeros((1, 3, 1)))
    np.testing.assert_array_equal(got.weight, np.zeros(3))
    np.testing.assert_array_equal(got.bias, dy.ravel())


def test_nonfinite_stays_in_its_channel():
    dy, x, *_ = problem()
    x[0, 1, 0] = np.nan
    _, mean, var = reference.moments(x)
    got = reference.backward(dy, x, mean, var)
    assert np.isnan(got.x[:, 1]).all()
    assert np.isfinite(got.x[:, [0, 2]]).all()
    assert np.isfinite(got.weight[[0, 2]]).all()


def test_longdouble_stays():
    dy, x, *_ = problem()
    x = x.astype(np.longdouble)
    _, mean, var = reference.moments(x)
    for gradient in reference.backward(dy, x, mean, var, activation=Activation("gelu")):
        assert gradient.dtype == np.longdouble


def test_dy_of_another_shape_is_refused():
    x = np.ones((2, 3, 4))
    with pytest.raises(ShapeError, match="dy"):
        reference.backward(np.ones((2, 3, 1)), x, np.zeros(3), np.ones(3))
