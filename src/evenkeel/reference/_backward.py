"""The backward pass: from dy to the gradients of everything that went in."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from evenkeel.reference._activations import activation_gradient
from evenkeel.reference._arrays import (
    Array,
    by_channel,
    canonical,
    count_kept,
    keep,
    keep_mask,
    like,
    per_channel,
    quiet,
)
from evenkeel.reference._forward import preactivation, standardize
from evenkeel.spec import IDENTITY

if TYPE_CHECKING:
    import numpy.typing as npt

    from evenkeel.spec import Activation


class Sums(NamedTuple):
    """The two sums of the backward pass over the kept values, each (C,), eq. (9).

    Args:
        dz: sum of dz = dy activation'(z); the gradient of the bias.
        dz_xhat: sum of dz xhat; the gradient of the weight.
    """

    dz: Array
    dz_xhat: Array


class Gradients(NamedTuple):
    """Gradients of the loss with respect to everything that the layer takes.

    Args:
        x: (N, C, S).
        weight: (C,), also where the layer has no weight.
        bias: (C,), also where the layer has no bias.
        residual: (N, C, S), also where there is no residual.
    """

    x: Array
    weight: Array
    bias: Array
    residual: Array


@quiet
def _dz_and_xhat(
    dy: npt.ArrayLike,
    x: Array,
    mean: npt.ArrayLike,
    var: npt.ArrayLike,
    weight: npt.ArrayLike | None,
    bias: npt.ArrayLike | None,
    eps: float,
    residual: npt.ArrayLike | None,
    activation: Activation,
    mask: npt.ArrayLike | None,
) -> tuple[Array, Array]:
    """Gradient at the activation's argument, and xhat; both 0 at positions not kept."""
    kept = keep_mask(mask, x)
    xhat = standardize(x, mean, var, eps)
    z = preactivation(xhat, weight, bias, residual)
    dz = like(dy, x, "dy") * activation_gradient(z, activation)
    return keep(dz, kept), keep(xhat, kept)


@quiet
def backward_reduce(
    dy: npt.ArrayLike,
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
) -> Sums:
    """The two sums over dz = dy activation'(z), eq. (9).

    Args:
        dy: gradient of the loss with respect to y, (N, C, S).
        x: the input of the forward pass, (N, C, S).
        mean: (C,), as in the forward pass.
        var: (C,), as in the forward pass.
        weight: gamma, (C,), or None for 1.
        bias: beta, (C,), or None for 0.
        eps: added to the variance, under the root.
        residual: (N, C, S), as in the forward pass.
        activation: as in the forward pass.
        mask: bool (N, S), True = keep; other positions enter no sum, even when NaN.

    Returns:
        The sums, float64 or longdouble.

    Raises:
        ShapeError: a shape does not fit x.
        DTypeError: an array is not real, or the mask not bool.
        InputError: eps is negative or not finite.
    """
    x = canonical(x)
    dz, xhat = _dz_and_xhat(dy, x, mean, var, weight, bias, eps, residual, activation, mask)
    return Sums(by_channel(dz, None).sum(axis=1), by_channel(dz * xhat, None).sum(axis=1))


@quiet
def backward_input(
    dy: npt.ArrayLike,
    x: npt.ArrayLike,
    mean: npt.ArrayLike,
    var: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    bias: npt.ArrayLike | None = None,
    eps: float = 1e-5,
    sums: Sums | None = None,
    count: int = 0,
    *,
    residual: npt.ArrayLike | None = None,
    activation: Activation = IDENTITY,
    mask: npt.ArrayLike | None = None,
) -> tuple[Array, Array]:
    """Gradients of x, eq. (10) or (11), and of the residual.

    Arguments and errors are those of :func:`backward_reduce`, and two more. ``sums`` are both
    sums over all values that entered mean and variance (of all processes, if several share
    them), eq. (10), or None if mean and variance are constants, as in inference, eq. (11).
    ``count`` is the number of those values per channel; it has no meaning without ``sums``.

    Returns:
        dx and the gradient of the residual, both (N, C, S) and 0 at positions not kept.
    """
    x = canonical(x)
    dz, xhat = _dz_and_xhat(dy, x, mean, var, weight, bias, eps, residual, activation, mask)
    channels = x.shape[1]
    scale = per_channel(weight, channels, "weight", 1.0)
    scale = scale / np.sqrt(per_channel(var, channels, "var", 1.0) + eps)
    if sums is None:
        return scale * dz, dz
    n = max(count, 1)  # where nothing was kept, all terms are 0
    mean_dz = per_channel(sums.dz, channels, "sums.dz", 0.0) / n
    mean_dz_xhat = per_channel(sums.dz_xhat, channels, "sums.dz_xhat", 0.0) / n
    dx = scale * (dz - mean_dz - xhat * mean_dz_xhat)
    return keep(dx, keep_mask(mask, x)), dz


def backward(
    dy: npt.ArrayLike,
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
    training: bool = True,
) -> Gradients:
    """Gradients of all that went into the layer, eq. (9) and (10) or (11).

    Arguments and errors are those of :func:`backward_reduce`, and one more. ``training`` is
    True if mean and variance are the moments of ``x`` and depend on it, False if they are
    constants.

    Source:
        Ioffe, Szegedy: Batch normalization (2015), section 3.
    """
    x = canonical(x)
    sums = backward_reduce(
        dy,
        x,
        mean,
        var,
        weight,
        bias,
        eps,
        residual=residual,
        activation=activation,
        mask=mask,
    )
    dx, dresidual = backward_input(
        dy,
        x,
        mean,
        var,
        weight,
        bias,
        eps,
        sums if training else None,
        count_kept(x, keep_mask(mask, x)),
        residual=residual,
        activation=activation,
        mask=mask,
    )
    return Gradients(dx, sums.dz_xhat, sums.dz, dresidual)
