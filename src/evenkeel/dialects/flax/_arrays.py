"""JAX arrays as NumPy arrays, and the names of their element types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from evenkeel.dialects._layers import stored
from evenkeel.errors import InputError, ShapeError, explain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from evenkeel.checkpoints import StoredArray


def dtype_name(dtype: Any) -> str:
    """Name of an element type, such as ``"bfloat16"``."""
    import jax.numpy as jnp

    return jnp.dtype(dtype).name


def to_numpy(array: Any, name: str) -> NDArray[Any]:
    """The values, copied to the host; bfloat16 widened to float32, which is exact.

    Raises:
        InputError: it is no array, or one without values here (abstract, or of other processes).
    """
    try:
        values = np.array(array)
    except Exception as error:
        raise _no_values(array, name, str(error)) from error
    if values.dtype.name == "bfloat16":
        return values.astype(np.float32)
    if values.dtype.kind not in "fiub":
        raise _no_values(array, name, f"its element type is {values.dtype.name}")
    return values


def stored_array(array: Any, name: str) -> StoredArray:
    """A live array as one with its own element type."""
    values = to_numpy(array, name)
    return stored(values, np.dtype(array.dtype).name)


def only_array(output: Any) -> Any:
    """A network's output, which has to be one array.

    Raises:
        InputError: it is a tuple, a dict, or something else.
    """
    if hasattr(output, "shape") and hasattr(output, "dtype"):
        return output
    raise InputError(
        explain(
            asked="the output of a Flax network",
            got=f"a {type(output).__name__}",
            why="a comparison needs one array",
            do="wrap the model in one whose __call__ returns the array to compare",
        )
    )


def check_roles(
    layer: str, given: Mapping[str, NDArray[Any]], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse roles that a layer lacks, and other shapes.

    Raises:
        InputError: an unknown role.
        ShapeError: another shape.
    """
    for role, array in given.items():
        if role not in shapes:
            raise InputError(
                explain(
                    asked=f"write {role!r} of the layer {layer!r}",
                    got=f"a layer with {sorted(shapes)}",
                    why="it has no such array",
                    do="write only the arrays that layers() lists",
                )
            )
        if tuple(array.shape) != tuple(shapes[role]):
            raise ShapeError(
                explain(
                    asked=f"write {role!r} of the layer {layer!r}",
                    got=f"shape {tuple(array.shape)}",
                    why=f"the layer's is {tuple(shapes[role])} in the canonical layout",
                    do="pass an array of that shape",
                )
            )


def unknown_layer(name: str, known: Iterable[str]) -> InputError:
    """The error for a layer name that is not in the network."""
    return InputError(
        explain(
            asked=f"the layer {name!r}",
            got=f"a network with {', '.join(map(repr, known)) or 'no layers'}",
            why="no layer has that name",
            do="use a name that layers() lists",
        )
    )


def _no_values(array: Any, name: str, why: str) -> InputError:
    return InputError(
        explain(
            asked=f"read the values of {name or 'an array'}",
            got=f"a {type(array).__module__}.{type(array).__qualname__}",
            why=why.splitlines()[0] if why else "it has no values to copy",
            do="initialize the model first, and gather arrays that are spread over processes",
        )
    )
