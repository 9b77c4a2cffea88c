"""Keras variables as NumPy arrays, on every backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def weights_by_name(
    layer: Any,
    *,
    inner: bool = False,
) -> dict[str, Any]:
    """Variables of a layer by place; with ``inner`` also those of the layers in it."""
    own = {variable.name: variable for variable in own_weights(layer)}
    if inner:
        for attribute, child in children(layer):
            below = weights_by_name(child, inner=True)
            own |= {f"{attribute}/{name}": variable for name, variable in below.items()}
    return own


def own_weights(layer: Any) -> list[Any]:
    """Variables that the layer itself holds; the random states of its dropout are none."""
    held = {id(variable) for _, child in children(layer) for variable in child.weights}
    return [variable for variable in layer.weights if id(variable) not in held]


def children(layer: Any) -> list[tuple[str, Any]]:
    """Layers that the layer holds, each once, with the attribute or name that leads to it."""
    # Keras offers the layers of a model in public, but not those of a layer.
    found = {id(child): child for child in layer._layers}  # noqa: SLF001
    # On the torch backend a layer is a torch module, which keeps its children apart.
    held = vars(layer) | vars(layer).get("_modules", {})
    attributes = {id(value): key for key, value in held.items() if id(value) in found}
    return [(attributes.get(key, child.name), child) for key, child in found.items()]


def dtype_of(variable: Any) -> str:
    """Name of the element type."""
    import keras

    return keras.backend.standardize_dtype(variable.dtype)


def to_numpy(value: Any) -> NDArray[Any]:
    """The values, copied; bfloat16 widened to float32, which is exact."""
    import keras

    # Keras's own way calls NumPy as NumPy 2 deprecates.
    plain: Any = keras.ops.convert_to_tensor(value)
    if keras.backend.backend() == "torch":
        import torch

        plain = plain.detach().cpu()
        plain = plain.float() if plain.dtype == torch.bfloat16 else plain
    array = np.asarray(plain.numpy() if hasattr(plain, "numpy") else plain)
    return np.array(array, np.float32 if array.dtype.name == "bfloat16" else array.dtype)


def assign(variable: Any, value: ArrayLike) -> None:
    """Write into a variable; its dtype stays."""
    import keras

    array = np.asarray(value)
    dtype = dtype_of(variable)
    if dtype not in {"bfloat16", array.dtype.name}:
        array = array.astype(dtype)
    variable.assign(keras.ops.convert_to_tensor(array, dtype))
