"""A batch-norm layer for Flax NNX that keeps the training semantics of PyTorch.

Importing this module makes the layer known to :mod:`evenkeel.dialects.flax`, so that ports from
PyTorch can use it where ``flax.nnx.BatchNorm`` cannot say what the source says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from evenkeel.dialects.flax import register
from evenkeel.errors import InputError, explain

if TYPE_CHECKING:
    from jax import Array

__all__ = ["BatchNorm"]

_CHOICES: Final = {"variance": ("unbiased", "biased"), "nonfinite": ("skip", "propagate")}


class BatchNorm(nnx.BatchNorm):
    """``flax.nnx.BatchNorm`` with PyTorch's running statistics, guarded.

    In inference it computes what the base class computes. In training the moments are taken in
    two passes with a correction, in float32 or better whatever the input's type is, over all
    devices of ``axis_name`` if there is one. A batch enters the running statistics, eq. (6) to
    (8), only if every channel has a value (two values under ``variance="unbiased"``).

    Args:
        num_features: number of channels.
        momentum: weight of the stored value, as Flax has it (0.9 is torch's 0.1), or None for
            the cumulative average: the t-th batch has weight 1/t (torch's ``momentum=None``).
        variance: how the running variance is stored: ``"unbiased"`` (PyTorch) or ``"biased"``
            (Flax), eq. (16). The batch is normalized with the biased one in any case.
        nonfinite: ``"skip"`` keeps a batch with NaN or Inf out of the running statistics;
            ``"propagate"`` lets it in, as Flax does.
        frozen: the running statistics normalize in training, too, and stay; ``train()`` does
            not change that.
        use_fast_variance: E[x^2] - E[x]^2, which loses digits where the mean is large.
        **options: the further arguments of ``flax.nnx.BatchNorm``.

    Attributes:
        batches: number of batches that entered the running statistics, an ``nnx.BatchStat``
            of type int32 and shape ().

    Raises:
        InputError: ``variance`` or ``nonfinite`` is unknown.

    Example:
        >>> layer = BatchNorm(3, momentum=0.9, rngs=nnx.Rngs(0))
        >>> layer(jnp.arange(6.0).reshape(2, 3)).shape
        (2, 3)
        >>> layer.var[...].tolist()
        [1.350000023841858, 1.350000023841858, 1.350000023841858]
    """

    def __init__(
        self,
        num_features: int,
        *,
        momentum: float | None = 0.99,
        variance: Literal["unbiased", "biased"] = "unbiased",
        nonfinite: Literal["skip", "propagate"] = "skip",
        frozen: bool = False,
        use_fast_variance: bool = False,
        **options: Any,
    ) -> None:
        for name, value in (("variance", variance), ("nonfinite", nonfinite)):
            if value not in _CHOICES[name]:
                raise InputError(
                    explain(
                        asked=f"{name}={value!r} for a Flax BatchNorm",
                        got=repr(value),
                        why=f"known are {', '.join(_CHOICES[name])}",
                        do="pass one of these",
                    )
                )
        super().__init__(num_features, use_fast_variance=use_fast_variance, **options)
        self.momentum: float | None = momentum  # pyright: ignore[reportIncompatibleVariableOverride] - None is ours
        self._extend(variance, nonfinite, frozen=frozen)

    @classmethod
    def adopt(cls, layer: nnx.BatchNorm) -> None:
        """Turn a ``flax.nnx.BatchNorm`` into this class in place; what it computes stays."""
        layer.__class__ = cls
        cls._extend(layer, "biased", "propagate", frozen=False)  # pyright: ignore[reportArgumentType] - its class has just changed

    def __call__(
        self,
        x: Array,
        use_running_average: bool | None = None,  # noqa: FBT001 - as the base class has it
        *,
        mask: Array | None = None,
    ) -> Array:
        """Normalize ``x``; in training, let the batch enter the running statistics.

        Args:
            x: any rank, channels on ``axis``.
            use_running_average: True for inference, False for training; None leaves it to the
                layer, as ``train()`` and ``eval()`` set it.
            mask: bool, broadcastable to ``x`` with its rank, True = keep. Other positions do
                not enter the moments; they are normalized like all others.
        """
        told = self.use_running_average if use_running_average is None else use_running_average
        if self.frozen or told:
            return super().__call__(x, use_running_average=True)
        if told is None:
            return super().__call__(x)  # which says that the mode is missing
        wide = jnp.asarray(x, jnp.promote_types(jnp.result_type(x), jnp.float32))
        deviation, count, mean, var = self._moments(wide, mask)
        self._commit(count, mean, var)
        return self._scaled(x, deviation, var)

    def _extend(self, variance: str, nonfinite: str, *, frozen: bool) -> None:
        self.variance = variance
        self.nonfinite = nonfinite
        self.frozen = frozen
        self.batches = nnx.BatchStat(jnp.zeros((), jnp.int32))

    def _moments(self, x: Array, mask: Array | None) -> tuple[Array, Array, Array, Array]:
        """Deviations from the mean, and count, mean and biased variance of each channel."""
        axes = self._reduced(x)
        keep = None if mask is None else jnp.broadcast_to(mask, x.shape)
        ones = jnp.ones_like(x, jnp.int32) if keep is None else keep.astype(jnp.int32)
        count = self._total(ones, axes, None)
        n = jnp.maximum(count, 1).astype(x.dtype)
        origin = lax.stop_gradient(self._total(x, axes, keep) / n)
        if self.use_fast_variance:
            origin = jnp.zeros_like(origin)
        shifted = x - jnp.expand_dims(origin, axes)
        # What rounding left over in the mean; its gradient is that of the mean.
        rest = self._total(shifted, axes, keep) / n
        deviation = shifted - jnp.expand_dims(rest, axes)
        if self.use_fast_variance:
            squares = self._total(jnp.square(shifted), axes, keep) / n
            var = jnp.maximum(squares - jnp.square(rest), 0)
        else:
            var = self._total(jnp.square(deviation), axes, keep) / n
        return deviation, count, origin + rest, var

    def _total(self, x: Array, axes: tuple[int, ...], keep: Array | None) -> Array:
        """The sum over a batch, and over the devices that share it."""
        total = jnp.sum(x, axes, where=keep)
        if self.axis_name is None:
            return total
        return lax.psum(total, self.axis_name, axis_index_groups=self.axis_index_groups)

    def _commit(self, count: Array, mean: Array, var: Array) -> None:
        """Let the batch enter the running statistics, all channels or none."""
        unbiased = self.variance == "unbiased"
        enters = jnp.all(count >= (2 if unbiased else 1))
        if self.nonfinite == "skip":
            enters &= jnp.isfinite(mean).all() & jnp.isfinite(var).all()
        if unbiased:
            var = var * (count / jnp.maximum(count - 1, 1)).astype(var.dtype)
        batches = self.batches[...] + enters.astype(jnp.int32)
        old, new = self._weights(jnp.maximum(batches, 1), var.dtype)
        for variable, value in ((self.mean, mean), (self.var, var)):
            stored = variable[...]
            after = (old * stored + new * value).astype(stored.dtype)
            variable[...] = lax.stop_gradient(jnp.where(enters, after, stored))
        self.batches[...] = batches

    def _weights(self, batch: Array, dtype: Any) -> tuple[Any, Any]:
        """Weights of the stored value and of the batch's, eq. (6) and (8)."""
        if self.momentum is not None:
            return self.momentum, 1 - self.momentum
        new = 1 / batch.astype(dtype)
        return 1 - new, new

    def _scaled(self, x: Array, deviation: Array, var: Array) -> Array:
        """Scale and shift in the precision of the moments, then the type of the base class."""
        axes = self._reduced(x)
        factor = lax.rsqrt(var + self.epsilon)
        scale = None if self.scale is None else self.scale[...]
        bias = None if self.bias is None else self.bias[...]
        if scale is not None:
            factor = factor * scale
        y = deviation * jnp.expand_dims(factor, axes)
        if bias is not None:
            y = y + jnp.expand_dims(bias, axes)
        present = [array for array in (x, scale, bias) if array is not None]
        inferred = jnp.promote_types(jnp.result_type(*present), jnp.bfloat16)
        return y.astype(inferred if self.dtype is None else self.dtype)

    def _reduced(self, x: Array) -> tuple[int, ...]:
        features = {int(axis) % x.ndim for axis in np.atleast_1d(self.axis)}
        return tuple(axis for axis in range(x.ndim) if axis not in features)


register(BatchNorm)
