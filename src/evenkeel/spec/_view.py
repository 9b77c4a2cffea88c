"""The canonical view (N, C, S): samples, channels, and all other positions in one axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from evenkeel.errors import ShapeError, explain

if TYPE_CHECKING:
    import numpy.typing as npt

T = TypeVar("T", bound=np.generic)


def canonical_view(array: npt.NDArray[T], axis: int) -> npt.NDArray[T]:
    """See an array of any axis order as (N, C, S).

    ``axis`` becomes C, the first of the other axes N, all further ones, in their order, S.
    No element is copied where the strides allow it, as they do for every contiguous array
    with the channels first, second or last.

    Args:
        array: of rank 1 or more, any dtype. Rank 1 has one sample: (1, C, 1).
        axis: of the channels; may be negative.

    Returns:
        The array as (N, C, S), with S = 1 for rank 2.

    Raises:
        ShapeError: the array has no such axis.

    Example:
        >>> canonical_view(np.zeros((8, 32, 16, 3)), axis=-1).shape
        (8, 3, 512)
    """
    _check_axis(array.shape, axis)
    if array.ndim == 1:
        return array.reshape(1, -1, 1)
    moved = np.moveaxis(array, axis, 1)
    # The product is spelled out because -1 is ambiguous for an array of size 0.
    return moved.reshape(*moved.shape[:2], _product(moved.shape[2:]))


def from_canonical(view: npt.NDArray[T], shape: tuple[int, ...], axis: int) -> npt.NDArray[T]:
    """Undo :func:`canonical_view`: bring (N, C, S) back to ``shape`` with its axis order.

    Args:
        view: (N, C, S).
        shape: of the array that :func:`canonical_view` was given.
        axis: of the channels in ``shape``; may be negative.

    Returns:
        The array of that shape; a view where the strides allow it.

    Raises:
        ShapeError: the shape has no such axis, or is not that of a (N, C, S) like ``view``.
    """
    _check_axis(shape, axis)
    moved = _channels_second(shape, axis)
    expected = (*moved[:2], _product(moved[2:]))
    if view.shape != expected:
        raise ShapeError(
            explain(
                asked=f"to bring a canonical view back to {shape} with channels on axis {axis}",
                got=f"shape {view.shape}",
                why=f"the canonical view of such an array is {expected}",
                do="pass shape and axis of the array that was viewed",
            )
        )
    if len(shape) == 1:
        return view.reshape(shape)
    return np.moveaxis(view.reshape(moved), 1, axis)


def _channels_second(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    if len(shape) == 1:
        return (1, *shape, 1)
    axis %= len(shape)
    first, *others = shape[:axis] + shape[axis + 1 :]
    return (first, shape[axis], *others)


def _product(sizes: tuple[int, ...]) -> int:
    return int(np.prod(sizes, dtype=np.int64))


def _check_axis(shape: tuple[Any, ...], axis: int) -> None:
    if not -len(shape) <= axis < len(shape):
        raise ShapeError(
            explain(
                asked=f"a view (N, C, S) with the channels on axis {axis}",
                got=f"shape {shape}",
                why="there is no such axis",
                do="pass the channel axis: 1 in torch and ONNX, -1 as a rule in Keras and Flax",
            )
        )
