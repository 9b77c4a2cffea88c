"""Torch tensors as NumPy arrays, without touching the tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evenkeel.errors import InputError, explain

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


class UnsaidError(InputError):
    """The layer is sound, but does not hold (or not yet) what was asked for."""


def dtype_name(tensor: Tensor) -> str:
    """Name of the element type, such as ``"bfloat16"``."""
    return str(tensor.dtype).removeprefix("torch.")


def to_numpy(tensor: Tensor, name: str) -> NDArray[Any]:
    """The values, copied to the host; bfloat16 widened to float32, which is exact.

    Raises:
        UnsaidError: the tensor has no values here (meta device, or sharded over processes).
    """
    import torch

    try:
        plain = tensor.detach().cpu()
        if plain.dtype == torch.bfloat16:
            plain = plain.float()
        return plain.numpy().copy()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise UnsaidError(
            explain(
                asked=f"read the values of {name.lstrip('.')}",
                got=f"{dtype_name(tensor)} on {tensor.device}, {type(tensor).__name__}",
                why=f"this tensor has no values to copy ({str(error).splitlines()[0]})",
                do="give the model its values first (load its weights, gather its shards)",
            )
        ) from error
