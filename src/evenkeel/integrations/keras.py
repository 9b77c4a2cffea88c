"""A Keras batch-norm layer with torch's training semantics; importing it imports Keras.

It runs on every backend of Keras 3, eagerly and compiled, and is registered, so that
``keras.models.load_model`` finds it once this module was imported.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, NamedTuple

import keras

from evenkeel.errors import InputError, NonFiniteError, NonFiniteWarning, ShapeError, explain

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BatchNormalization"]

#: Any, because Keras's annotations know no tensors of a backend.
ops: Any = keras.ops
_CHOICES: Final = {
    "variance": ("biased", "unbiased"),
    "nonfinite": ("skip", "propagate", "raise"),
}


class _Moments(NamedTuple):
    """Of one batch: (C,) and the number of values per channel, and the centred inputs."""

    centred: Any
    mean: Any
    var: Any
    count: Any


@keras.saving.register_keras_serializable(package="evenkeel")
class BatchNormalization(keras.layers.BatchNormalization):
    """``keras.layers.BatchNormalization`` that can train exactly as torch's layers do.

    Further differences: moments are taken in two passes on every backend (Keras on torch takes
    E[x^2] - E[x]^2), and a batch with NaN or Inf, or without any value, does not enter the
    running statistics; eq. (3), (6), (8) and (16).

    Args:
        axis: of the channels.
        momentum: weight of the OLD running statistics, as in Keras; None for the average in
            which all batches count alike (torch's ``momentum=None``).
        epsilon: added to the variance under the root.
        variance: what is stored: ``"biased"`` (Keras), or ``"unbiased"``, times n / (n - 1)
            with n values (kept by the mask) per channel (torch). One value per channel gives 0.
        nonfinite: what a batch with NaN or Inf does to the running statistics. ``"skip"``:
            nothing, with a warning when run eagerly; ``"propagate"``: it enters, as in Keras;
            ``"raise"``: :class:`~evenkeel.errors.NonFiniteError`, in eager mode only.
        **kwargs: all other arguments of Keras's layer, except ``renorm`` and ``synchronized``.

    Raises:
        InputError: an unknown choice, or ``renorm`` or ``synchronized``.

    Example:
        >>> layer = BatchNormalization(momentum=0.9, epsilon=1e-5, variance="unbiased")
        >>> BatchNormalization.from_config(layer.get_config()).variance
        'unbiased'
    """

    #: What this class can say beyond Keras's own, and what it cannot, for the dialect.
    evenkeel_says: ClassVar = frozenset({"variance", "cumulative", "nonfinite"})
    evenkeel_refuses: ClassVar = frozenset({"renorm", "synchronized"})

    # Keras's annotations say None, which these are before the layer is built.
    gamma: Any
    beta: Any
    moving_mean: Any
    moving_variance: Any
    _reduction_axes: Any

    def __init__(
        self,
        axis: int = -1,
        momentum: float | None = 0.99,
        epsilon: float = 1e-3,
        *,
        variance: Literal["biased", "unbiased"] = "biased",
        nonfinite: Literal["skip", "propagate", "raise"] = "skip",
        **kwargs: Any,
    ) -> None:
        for name, value in (("variance", variance), ("nonfinite", nonfinite)):
            if value not in _CHOICES[name]:
                raise _refusal(f"{name}={value!r}", f"known are {', '.join(_CHOICES[name])}")
        for name in ("renorm", "synchronized"):
            if kwargs.get(name):
                raise _refusal(f"{name}=True", "only keras.layers.BatchNormalization has it")
        # Keras demands a number; None follows below.
        super().__init__(axis, 0.99 if momentum is None else momentum, epsilon, **kwargs)
        self.momentum: float | None = None if momentum is None else float(momentum)
        self.variance, self.nonfinite = variance, nonfinite
        self.batches: Any = None

    @classmethod
    def evenkeel_take_over(cls, layer: keras.layers.BatchNormalization) -> None:
        """Turn a built layer of Keras into one of this class, which computes the same at first."""
        layer.__class__ = cls
        layer.variance, layer.nonfinite, layer.batches = "biased", "propagate", None

    def configure(self, *, momentum: float | None, variance: Literal["biased", "unbiased"]) -> None:
        """Change momentum and variance convention of a built layer; its arrays stay."""
        self.momentum, self.variance = momentum, variance
        if momentum is None and self.batches is None:
            # A built layer takes no further variables; this one does not change what it has.
            self._tracker.unlock()
            self._add_counter()
            self._tracker.lock()

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Create the variables; the counter of batches last, and only where it is needed."""
        super().build(input_shape)
        if self.momentum is None:
            self._add_counter()

    def call(
        self,
        inputs: Any,
        training: bool | None = None,  # noqa: FBT001 - Keras's own signature
        mask: Any = None,
    ) -> Any:
        """Normalize, and let the batch enter the running statistics in training."""
        if not (training and self.trainable):
            return super().call(inputs, training=False, mask=mask)
        x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        batch = self._batch_moments(x, mask)
        self._update(batch)
        factor = ops.rsqrt(batch.var + ops.cast(self.epsilon, x.dtype))
        if self.scale:
            factor = factor * ops.cast(self.gamma, x.dtype)
        y = batch.centred * self._along_axis(factor, x)
        if self.center:
            y = y + self._along_axis(ops.cast(self.beta, x.dtype), x)
        return ops.cast(y, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Keras's configuration, with ``variance`` and ``nonfinite``."""
        return super().get_config() | {"variance": self.variance, "nonfinite": self.nonfinite}

    def _add_counter(self) -> None:
        self.batches = self.add_weight(
            shape=(), name="batches", initializer="zeros", dtype="int32", trainable=False
        )

    def _batch_moments(self, x: Any, mask: Any) -> _Moments:
        """In two passes; the mean of what is left after centring corrects its rounding."""
        axes = self._reduction_axes
        kept = None if mask is None else _as_kept(mask, x)
        if kept is None:
            sizes = ops.shape(x)
            count = ops.cast(math.prod(sizes[axis] for axis in axes), x.dtype)
            count = self._along_axis(ops.broadcast_to(count, (sizes[self.axis],)), x)
        else:
            count = ops.sum(ops.cast(kept, x.dtype), axes, keepdims=True)
        divisor = ops.maximum(count, 1)

        def mean(values: Any) -> Any:
            values = values if kept is None else ops.where(kept, values, ops.zeros_like(values))
            return ops.sum(values / divisor, axes, keepdims=True)

        first = ops.stop_gradient(mean(x))
        rest = mean(x - first)
        centred = (x - first) - rest
        channels = (-1,)
        return _Moments(
            centred,
            ops.reshape(first + rest, channels),
            ops.reshape(mean(ops.square(centred)), channels),
            ops.reshape(count, channels),
        )

    def _update(self, batch: _Moments) -> None:
        mean, var = ops.stop_gradient(batch.mean), ops.stop_gradient(batch.var)
        if self.variance == "unbiased":
            var = ops.where(batch.count > 1, var * batch.count, var)
            var = var / ops.maximum(batch.count - 1, 1)
        enters = self._enters(batch.count, mean, var)
        new = 1.0 - self.momentum if self.momentum is not None else None
        if new is None:
            new = 1.0 / ops.cast(self.batches + 1, mean.dtype)
            self.batches.assign(self.batches + ops.cast(enters, "int32"))
        for held, value in ((self.moving_mean, mean), (self.moving_variance, var)):
            before = ops.cast(held, value.dtype)
            old = self.momentum if self.momentum is not None else 1.0 - new
            after = before * old + value * new
            held.assign(ops.cast(ops.where(enters, after, before), held.dtype))

    def _enters(self, count: Any, mean: Any, var: Any) -> Any:
        """Whether the batch enters the running statistics: a bool of shape ()."""
        some = ops.all(count > 0)
        if self.nonfinite == "propagate":
            return some
        finite = ops.logical_and(ops.all(ops.isfinite(mean)), ops.all(ops.isfinite(var)))
        known = _value_of(finite)
        if known is None and self.nonfinite == "raise":
            raise _refusal(
                'nonfinite="raise" in a compiled pass',
                "an error cannot leave a compiled function",
                'compile the model with run_eagerly=True, or choose nonfinite="skip"',
            )
        if known is False:
            self._report_nonfinite()
        return ops.logical_and(some, finite)

    def _report_nonfinite(self) -> None:
        message = explain(
            asked=f"one batch to enter the running statistics of {self.name!r}",
            got="moments with NaN or Inf",
            why="they would stay in the running statistics for ever",
            do="look for the cause in the data, the loss scale or the learning rate",
        )
        if self.nonfinite == "raise":
            raise NonFiniteError(message)
        warnings.warn(message, NonFiniteWarning, stacklevel=2)

    def _along_axis(self, vector: Any, x: Any) -> Any:
        """(C,) so that it broadcasts with ``x``."""
        shape = [1] * len(x.shape)
        shape[self.axis] = -1
        return ops.reshape(vector, shape)


def _as_kept(mask: Any, x: Any) -> Any:
    """The mask as bool in the shape of ``x``; as in Keras, it lacks the last axis."""
    if len(mask.shape) != len(x.shape) - 1:
        raise ShapeError(
            explain(
                asked="a masked batch normalization",
                got=f"a mask of shape {tuple(mask.shape)} for inputs of shape {tuple(x.shape)}",
                why="the mask has one dimension less than the inputs",
                do="pass a bool for every position, without the last axis of the inputs",
            )
        )
    return ops.broadcast_to(ops.expand_dims(ops.cast(mask, "bool"), -1), ops.shape(x))


def _value_of(flag: Any) -> bool | None:
    """The value, or None while a graph is being built or a function traced."""
    if getattr(getattr(flag, "device", None), "type", None) == "meta":
        return None
    try:
        return bool(flag)
    except TypeError:  # TensorFlow's and JAX's errors for a value that is not there yet
        return None


def _refusal(got: str, why: str, do: str = "see the arguments of the layer") -> InputError:
    return InputError(
        explain(asked="evenkeel.integrations.keras.BatchNormalization", got=got, why=why, do=do)
    )
