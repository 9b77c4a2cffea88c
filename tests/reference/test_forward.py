"""The output against exact arithmetic and torch, up to mean/std of 1e8."""

from __future__ import annotations

from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evenkeel import reference
from evenkeel.errors import ChannelError, DTypeError, InputError, ShapeError
from evenkeel.spec import ACTIVATIONS, Activation

U = 2.0**-53
K = 40  # as in test_moments


def exact_xhat(row, eps):
    """Normalized values of one channel, rounded once from 60 digits."""
    row = [Fraction(float(v)) for v in row]
    mean = sum(row, Fraction(0)) / len(row)
    var = sum(((v - mean) ** 2 for v in row), Fraction(0)) / len(row) + Fraction(eps)
    with localcontext() as context:
        context.prec = 60
        std = (Decimal(var.numerator) / var.denominator).sqrt()
        centred = (v - mean for v in row)
        return np.array([float(Decimal(v.numerator) / v.denominator / std) for v in centred])


def assert_standardized(y, row, eps):
    """A rounded mean is off by u |mean|; everything else is relative to the result."""
    xhat = exact_xhat(row, eps)
    std = float(np.sqrt(np.var(row.astype(np.longdouble)) + eps))
    bound = 2 * U * np.abs(row).max() / std + 2 * K * U * (1 + np.abs(xhat))
    assert (np.abs(y - xhat) <= bound).all(), np.abs(y - xhat).max()


@pytest.mark.parametrize("eps", [0.0, 1e-5, 1e-3])
@pytest.mark.parametrize("offset", [0.0, 1e4, -1e6, 1e8])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_output_is_exact_at_any_mean(offset, eps, scale):
    x = np.random.default_rng(0).standard_normal((16, 2, 8)) * scale + offset
    y, batch = reference.forward(x, eps=eps)
    assert batch.count == 128
    for channel in range(2):
        assert_standardized(y[:, channel].ravel(), x[:, channel].ravel(), eps)


def test_textbook_variance_would_not_pass():
    row = np.random.default_rng(0).standard_normal(128) + 1e6
    var = (row**2).mean() - row.mean() ** 2
    y = reference.normalize(row.reshape(-1, 1, 1), [row.mean()], [var])
    with pytest.raises(AssertionError):
        assert_standardized(y.ravel(), row, 1e-5)


@given(
    st.lists(st.floats(-4, 4, width=32), min_size=2, max_size=12),
    st.sampled_from([0.0, 1e6, 1e8]),
)
def test_output_is_exact_for_random_values(values, offset):
    row = np.array(values) + offset
    y, _ = reference.forward(row.reshape(-1, 1, 1), eps=1e-5)
    assert_standardized(y.ravel(), row, 1e-5)


def test_outlier():
    row = np.random.default_rng(5).standard_normal(256)
    row[17] = 1e8
    y, _ = reference.forward(row.reshape(16, 1, 16), eps=0.0)
    assert_standardized(y.ravel(), row, 0.0)


def test_constant_channel_gives_the_bias():
    x = np.stack([np.full((4096, 1), 3333.3), np.full((4096, 1), 1e6 + 0.1)], axis=1)
    y, _ = reference.forward(x, [5.0, -2.0], [7.0, 0.25])
    np.testing.assert_array_equal(y[:, 0], 7.0)
    np.testing.assert_array_equal(y[:, 1], 0.25)
    single, _ = reference.forward(x[:1], [5.0, -2.0], [7.0, 0.25])
    np.testing.assert_array_equal(single.ravel(), [7.0, 0.25])


def test_constant_channel_with_eps_zero_is_nan():
    assert np.isnan(reference.forward(np.ones((2, 1, 1)), eps=0.0)[0]).all()


@pytest.mark.parametrize("eps", [1e-5, 1e-3])
def test_equals_torch_in_training_and_inference(eps):
    rng = np.random.default_rng(6)
    x, weight, bias = (
        rng.standard_normal((8, 3, 10)),
        rng.standard_normal(3),
        rng.standard_normal(3),
    )
    mean, var = rng.standard_normal(3), rng.random(3) + 0.5
    tensors = [torch.from_numpy(a) for a in (x, mean.copy(), var.copy(), weight, bias)]
    trained = torch.nn.functional.batch_norm(*tensors, training=True, eps=eps).numpy()
    tensors[1:3] = torch.from_numpy(mean), torch.from_numpy(var)
    inferred = torch.nn.functional.batch_norm(*tensors, training=False, eps=eps).numpy()
    bound = 64 * U * (np.abs(x).max() * np.abs(weight).max() / 0.5 + np.abs(bias).max())
    y, _ = reference.forward(x, weight, bias, eps)
    np.testing.assert_allclose(y, trained, atol=bound, rtol=0)
    y = reference.normalize(x, mean, var, weight, bias, eps)
    np.testing.assert_allclose(y, inferred, atol=bound, rtol=0)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_residual_comes_before_the_activation(name):
    rng = np.random.default_rng(7)
    x, residual = rng.standard_normal((2, 4, 3, 5)) * 3
    activation = Activation.parse(name)
    plain, _ = reference.forward(x, [1.0, 2.0, 3.0], [0.1, 0.2, 0.3])
    fused, _ = reference.forward(
        x, [1.0, 2.0, 3.0], [0.1, 0.2, 0.3], residual=residual, activation=activation
    )
    expected = reference.activate(plain + residual, activation)
    np.testing.assert_array_equal(fused, expected)
    if name != "identity":
        assert not np.array_equal(fused, reference.activate(plain, activation) + residual)


