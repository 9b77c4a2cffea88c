"""What happens to weight and bias: learning them, and folding them away."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evenkeel.errors import ShapeError, explain
from evenkeel.reference._arrays import Array, as_float, checked_eps, per_channel, quiet

if TYPE_CHECKING:
    import numpy.typing as npt


@quiet
def gradient_descent_step(
    parameter: npt.ArrayLike, gradient: npt.ArrayLike, learning_rate: float
) -> Array:
    """The parameter after one step of plain gradient descent, eq. (14).

    Args:
        parameter: weight (gamma) or bias (beta), (C,).
        gradient: of the loss, same shape.
        learning_rate: step size.

    Returns:
        The new parameter; the old one is left as it was.

    Raises:
        ShapeError: the shapes differ.

    Example:
        One whole cycle: forward, loss, backward, and the update of all that is kept.

        >>> import numpy as np
        >>> from evenkeel import reference
        >>> from evenkeel.spec import Momentum
        >>> x = np.array([[[1.0, 2.0]], [[3.0, 6.0]]])
        >>> weight, bias = np.ones(1), np.zeros(1)
        >>> running = reference.Running(np.zeros(1), np.ones(1), 0)
        >>> target = np.array([[[0.0, 0.0]], [[0.0, 2.0]]])
        >>> for step in range(3):
        ...     y, batch = reference.forward(x, weight, bias)
        ...     loss = 0.5 * np.sum((y - target) ** 2)
        ...     g = reference.backward(y - target, x, batch.mean, batch.var, weight, bias)
        ...     weight = reference.gradient_descent_step(weight, g.weight, 0.1)
        ...     bias = reference.gradient_descent_step(bias, g.bias, 0.1)
        ...     running = reference.update_running(
        ...         running, batch, Momentum(0.1, "new"), "unbiased"
        ...     )
        ...     print(f"{step}: loss {loss:.4f}, running mean {running.mean[0]:.3f}")
        0: loss 0.7929, running mean 0.300
        1: loss 0.4226, running mean 0.570
        2: loss 0.2893, running mean 0.813
    """
    parameter, gradient = as_float(parameter, "parameter"), as_float(gradient, "gradient")
    if parameter.shape != gradient.shape:
        raise ShapeError(
            explain(
                asked="one step of gradient descent",
                got=f"parameter of shape {parameter.shape}, gradient of shape {gradient.shape}",
                why="every number of the parameter has one gradient",
                do="pass the gradient of this parameter",
            )
        )
    return parameter - learning_rate * gradient


@quiet
def fold(
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None,
    mean: npt.ArrayLike,
    var: npt.ArrayLike,
    gamma: npt.ArrayLike | None,
    beta: npt.ArrayLike | None,
    eps: float,
    axis: int = 0,
) -> tuple[Array, Array]:
    """Weight and bias of one linear layer that does what it and a batch norm behind it did.

    Eq. (15); for inference, where mean and variance are constants.

    Args:
        weight: of the preceding linear or convolution layer; C output channels on ``axis``.
        bias: of that layer, (C,), or None for 0.
        mean: running mean, (C,).
        var: running variance as stored, (C,).
        gamma: the batch norm's weight, (C,), or None for 1.
        beta: the batch norm's bias, (C,), or None for 0.
        eps: added to the variance, under the root.
        axis: of the output channels in ``weight``: 0 in torch's linear and convolution layers,
            1 in its transposed convolutions (one group), -1 in Keras and Flax.

    Returns:
        The new weight, with the shape of the old one, and the new bias, (C,).

    Raises:
        ShapeError: ``weight`` has no such axis, or the channels differ.
        InputError: eps is negative or not finite.
    """
    weight = as_float(weight, "weight")
    if not -weight.ndim <= axis < weight.ndim:
        raise ShapeError(
            explain(
                asked=f"to fold into a weight with its output channels on axis {axis}",
                got=f"shape {weight.shape}",
                why="there is no such axis",
                do="pass the axis of the output channels",
            )
        )
    channels = weight.shape[axis]
    std = np.sqrt(per_channel(var, channels, "var", 1.0)[:, 0] + checked_eps(eps))
    scale = per_channel(gamma, channels, "gamma", 1.0)[:, 0] / std
    centred = per_channel(bias, channels, "bias", 0.0) - per_channel(mean, channels, "mean", 0.0)
    shift = per_channel(beta, channels, "beta", 0.0)[:, 0]
    along_axis = [1] * weight.ndim
    along_axis[axis] = channels
    return weight * scale.reshape(along_axis), scale * centred[:, 0] + shift
