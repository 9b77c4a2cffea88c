"""Gradients and updates of gamma and beta: written formulas beside autograd and torch.optim."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evenkeel.nn import BatchNorm1d
from evenkeel.study.sections.scale_and_shift import _formulas
from evenkeel.study.sections.scale_and_shift._formulas import (
    TINY,
    AdamSettings,
    AdamState,
    U,
    adam,
    compare,
    descend,
    gradients,
)

SHAPES = [(2, 1), (2, 7), (3, 33), (64, 64), (301, 9), (1025, 3)]
#: Where the input lies: mean and standard deviation, and the largest ratio of the promise.
INPUTS = [(0.0, 1.0), (-3.0, 0.01), (1e6, 1.0)]


def layer_step(
    shape: tuple[int, int], mean: float = 0.5, std: float = 2.0, seed: int = 0
) -> tuple[BatchNorm1d, np.ndarray, np.ndarray]:
    """A layer after one backward pass, its input and the gradient of its output, in float64."""
    generator = torch.Generator().manual_seed(seed)
    layer = BatchNorm1d(shape[1])
    x = torch.randn(shape, generator=generator) * std + mean
    dy = torch.randn(shape, generator=generator)
    with torch.no_grad():
        layer.weight.normal_(generator=generator)
        layer.bias.normal_(generator=generator)
    layer(x).backward(dy)
    return layer, x.double().numpy(), dy.double().numpy()


def grads(layer: BatchNorm1d) -> tuple[np.ndarray, np.ndarray]:
    return layer.weight.grad.double().numpy(), layer.bias.grad.double().numpy()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("mean", "std"), INPUTS)
def test_gradients_by_the_formula_are_those_of_autograd(shape, mean, std) -> None:
    layer, x, dy = layer_step(shape, mean, std)
    for got, expected in zip(grads(layer), gradients(x, dy, layer.eps), strict=True):
        found = compare(got, expected)
        assert found.channels == shape[1]
        assert found.outside == 0, f"{found.worst} times the bound"
        assert found.worst <= 1


@pytest.mark.parametrize("shape", SHAPES)
def test_formula_is_the_derivative_that_float64_autograd_finds(shape) -> None:
    """Torch differentiates the forward pass itself, written out in float64 operations."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 2 + 0.5
    dy = torch.randn(shape, generator=generator, dtype=torch.float64)
    gamma = torch.randn(shape[1], generator=generator, dtype=torch.float64, requires_grad=True)
    beta = torch.randn(shape[1], generator=generator, dtype=torch.float64, requires_grad=True)
    std = (((x - x.mean(0)) ** 2).mean(0) + 1e-5).sqrt()
    (gamma * (x - x.mean(0)) / std + beta).backward(dy)
    # n terms summed in any order: n w sum |t|, and a few roundings in each term.
    w = 2.0**-53
    xhat = ((x - x.mean(0)) / std).abs().numpy()
    size = np.abs(dy.numpy())
    for got, found, scale in zip(
        (gamma.grad, beta.grad),
        gradients(x.numpy(), dy.numpy(), 1e-5),
        (size * (xhat + xhat.max(axis=0)), size),
        strict=True,
    ):
        room = 2 * (shape[0] + 10) * w * scale.sum(axis=0)
        assert (np.abs(got.numpy() - found.value) <= room).all()


@pytest.mark.parametrize(
    "fault", ["biased xhat", "eps outside", "one sample missing", "mean of dy"]
)
def test_formula_with_a_wrong_term_is_caught(fault: str) -> None:
    layer, x, dy = layer_step((64, 16), mean=0.5, std=0.05)
    right = gradients(x, dy, layer.eps)
    xhat = (x - x.mean(0)) / np.sqrt(x.var(0) + layer.eps)
    d_gamma, d_beta = {
        "biased xhat": (
            (dy * (x - x.mean(0)) / np.sqrt(x.var(0, ddof=1) + layer.eps)).sum(0),
            None,
        ),
        "eps outside": ((dy * (x - x.mean(0)) / (x.std(0) + layer.eps)).sum(0), None),
        "one sample missing": ((dy * xhat)[1:].sum(0), dy[1:].sum(0)),
        "mean of dy": (None, dy.mean(0)),
    }[fault]
    for got, wrong, expected in zip(grads(layer), (d_gamma, d_beta), right, strict=True):
        if wrong is not None:
            assert compare(got, expected._replace(value=wrong)).outside == 16


def test_one_wrong_channel_is_counted_and_nan_is_outside() -> None:
    layer, x, dy = layer_step((64, 16))
    expected = gradients(x, dy, layer.eps)[1]
    got = grads(layer)[1].copy()
    got[3] += 1.01 * expected.bound[3] * np.sign(got[3] - expected.value[3] or 1)
    assert compare(got, expected).outside == 1
    assert compare(got, expected).worst > 1
    got[5] = np.nan
    assert compare(got, expected).outside == 2


