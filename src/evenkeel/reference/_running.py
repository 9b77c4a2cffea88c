"""The running statistics, under the conventions of all frameworks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from evenkeel.errors import ChannelError, InputError, explain
from evenkeel.reference._arrays import Array, as_float, quiet

if TYPE_CHECKING:
    from evenkeel.reference._moments import Moments
    from evenkeel.spec import Momentum

Variance = Literal["biased", "unbiased"]


class Running(NamedTuple):
    """Running statistics and the number of batches that entered them.

    Args:
        mean: (C,).
        var: (C,), biased or unbiased as the layer's convention has it.
        batches: torch's ``num_batches_tracked``; it matters for a cumulative momentum only.
    """

    mean: Array
    var: Array
    batches: int


@quiet
def stored_variance(batch: Moments, variance: Variance) -> Array:
    """The variance of a batch as a layer stores it, eq. (16).

    Args:
        batch: moments of one batch; their variance is biased.
        variance: ``"unbiased"`` multiplies by n / (n - 1) (torch; Keras 2 and TensorFlow
            fused; MLX from 0.32.1; tinygrad), ``"biased"`` does not (Keras 3, Flax, ONNX,
            Haiku, Equinox).

    Returns:
        (C,). For one value per channel the biased variance is 0, and so is the result
        (TensorFlow's rule; torch's layers refuse that batch).

    Raises:
        InputError: the convention is unknown.
    """
    if variance not in {"biased", "unbiased"}:
        raise InputError(
            explain(
                asked="the running variance under a convention",
                got=repr(variance),
                why="a variance is stored divided by n or by n - 1",
                do='pass "biased" (Keras 3, Flax, ONNX) or "unbiased" (torch)',
            )
        )
    if variance == "biased" or batch.count <= 1:
        return batch.var
    return batch.m2 / (batch.count - 1)


@quiet
def update_running(
    running: Running, batch: Moments, momentum: Momentum, variance: Variance
) -> Running:
    """Let one batch enter the running statistics, eq. (6) to (8).

    Haiku and Equinox (``mode="batch"``) follow eq. (7) from 0 and divide by 1 - momentum^t
    whenever they read (zero-debiased averages); that division is not part of the update.

    Args:
        running: the statistics before; torch, Keras and Flax start with mean 0, variance 1.
        batch: moments of the batch. A count of 0 changes nothing, not the counter either.
        momentum: its value and which of old and new it weighs, or cumulative.
        variance: what is stored, ``"biased"`` or ``"unbiased"``, eq. (16).

    Returns:
        The statistics after. NaN or Inf in the batch enters here as it does in every
        framework; keeping such a batch out is decided before the update.

    Raises:
        ChannelError: the numbers of channels differ.
        InputError: the convention is unknown.

    Example:
        >>> from evenkeel.reference import moments
        >>> from evenkeel.spec import Momentum
        >>> batch = moments([[[1.0]], [[3.0]]])
        >>> start = Running([0.0], [1.0], 0)
        >>> after = update_running(start, batch, Momentum(0.5, "new"), "unbiased")
        >>> after.mean.tolist(), after.var.tolist(), after.batches
        ([1.0], [1.5], 1)
    """
    mean, var = as_float(running.mean, "running.mean"), as_float(running.var, "running.var")
    if not mean.shape == var.shape == batch.mean.shape:
        raise ChannelError(
            explain(
                asked="one batch to enter the running statistics",
                got=f"shapes {mean.shape}, {var.shape}, and {batch.mean.shape} of the batch",
                why="there is one number per channel",
                do="pass statistics and moments of the same layer",
            )
        )
    new_var = stored_variance(batch, variance)
    if batch.count == 0:
        return Running(mean, var, running.batches)
    t = running.batches + 1
    old, new = momentum.old_weight(t), momentum.new_weight(t)
    return Running(old * mean + new * batch.mean, old * var + new * new_var, t)
