"""Losses and batches of a comparison; both sides get the very same ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from evenkeel.errors import InputError, explain

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from evenkeel.dialects._network import Loss

#: Loss and gradient from the output and the targets of the same samples.
LossWithTargets: TypeAlias = "Callable[[NDArray[Any], NDArray[Any]], tuple[float, NDArray[Any]]]"

_SEED: Final = 20150211
#: Attempts with fewer samples, which have fewer activations near their kinks.
_SMALL_DRAWS: Final = range(3, 8)


def squared_error(output: NDArray[Any], targets: NDArray[Any]) -> tuple[float, NDArray[Any]]:
    """Half the mean square of ``output - targets``, and its gradient."""
    difference = output.astype(np.float64) - targets
    gradient = difference / difference.size
    return 0.5 * float(np.mean(difference**2)), gradient.astype(output.dtype)


def cross_entropy(output: NDArray[Any], targets: NDArray[Any]) -> tuple[float, NDArray[Any]]:
    """Mean cross entropy of logits (last axis) with integer targets, and its gradient."""
    logits = output.astype(np.float64)
    logits = logits - logits.max(axis=-1, keepdims=True)
    total = np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    logs = logits - total
    index = targets.reshape(*logits.shape[:-1], 1)
    gradient = np.exp(logs)
    np.put_along_axis(gradient, index, np.take_along_axis(gradient, index, -1) - 1, -1)
    value = -float(np.mean(np.take_along_axis(logs, index, -1)))
    return value, (gradient / index.size).astype(output.dtype)


@dataclass(frozen=True, slots=True)
class BatchLoss:
    """A loss of an output and targets, for the targets of one batch."""

    loss: LossWithTargets
    targets: NDArray[Any]

    def __call__(self, output: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        """The loss, and its gradient in ``output``."""
        return self.loss(output, self.targets)


@dataclass(frozen=True, slots=True)
class Losses:
    """The loss of any batch.

    Args:
        loss: of an output; of an output and its targets where there are ``targets``.
        targets: of all samples; None where the loss knows them itself.
    """

    loss: Any
    targets: NDArray[Any] | None

    def of(self, samples: NDArray[np.intp]) -> Loss:
        """The loss of these samples; it can be pickled if the given one can."""
        return self.loss if self.targets is None else BatchLoss(self.loss, self.targets[samples])


def choose_loss(
    loss: Loss | LossWithTargets | None, targets: NDArray[Any] | None, output: NDArray[Any]
) -> Losses:
    """What ``loss`` and ``targets`` of ``compare`` mean for a network with this output.

    Raises:
        InputError: the targets do not fit the output.
    """
    if loss is not None:
        return Losses(loss, None if targets is None else np.asarray(targets))
    if targets is None:
        drawn = np.random.default_rng(_SEED).standard_normal(output.shape)
        return Losses(squared_error, drawn)
    targets = np.asarray(targets)
    classes = np.issubdtype(targets.dtype, np.integer) and targets.size * output.shape[-1] == (
        output.size
    )
    if not classes and targets.shape != output.shape:
        raise InputError(
            explain(
                asked="a loss for the comparison",
                got=f"targets of shape {targets.shape}, output of shape {output.shape}",
                why="cross entropy takes one integer for each row of logits, the squared error "
                "one number for each output, channels last",
                do="pass targets of such a shape, or loss=",
            )
        )
    return Losses(cross_entropy if classes else squared_error, targets)


def draw_batch(samples: int, step: int, attempt: int = 0) -> NDArray[np.intp]:
    """Which samples make the batch of a step.

    Half of them (all where there are fewer than 4), drawn without replacement by a generator
    that is seeded with the step and the attempt; a quarter from the fourth to the eighth attempt.
    """
    size = samples if samples < 4 else samples // 2
    if attempt in _SMALL_DRAWS:
        size = max(2, size // 2)
    order = np.random.default_rng((_SEED, step, attempt)).permutation(samples)
    return np.sort(order[:size])