def test_gradients_too_small_for_relative_rounding_are_within_the_spacing_of_float32() -> None:
    layer = BatchNorm1d(1)
    x = torch.tensor([[0.0], [1.0], [3.0]])
    dy = torch.tensor([[0.0], [1e-40], [0.0]])
    layer(x).backward(dy)
    assert layer.weight.grad.item() != 0
    for got, expected in zip(
        grads(layer), gradients(x.double().numpy(), dy.double().numpy(), 1e-5), strict=True
    ):
        assert compare(got, expected).outside == 0
        assert compare(got + 2 * TINY, expected).outside == 1


def float64(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy().copy()


@pytest.mark.parametrize("kind", ["fused", "foreach", "for loop"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rate", [1e-3, 0.3, 10.0])
def test_one_sgd_update_is_that_of_torch(shape, rate: float, kind: str) -> None:
    layer, _, _ = layer_step(shape)
    before = [float64(p) for p in layer.parameters()]
    optimizer = torch.optim.SGD(
        layer.parameters(), lr=rate, fused=kind == "fused", foreach=kind == "foreach"
    )
    optimizer.step()
    for old, parameter in zip(before, layer.parameters(), strict=True):
        expected = descend(old, float64(parameter.grad), rate)
        assert compare(float64(parameter), expected).outside == 0
        # The bound is no wider than a few roundings of what the step works with.
        assert (
            expected.bound <= 4 * U * (np.abs(old) + rate * np.abs(float64(parameter.grad))) + TINY
        ).all()
        wrong = descend(old, float64(parameter.grad), rate * (1 + 1e-3))
        assert compare(float64(parameter), wrong).outside > 0


@pytest.mark.parametrize("kind", ["fused", "foreach", "for loop"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rate", [1e-3, 0.1])
def test_adam_updates_are_those_of_torch(shape, rate: float, kind: str) -> None:
    """The first step, and the next nine from the state that torch keeps."""
    layer, x, _ = layer_step(shape)
    optimizer = torch.optim.Adam(
        layer.parameters(), lr=rate, fused=kind == "fused", foreach=kind == "foreach"
    )
    settings = AdamSettings(rate, 0.9, 0.999, 1e-8)
    states = [AdamState(np.zeros(shape[1]), np.zeros(shape[1]), 0) for _ in range(2)]
    generator = torch.Generator().manual_seed(2)
    for _ in range(10):
        before = [float64(p) for p in layer.parameters()]
        optimizer.step()
        for number, parameter in enumerate(layer.parameters()):
            gradient = float64(parameter.grad)
            expected, after = adam(before[number], gradient, states[number], settings)
            assert compare(float64(parameter), expected).outside == 0
            kept = optimizer.state[parameter]
            assert after.steps == int(kept["step"])
            states[number] = AdamState(
                float64(kept["exp_avg"]), float64(kept["exp_avg_sq"]), after.steps
            )
            # 4 roundings of the second moment, all terms positive; see the docstring of adam().
            assert np.allclose(states[number].square, after.square, rtol=4.01 * U, atol=TINY)
        optimizer.zero_grad()
        layer(torch.tensor(x).float()).backward(torch.randn(shape, generator=generator))


@pytest.mark.parametrize(
    "fault",
    ["no correction of the first moment", "no correction of the second", "epsilon under the root"],
)
def test_adam_with_a_wrong_term_is_caught(fault: str) -> None:
    layer, _, _ = layer_step((64, 16))
    with torch.no_grad():
        layer.weight.grad.mul_(1e-6)  # where epsilon counts
    before, gradient = float64(layer.weight), float64(layer.weight.grad)
    torch.optim.Adam(layer.parameters(), lr=0.01).step()
    mean, square = 0.1 * gradient, 0.001 * gradient**2
    change = {
        "no correction of the first moment": mean / (np.abs(gradient) + 1e-8),
        "no correction of the second": gradient / (np.sqrt(square) + 1e-8),
        "epsilon under the root": gradient / np.sqrt(gradient**2 + 1e-8),
    }[fault]
    zero = AdamState(np.zeros(16), np.zeros(16), 0)
    right, _ = adam(before, gradient, zero, AdamSettings(0.01, 0.9, 0.999, 1e-8))
    got = float64(layer.weight)
    assert compare(got, right).outside == 0
    assert compare(got, right._replace(value=before - 0.01 * change)).outside > 8


def test_bounds_are_those_of_the_promise() -> None:
    assert (_formulas.U, _formulas.K) == (2.0**-24, 16)
    _, x, dy = layer_step((64, 16))
    xhat = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    d_gamma, d_beta = gradients(x, dy, 1e-5)
    # Both sides sum 64 float64 terms.
    assert np.allclose(d_gamma.bound, 16 * 2.0**-24 * np.abs(dy * xhat).sum(0), rtol=1e-12)
    assert np.allclose(d_beta.bound, 16 * 2.0**-24 * np.abs(dy).sum(0), rtol=1e-12)
