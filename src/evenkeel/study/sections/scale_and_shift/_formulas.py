"""Gradients and updates of gamma and beta by the written formulas, and how exact float32 can be.

Everything here is computed in float64 with NumPy, from the numbers that torch worked with:
autograd and torch's optimizers are judged by it. The gradients are eq. (9) of docs/math.md, the
bound on their error is promise 1, see docs/numerics.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import numpy as np

from evenkeel import reference

if TYPE_CHECKING:
    import numpy.typing as npt

Array: TypeAlias = "npt.NDArray[np.floating[Any]]"

#: Unit roundoff of float32, and the constant of promise 1.
U: Final = 2.0**-24
K: Final = 16
#: The smallest positive float32: near 0 roundings are absolute, and no multiple of U bounds them.
TINY: Final = 2.0**-149
#: What the terms of second order in U can add to a bound of first order, and much more.
_SECOND_ORDER: Final = 1.001


class Expected(NamedTuple):
    """What a formula gives, and how far float32 may be from it; arrays of one shape."""

    value: Array
    bound: Array


class AdamState(NamedTuple):
    """What Adam remembers of a parameter: both moment estimates, and the steps made so far."""

    mean: Array
    square: Array
    steps: int


class AdamSettings(NamedTuple):
    """The constants of Adam, by the names of the paper: alpha, beta_1, beta_2, epsilon."""

    alpha: float
    beta1: float
    beta2: float
    epsilon: float


class Comparison(NamedTuple):
    """The largest error in units of its bound, and in how many channels it exceeds the bound.

    ``worst`` is infinite or NaN where an error is.
    """

    worst: float
    outside: int
    channels: int


def gradients(x: Array, dy: Array, eps: float) -> tuple[Expected, Expected]:
    """Gradients of gamma and beta in training, eq. (9), with the bounds of promise 1.

    Args:
        x: input of the layer, (N, C).
        dy: gradient of the loss with respect to the layer's output, (N, C).
        eps: of the layer.

    Returns:
        d gamma = sum dy xhat within k u sum |dy xhat|, d beta = sum dy within k u sum |dy|, and
        within the spacing of float32 near 0.
    """
    batch = reference.moments(x[:, :, None])
    sums = reference.backward_reduce(dy[:, :, None], x[:, :, None], batch.mean, batch.var, eps=eps)
    xhat = reference.standardize(x[:, :, None], batch.mean, batch.var, eps)[:, :, 0]
    return (
        Expected(sums.dz_xhat, K * U * np.abs(dy * xhat).sum(axis=0) + TINY),
        Expected(sums.dz, K * U * np.abs(dy).sum(axis=0) + TINY),
    )


def descend(parameter: Array, gradient: Array, rate: float) -> Expected:
    """One step of gradient descent, eq. (14), from float32 numbers.

    The bound: the rate is rounded once, its product with the gradient once, the difference once.
    """
    new = reference.gradient_descent_step(parameter, gradient, rate)
    bound = _SECOND_ORDER * U * (np.abs(new) + 2 * np.abs(rate * gradient)) + TINY
    return Expected(new, bound)


def adam(
    parameter: Array, gradient: Array, state: AdamState, settings: AdamSettings
) -> tuple[Expected, AdamState]:
    """One step of Adam, Algorithm 1 of Kingma and Ba 2015, from float32 numbers.

    The bound counts one rounding (U) for each constant and each operation. The first moment is
    computed as m + (1 - beta_1) (g - m): three roundings of the second term, which may cancel
    the first, and one of the sum. All terms of the denominator are positive, so the roundings on
    its way add up: 4 in the second moment, halved by the root, which adds one; 2 in the bias
    correction, 1 in adding epsilon. The step size, its product with m, the quotient and the last
    difference add one each. Near 0 each of the four roundings of m may be TINY instead.
    """
    alpha, beta1, beta2, epsilon = settings
    steps = state.steps + 1
    mean = beta1 * state.mean + (1 - beta1) * gradient
    square = beta2 * state.square + (1 - beta2) * gradient**2
    mean_hat = mean / (1 - beta1**steps)
    square_hat = square / (1 - beta2**steps)
    denominator = np.sqrt(square_hat) + epsilon
    change = alpha * mean_hat / denominator
    new = parameter - change
    change_of_mean = (1 - beta1) * (np.abs(gradient) + np.abs(state.mean))
    mean_error = U * (np.abs(mean) + 3 * change_of_mean) + 4 * TINY
    by_mean = alpha / (1 - beta1**steps) / denominator * mean_error
    bound = _SECOND_ORDER * (U * (np.abs(new) + (6 + 3) * np.abs(change)) + by_mean) + TINY
    return Expected(new, bound), AdamState(mean, square, steps)


def compare(got: Array, expected: Expected) -> Comparison:
    """Hold float32 results against a formula; what is not finite lies outside."""
    ratio = np.abs(got - expected.value) / expected.bound
    return Comparison(float(ratio.max()), int((~(ratio <= 1)).sum()), ratio.size)
