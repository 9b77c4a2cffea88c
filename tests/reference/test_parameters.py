"""The gradient step against torch.optim, and folding against the two layers in a row."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evenkeel import reference
from evenkeel.errors import ChannelError, InputError, ShapeError

U = 2.0**-53


def test_step_equals_torch_sgd():
    rng = np.random.default_rng(0)
    parameter, gradient = rng.standard_normal((2, 5))
    tensor = torch.nn.Parameter(torch.from_numpy(parameter.copy()))
    tensor.grad = torch.from_numpy(gradient)
    torch.optim.SGD([tensor], lr=0.3).step()
    got = reference.gradient_descent_step(parameter, gradient, 0.3)
    np.testing.assert_allclose(got, tensor.detach().numpy(), rtol=0, atol=8 * U)


def test_step_leaves_the_old_parameter():
    parameter = np.ones(2)
    got = reference.gradient_descent_step(parameter, [1.0, 2.0], 0.5)
    np.testing.assert_array_equal(got, [0.5, 0.0])
    np.testing.assert_array_equal(parameter, [1.0, 1.0])


def test_step_refuses_to_broadcast():
    with pytest.raises(ShapeError, match="gradient"):
        reference.gradient_descent_step(np.ones(3), np.ones(1), 0.1)


def test_cycle_lowers_the_loss_until_it_fits():
    """Forward, loss, backward, update: gamma and beta of a target are found again."""
    x = np.random.default_rng(1).standard_normal((8, 2, 4))
    target, _ = reference.forward(x, [2.0, -1.0], [0.5, 3.0])
    weight, bias = np.ones(2), np.zeros(2)
    for _ in range(60):
        y, batch = reference.forward(x, weight, bias)
        gradients = reference.backward((y - target) / 32, x, batch.mean, batch.var, weight, bias)
        weight = reference.gradient_descent_step(weight, gradients.weight, 0.9)
        bias = reference.gradient_descent_step(bias, gradients.bias, 0.9)
    # The Hessian is the unit matrix up to eps, so each step leaves a tenth of the error.
    np.testing.assert_allclose(weight, [2.0, -1.0], atol=1e-12)
    np.testing.assert_allclose(bias, [0.5, 3.0], atol=1e-12)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    ("layer", "shape", "axis"),
    [
        (torch.nn.Linear(4, 3), (5, 4), 0),
        (torch.nn.Conv1d(4, 3, 2), (5, 4, 6), 0),
        (torch.nn.Conv2d(4, 6, 3, groups=2, padding=1), (2, 4, 5, 5), 0),
        (torch.nn.ConvTranspose2d(4, 3, 3, stride=2), (2, 4, 5, 5), 1),
        (torch.nn.ConvTranspose2d(4, 3, 3, stride=2), (2, 4, 5, 5), -3),
    ],
    ids=lambda v: str(v).split("(")[0],
)
def test_fold_equals_both_layers(layer, shape, axis, affine, with_bias):
    layer = layer.double()
    rng = np.random.default_rng(2)
    channels = layer.weight.shape[axis]
    channels = layer.out_channels if hasattr(layer, "out_channels") else channels
    x = torch.from_numpy(rng.standard_normal(shape))
    weight = layer.weight.detach().numpy()
    bias = layer.bias.detach().numpy() if with_bias else None
    mean, gamma, beta = rng.standard_normal((3, channels))
    var = rng.random(channels) + 0.1
    gamma, beta = (gamma, beta) if affine else (None, None)

    def apply(weight, bias):
        state = {"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)}
        return torch.func.functional_call(layer, state, x).detach().numpy()

    plain = apply(weight, np.zeros(channels) if bias is None else bias)
    view = plain.reshape(*plain.shape[:2], -1)
    expected = reference.normalize(view, mean, var, gamma, beta, 1e-3).reshape(plain.shape)
    got = apply(*reference.fold(weight, bias, mean, var, gamma, beta, 1e-3, axis))
    # At most 36 products per output; factors gamma/std below 10.
    np.testing.assert_allclose(got, expected, rtol=0, atol=1000 * U)


def test_fold_refuses_what_does_not_fit():
    ones = np.ones(3)
    with pytest.raises(ShapeError, match="no such axis"):
        reference.fold(np.ones((3, 4)), None, ones, ones, None, None, 1e-5, axis=2)
    with pytest.raises(ChannelError, match="4 channels"):
        reference.fold(np.ones((3, 4)), None, ones, ones, None, None, 1e-5, axis=1)
    with pytest.raises(InputError, match="eps"):
        reference.fold(np.ones((3, 4)), None, ones, ones, None, None, -1.0)
