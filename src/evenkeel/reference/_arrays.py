"""What the reference accepts, and in which precision it works."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from evenkeel.errors import ChannelError, DTypeError, InputError, ShapeError, explain

if TYPE_CHECKING:
    from collections.abc import Callable

Array: TypeAlias = npt.NDArray[np.floating[Any]]
Mask: TypeAlias = npt.NDArray[np.bool_]
P = ParamSpec("P")
R = TypeVar("R")

#: Complex, object, bytes, text, dates and raw bytes; batch normalization orders none of them.
_REFUSED_KINDS: Final = frozenset("cOSUmM")


def quiet(function: Callable[P, R]) -> Callable[P, R]:
    """Let NaN and Inf pass through ``function`` as IEEE 754 has it, without a warning."""

    @wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        # errstate is a decorator, too, but before NumPy 2 not one that threads can share.
        with np.errstate(all="ignore"):
            return function(*args, **kwargs)

    return inner


def as_float(value: npt.ArrayLike, name: str) -> Array:
    """``value`` as float64, or as longdouble if it is longdouble.

    Raises:
        DTypeError: the elements are no real numbers.
    """
    array = np.asarray(value)
    dtype = array.dtype
    if dtype.kind in _REFUSED_KINDS or dtype.type is np.void:
        raise DTypeError(
            explain(
                asked=f"batch normalization with {name}",
                got=f"dtype {dtype}",
                why="mean and variance are defined here for real numbers only",
                do="pass real numbers (real and imaginary part as separate channels)",
            )
        )
    return array.astype(np.longdouble if dtype == np.longdouble else np.float64, copy=False)


def canonical(value: npt.ArrayLike, name: str = "x") -> Array:
    """A float array on the canonical view (N, C, S).

    Raises:
        ShapeError: the rank is not 3.
    """
    array = as_float(value, name)
    if array.ndim != 3:
        raise ShapeError(
            explain(
                asked=f"{name} on the canonical view (N, C, S)",
                got=f"shape {array.shape}",
                why="the reference has one axis for samples, one for channels, one for the rest",
                do="use evenkeel.spec.canonical_view(x, axis) first",
            )
        )
    return array


def like(value: npt.ArrayLike, x: Array, name: str) -> Array:
    """A float array of exactly ``x``'s shape; nothing is broadcast.

    Raises:
        ShapeError: the shape differs.
    """
    array = as_float(value, name)
    if array.shape != x.shape:
        raise ShapeError(
            explain(
                asked=f"{name} for every element of x",
                got=f"shape {array.shape} beside x of shape {x.shape}",
                why="each element of x has one of its own",
                do=f"pass {name} with the shape of x",
            )
        )
    return array


def per_channel(value: npt.ArrayLike | None, channels: int, name: str, default: float) -> Array:
    """A float array (C, 1) that broadcasts over the canonical view; None gives ``default``.

    Raises:
        ChannelError: the shape is not (C,).
    """
    if value is None:
        return np.full((channels, 1), default)
    array = as_float(value, name)
    if array.shape != (channels,):
        raise ChannelError(
            explain(
                asked=f"{name} for {channels} channels",
                got=f"shape {array.shape}",
                why="there is one number per channel",
                do=f"pass {name} of shape ({channels},)",
            )
        )
    return array[:, np.newaxis]


def keep_mask(value: npt.ArrayLike | None, x: Array) -> Mask | None:
    """The mask as bool (N, S), or None.

    Raises:
        DTypeError: the mask is not bool (numbers could mean weights, or the opposite).
        ShapeError: the shape is not (N, S).
    """
    if value is None:
        return None
    mask = np.asarray(value)
    shape = (x.shape[0], x.shape[2])
    if mask.dtype != np.bool_ or mask.shape != shape:
        error = DTypeError if mask.dtype != np.bool_ else ShapeError
        raise error(
            explain(
                asked="a mask of the positions to keep",
                got=f"dtype {mask.dtype}, shape {mask.shape}",
                why="a position is kept for all channels together, or for none",
                do=f"pass bool of shape (N, S) = {shape}, True = keep",
            )
        )
    return mask


def keep(values: Array, mask: Mask | None) -> Array:
    """``values`` (N, C, S) with 0 at every position that is not kept, even where it was NaN."""
    return values if mask is None else np.where(mask[:, np.newaxis, :], values, 0.0)


def by_channel(values: Array, mask: Mask | None) -> Array:
    """The kept values of each channel in one row, (C, count).

    The rows are contiguous because NumPy sums pairwise, with an error that grows like the
    logarithm of the count, only along contiguous memory.
    """
    rows = values.transpose(1, 0, 2).reshape(values.shape[1], values.shape[0] * values.shape[2])
    return np.ascontiguousarray(rows if mask is None else rows[:, mask.reshape(-1)])


def count_kept(x: Array, mask: Mask | None) -> int:
    """Number of kept values per channel."""
    return x.shape[0] * x.shape[2] if mask is None else int(np.count_nonzero(mask))


def checked_eps(eps: float) -> float:
    """``eps``, which is added to the variance under the root.

    Raises:
        InputError: it is negative or not finite.
    """
    if not (np.isfinite(eps) and eps >= 0):
        raise InputError(
            explain(
                asked="eps to be added to the variance",
                got=repr(eps),
                why="variance + eps must not be negative",
                do="pass a number >= 0, e.g. 1e-5 (torch, Flax) or 1e-3 (Keras)",
            )
        )
    return eps
