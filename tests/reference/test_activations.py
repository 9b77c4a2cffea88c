"""Activations and derivatives against torch, at kinks and in the tails too."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from evenkeel import reference
from evenkeel.spec import ACTIVATIONS, Activation

TORCH = {
    "identity": lambda z, _: z * 1,
    "relu": lambda z, _: F.relu(z),
    "leaky_relu": F.leaky_relu,
    "relu6": lambda z, _: F.relu6(z),
    "silu": lambda z, _: F.silu(z),
    "gelu": lambda z, _: F.gelu(z),
    "hardswish": lambda z, _: F.hardswish(z),
    "elu": F.elu,
}
POINTS = [-50.0, -6.0, -3.0, -1.0, -1e-300, -0.0, 0.0, 1e-300, 0.5, 3.0, 6.0, 50.0]
# Float64 roundings of the longest formula, torch's and ours; all derivatives are below 1.2.
BOUND = 16 * 2.0**-53


def parsed():
    return [Activation.parse(name) for name in ACTIVATIONS] + [
        Activation("leaky_relu", -0.3),
        Activation("elu", 0.4),
    ]


def torch_both(z, activation):
    z = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    y = TORCH[activation.name](z, activation.parameter)
    (gradient,) = torch.autograd.grad(y.sum(), z)
    return y.detach().numpy(), gradient.numpy()


def test_every_activation_is_compared():
    assert TORCH.keys() == ACTIVATIONS.keys()


@pytest.mark.parametrize("activation", parsed(), ids=str)
def test_equals_torch_at_kinks_and_beyond(activation):
    y, gradient = torch_both(POINTS, activation)
    z = np.array(POINTS)
    np.testing.assert_allclose(reference.activate(z, activation), y, BOUND, atol=50 * BOUND)
    got = reference.activation_gradient(z, activation)
    np.testing.assert_allclose(got, gradient, BOUND, atol=50 * BOUND)
    kinks = np.isin(z, [-3.0, 0.0, 3.0, 6.0])
    if activation.name not in {"silu", "gelu", "elu"}:
        np.testing.assert_array_equal(got[kinks], gradient[kinks])


@pytest.mark.parametrize("activation", parsed(), ids=str)
@given(z=st.lists(st.floats(-8, 8), min_size=1, max_size=8))
def test_equals_torch_at_random_points(activation, z):
    y, gradient = torch_both(z, activation)
    np.testing.assert_allclose(reference.activate(z, activation), y, atol=8 * BOUND, rtol=0)
    got = reference.activation_gradient(z, activation)
    np.testing.assert_allclose(got, gradient, atol=8 * BOUND, rtol=0)


@pytest.mark.parametrize("activation", parsed(), ids=str)
def test_derivative_at_nan_is_torchs(activation):
    _, gradient = torch_both([math.nan], activation)
    assert np.isnan(reference.activate([math.nan], activation)).all()
    np.testing.assert_array_equal(
        reference.activation_gradient([math.nan], activation), gradient, strict=True
    )


@pytest.mark.parametrize("z", [-6.0, -10.0, -20.0, -37.0])
def test_gelu_keeps_its_relative_accuracy_in_the_tail(z):
    """Mills' ratio bounds the normal tail from both sides; 1 + erf would give 0 from -8.3 on."""
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    (got,) = reference.activate([z], Activation("gelu"))
    assert -density < got < -density * (1 - 1 / z**2)


@pytest.mark.parametrize("name", ["silu", "gelu"])
def test_smooth_derivative_is_the_limit_of_differences(name):
    activation = Activation(name)
    z = np.linspace(-5, 5, 41)
    h = 2.0**-10
    # Five-point rule: the error is h^4/30 times the fifth derivative, which is below 20.
    ahead, back = (reference.activate(z + s * h, activation) for s in (1, -1))
    far, far_back = (reference.activate(z + 2 * s * h, activation) for s in (1, -1))
    difference = (8 * (ahead - back) - (far - far_back)) / (12 * h)
    bound = 20 * h**4 / 30 + 40 * 2.0**-53 / h
    np.testing.assert_allclose(
        reference.activation_gradient(z, activation), difference, atol=bound, rtol=0
    )


@pytest.mark.parametrize("activation", parsed(), ids=str)
def test_shape_and_precision_are_kept(activation):
    for shape in [(), (0,), (2, 0, 3), (2, 3)]:
        for function in (reference.activate, reference.activation_gradient):
            assert function(np.zeros(shape, np.longdouble), activation).dtype == np.longdouble
            assert function(np.zeros(shape, np.float32), activation).dtype == np.float64
            assert function(np.zeros(shape), activation).shape == shape