def test_masked_positions_give_zero_and_change_nothing():
    rng = np.random.default_rng(8)
    x, residual = rng.standard_normal((2, 6, 2, 4))
    mask = rng.random((6, 4)) < 0.6
    poison = np.where(mask[:, None], 0.0, np.nan)
    y, batch = reference.forward(x + poison, bias=[1.0, 2.0], residual=residual + poison, mask=mask)
    assert batch.count == mask.sum()
    np.testing.assert_array_equal(y.transpose(1, 0, 2)[:, ~mask], 0.0)
    kept = x.transpose(1, 0, 2)[:, mask][np.newaxis]
    kept_residual = residual.transpose(1, 0, 2)[:, mask][np.newaxis]
    expected, _ = reference.forward(kept, bias=[1.0, 2.0], residual=kept_residual)
    np.testing.assert_array_equal(y.transpose(1, 0, 2)[:, mask], expected[0])


def test_all_masked_gives_zeros():
    mask = np.zeros((2, 4), bool)
    y, batch = reference.forward(np.full((2, 3, 4), np.nan), bias=np.ones(3), mask=mask)
    assert batch.count == 0
    np.testing.assert_array_equal(y, np.zeros((2, 3, 4)))


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0), (2, 0, 4)])
def test_empty_input_gives_empty_output(shape):
    y, _ = reference.forward(np.empty(shape))
    assert y.shape == shape


def test_nonfinite_stays_in_its_channel():
    x = np.random.default_rng(9).standard_normal((4, 3, 5))
    clean, _ = reference.forward(x)
    x[2, 1, 3] = np.inf
    y, _ = reference.forward(x)
    assert not np.isfinite(y[:, 1]).any()
    np.testing.assert_array_equal(y[:, [0, 2]], clean[:, [0, 2]])


def test_standardize_is_the_plain_form():
    x = np.random.default_rng(10).standard_normal((3, 2, 2))
    mean, var = np.array([1.0, -1.0]), np.array([3.0, 0.5])
    expected = reference.normalize(x, mean, var, eps=1.0)
    np.testing.assert_array_equal(reference.standardize(x, mean, var, 1.0), expected)
    assert expected[0, 0, 0] == (x[0, 0, 0] - 1.0) / 2.0


def test_longdouble_stays():
    x = np.random.default_rng(11).standard_normal((4, 2, 3)).astype(np.longdouble)
    y, _ = reference.forward(x, np.ones(2), np.ones(2), activation=Activation("silu"))
    assert y.dtype == np.longdouble


@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize("value", [[1.0], [[1.0, 2.0, 3.0]], np.ones(4), 1.0])
def test_parameters_are_not_broadcast(name, value):
    with pytest.raises(ChannelError, match=rf"pass {name} of shape \(3,\)"):
        reference.forward(np.ones((2, 3, 4)), **{name: value})


def test_statistics_are_not_broadcast():
    x = np.ones((2, 3, 4))
    with pytest.raises(ChannelError, match="mean"):
        reference.normalize(x, [0.0], np.ones(3))
    with pytest.raises(ChannelError, match="var"):
        reference.normalize(x, np.zeros(3), [1.0])


def test_residual_is_not_broadcast():
    with pytest.raises(ShapeError, match="residual"):
        reference.forward(np.ones((2, 3, 4)), residual=np.ones((1, 3, 4)))


@pytest.mark.parametrize("eps", [-1e-5, np.nan, np.inf])
def test_impossible_eps_is_refused(eps):
    with pytest.raises(InputError, match="eps"):
        reference.forward(np.ones((2, 3, 4)), eps=eps)


def test_complex_is_refused_everywhere():
    x, c = np.ones((2, 3, 4)), np.ones(3, complex)
    for bad in (
        lambda: reference.forward(x.astype(complex)),
        lambda: reference.forward(x, weight=c),
        lambda: reference.normalize(x, c, np.ones(3)),
        lambda: reference.backward(x.astype(complex), x, np.ones(3), np.ones(3)),
    ):
        with pytest.raises(DTypeError, match="complex"):
            bad()
