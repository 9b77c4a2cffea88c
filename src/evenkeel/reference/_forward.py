"""The forward pass: from x and its moments to y."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evenkeel.reference._activations import activate
from evenkeel.reference._arrays import (
    Array,
    canonical,
    checked_eps,
    keep,
    keep_mask,
    like,
    per_channel,
    quiet,
)
from evenkeel.reference._moments import Moments, moments
from evenkeel.spec import IDENTITY

if TYPE_CHECKING:
    import numpy.typing as npt

    from evenkeel.spec import Activation


@quiet
def standardize(x: npt.ArrayLike, mean: npt.ArrayLike, var: npt.ArrayLike, eps: float) -> Array:
    """The normalized input xhat = (x - mean) / sqrt(var + eps), eq. (3).

    Args:
        x: (N, C, S).
        mean: (C,).
        var: (C,), biased in training.
        eps: added to the variance, under the root.

    Returns:
        xhat, (N, C, S). A constant channel gives NaN where eps is 0.
    """
    x = canonical(x)
    channels = x.shape[1]
    std = np.sqrt(per_channel(var, channels, "var", 1.0) + checked_eps(eps))
    return (x - per_channel(mean, channels, "mean", 0.0)) / std


@quiet
def preactivation(
    xhat: Array,
    weight: npt.ArrayLike | None,
    bias: npt.ArrayLike | None,
    residual: npt.ArrayLike | None,
) -> Array:
    """The activation's argument z = weight xhat + bias + residual, see eq. (5)."""
    channels = xhat.shape[1]
    z = per_channel(weight, channels, "weight", 1.0) * xhat
    z = z + per_channel(bias, channels, "bias", 0.0)
    return z if residual is None else z + like(residual, xhat, "residual")


def normalize(
    x: npt.ArrayLike,
    mean: npt.ArrayLike,
    var: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    bias: npt.ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    residual: npt.ArrayLike | None = None,
    activation: Activation = IDENTITY,
    mask: npt.ArrayLike | None = None,
) -> Array:
    """Output of the layer for given statistics, eq. (3) and (5).

    In training the statistics are those of the batch, in inference the running ones.

    Args:
        x: (N, C, S), any real dtype.
        mean: (C,).
        var: (C,).
        weight: gamma, (C,), or None for 1.
        bias: beta, (C,), or None for 0.
        eps: added to the variance, under the root.
        residual: (N, C, S), added before the activation.
        activation: applied last.
        mask: bool (N, S), True = keep; other positions give 0.

    Returns:
        y, (N, C, S), float64 or longdouble.

    Raises:
        ShapeError: a shape does not fit x.
        DTypeError: an array is not real, or the mask not bool.
        InputError: eps is negative or not finite.
    """
    x = canonical(x)
    z = preactivation(standardize(x, mean, var, eps), weight, bias, residual)
    return keep(activate(z, activation), keep_mask(mask, x))


def forward(
    x: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    bias: npt.ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    residual: npt.ArrayLike | None = None,
    activation: Activation = IDENTITY,
    mask: npt.ArrayLike | None = None,
) -> tuple[Array, Moments]:
    """Output of the layer in training, eq. (1) to (3) and (5), with the moments it used.

    Arguments, result and errors are those of :func:`moments` and :func:`normalize`.

    Source:
        Ioffe, Szegedy: Batch normalization (2015), algorithm 1.

    Example:
        >>> y, batch = forward([[[1.0], [5.0]], [[3.0], [5.0]]], eps=0.0, bias=[0.0, 2.0])
        >>> batch.mean.tolist(), batch.var.tolist()
        ([2.0, 5.0], [1.0, 0.0])
        >>> y[:, 0, 0].tolist()
        [-1.0, 1.0]
    """
    batch = moments(x, mask)
    y = normalize(
        x,
        batch.mean,
        batch.var,
        weight,
        bias,
        eps,
        residual=residual,
        activation=activation,
        mask=mask,
    )
    return y, batch
