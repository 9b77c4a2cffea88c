"""Mean and variance of each channel, and how they combine."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from evenkeel.errors import ChannelError, InputError, explain
from evenkeel.reference._arrays import Array, as_float, by_channel, canonical, keep_mask, quiet

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt


class Moments(NamedTuple):
    """Count, mean and biased variance of each channel, eq. (1) and (2).

    Args:
        count: number of values per channel.
        mean: (C,).
        var: (C,), the sum of squared deviations divided by ``count``.
    """

    # The field's name in every paper; the method of tuple that it hides has no use here.
    count: int  # pyright: ignore[reportIncompatibleMethodOverride]
    mean: Array
    var: Array

    @property
    def m2(self) -> Array:
        """Sum of the squared deviations from the mean, (C,)."""
        return self.var * self.count


@quiet
def moments(x: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> Moments:
    """Mean and biased variance of each channel over N and S in two passes, eq. (1) and (2).

    Each pass is corrected by what rounding left over: the mean of the deviations from the mean
    is 0 in exact arithmetic, so what it is here is added to the mean, and the square of what
    remains after that is taken off the variance. A constant channel has variance 0 exactly.

    Args:
        x: (N, C, S), any real dtype; longdouble is kept, all else becomes float64.
        mask: bool (N, S), True = keep. Other positions enter no sum, even when NaN.

    Returns:
        The moments; a count of 0 gives mean 0 and variance 0. NaN or Inf in a channel makes
        the moments of that channel NaN or Inf, and no other's.

    Raises:
        ShapeError: x is not of rank 3, or the mask not (N, S).
        DTypeError: x is not real, or the mask not bool.

    Source:
        Chan, Golub, LeVeque: Algorithms for computing the sample variance (1983).
    """
    x = canonical(x)
    rows = by_channel(x, keep_mask(mask, x))
    channels, count = rows.shape
    if count == 0:
        return Moments(0, np.zeros(channels, x.dtype), np.zeros(channels, x.dtype))
    mean = rows.sum(axis=1) / count
    left_over = (rows - mean[:, np.newaxis]).sum(axis=1) / count
    # An infinite mean leaves Inf - Inf, which would turn it into NaN.
    mean = np.where(np.isfinite(mean), mean + left_over, mean)
    deviation = rows - mean[:, np.newaxis]
    left_over = deviation.sum(axis=1) / count
    var = np.square(deviation).sum(axis=1) / count - np.square(left_over)
    return Moments(count, mean, np.maximum(var, 0.0))


@quiet
def merge(parts: Iterable[Moments]) -> Moments:
    """Moments of the union of disjoint parts, eq. (4).

    All parts are combined around their common mean at once, so the result depends on their
    order by rounding only.

    Args:
        parts: at least one; those of count 0 change nothing.

    Returns:
        The moments of all values together.

    Raises:
        InputError: there is no part.
        ChannelError: the parts differ in their number of channels.

    Source:
        Chan, Golub, LeVeque: Algorithms for computing the sample variance (1983).
    """
    parts = list(parts)
    _check_parts(parts)
    filled = [part for part in parts if part.count > 0]
    if not filled:
        return Moments(0, np.zeros_like(parts[0].mean), np.zeros_like(parts[0].var))
    total = sum(part.count for part in filled)
    means = np.stack([as_float(part.mean, "mean") for part in filled])
    variances = np.stack([as_float(part.var, "var") for part in filled])
    share = np.array([part.count for part in filled], means.dtype)[:, np.newaxis] / total
    # With the first mean as origin the weighted mean loses nothing where mean/std is large.
    shift = (share * (means - means[0])).sum(axis=0)
    mean = np.where(np.isfinite(shift), means[0] + shift, means.sum(axis=0))
    var = (share * (variances + np.square(means - means[0] - shift))).sum(axis=0)
    return Moments(total, mean, var)


def _check_parts(parts: list[Moments]) -> None:
    if not parts:
        raise InputError(
            explain(
                asked="the moments of several parts together",
                got="no part",
                why="without a part the number of channels is unknown",
                do="pass at least one Moments (its count may be 0)",
            )
        )
    shapes = {array.shape for part in parts for array in (part.mean, part.var)}
    if len(shapes) > 1:
        raise ChannelError(
            explain(
                asked="the moments of several parts together",
                got=f"means and variances of shapes {sorted(shapes)}",
                why="only parts of the same layer can be merged",
                do="pass parts with the same number of channels",
            )
        )
