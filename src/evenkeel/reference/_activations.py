"""The activations of the fused layer and their derivatives."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from evenkeel.reference._arrays import Array, as_float, quiet

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from evenkeel.spec import Activation

_erfc: Final = np.frompyfunc(math.erfc, 1, 1)


@quiet
def activate(z: npt.ArrayLike, activation: Activation) -> Array:
    """Apply ``activation`` to every element of ``z``, eq. (12).

    ``gelu`` has float64 accuracy for longdouble input as well; all others keep the precision
    of their input.
    """
    return _FUNCTIONS[activation.name](as_float(z, "z"), activation.parameter)


@quiet
def activation_gradient(z: npt.ArrayLike, activation: Activation) -> Array:
    """Derivative of ``activation`` at every element of ``z``, eq. (13).

    Where there is no derivative (at a kink) and at NaN, the value is the one that torch takes.
    """
    return _DERIVATIVES[activation.name](as_float(z, "z"), activation.parameter)


def _sigmoid(z: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-z))


def _normal_cdf(z: Array) -> Array:
    # erfc, not 1 + erf, which cancels for negative z.
    return 0.5 * np.asarray(_erfc(-z / math.sqrt(2.0)), dtype=z.dtype)


def _normal_density(z: Array) -> Array:
    return np.exp(-0.5 * np.square(z)) / math.sqrt(2.0 * math.pi)


def _silu_gradient(z: Array, _: float) -> Array:
    return _sigmoid(z) * (1.0 + z * _sigmoid(-z))


def _hardswish_gradient(z: Array, _: float) -> Array:
    return np.where(z <= -3.0, 0.0, np.where(z < 3.0, z / 3.0 + 0.5, 1.0))


_FUNCTIONS: Final[dict[str, Callable[[Array, float], Array]]] = {
    "identity": lambda z, _: z,
    "relu": lambda z, _: np.maximum(z, 0.0),
    "leaky_relu": lambda z, slope: np.where(z > 0.0, z, slope * z),
    "relu6": lambda z, _: np.clip(z, 0.0, 6.0),
    "silu": lambda z, _: z / (1.0 + np.exp(-z)),
    "gelu": lambda z, _: z * _normal_cdf(z),
    "hardswish": lambda z, _: z * np.clip(z + 3.0, 0.0, 6.0) / 6.0,
    "elu": lambda z, alpha: np.where(z > 0.0, z, alpha * np.expm1(np.minimum(z, 0.0))),
}

_DERIVATIVES: Final[dict[str, Callable[[Array, float], Array]]] = {
    "identity": lambda z, _: np.ones_like(z),
    "relu": lambda z, _: np.where(z <= 0.0, 0.0, np.ones_like(z)),
    "leaky_relu": lambda z, slope: np.where(z > 0.0, np.ones_like(z), slope),
    "relu6": lambda z, _: np.where((z <= 0.0) | (z >= 6.0), 0.0, np.ones_like(z)),
    "silu": _silu_gradient,
    "gelu": lambda z, _: _normal_cdf(z) + z * _normal_density(z),
    "hardswish": _hardswish_gradient,
    "elu": lambda z, alpha: np.where(z <= 0.0, alpha * np.exp(np.minimum(z, 0.0)), 1.0),
}
