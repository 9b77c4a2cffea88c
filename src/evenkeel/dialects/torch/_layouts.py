"""How torch's tensors hold the canonical arrays of every kind of layer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from evenkeel.dialects._layers import Kind  # noqa: TC001 - a name that annotations of others show

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from numpy.typing import NDArray

    Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Role:
    """One canonical array and the tensors that hold it.

    Args:
        tensors: names inside the module.
        read: the tensors' values as the canonical array.
        write: the canonical array as the tensors' values; undoes ``read``.
        gradient: the tensors' gradients as the canonical array's.
    """

    tensors: tuple[str, ...]
    read: Callable[..., Array]
    write: Callable[[Array], tuple[Array, ...]]
    gradient: Callable[..., Array]

    def shape(self, *shapes: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the canonical array; no values are needed."""
        return self.read(*(np.broadcast_to(np.int8(0), shape) for shape in shapes)).shape


def as_it_is(tensor: str) -> Role:
    """A role with the same layout on both sides."""
    return Role((tensor,), _same, _one, _same)


def inputs_last(weight: Array) -> Array:
    """(out, in, *k) as (*k, in, out), and (in, out, *k) as (*k, out, in)."""
    return weight.transpose(*range(2, weight.ndim), 1, 0)


def inputs_first(kernel: Array) -> Array:
    """Undo :func:`inputs_last`."""
    last = kernel.ndim - 1
    return kernel.transpose(last, last - 1, *range(last - 1))


def swap_gates(array: Array, axis: int = -1) -> Array:
    """Exchange the first two of a GRU's three gates: torch's r, z, n and Keras's z, r, h."""
    first, second, third = np.split(array, 3, axis)
    return np.concatenate([second, first, third], axis)


def rows_of_flattened(kernel: Array, height_width_channels: tuple[int, ...]) -> Array:
    """Rows of a dense layer behind Flatten, from (H, W, C) order to torch's (C, H, W)."""
    rank = len(height_width_channels)
    parts = kernel.reshape(*height_width_channels, kernel.shape[-1])
    return parts.transpose(rank - 1, *range(rank - 1), rank).reshape(kernel.shape)


def roles_of(kind: Kind, names: Collection[str] | None = None, suffix: str = "") -> dict[str, Role]:
    """The roles of a layer of this kind that has these tensors.

    Args:
        kind: any but ``"other"``.
        names: of the module's tensors; all that a layer of this kind may have where None.
        suffix: of the tensors of one layer of a recurrent module, such as ``"_l0_reverse"``.
    """
    known = _recurrent(kind, suffix) if kind in RECURRENT else _ROLES[kind]
    if names is None:
        return dict(known)
    return {role: held for role, held in known.items() if {*held.tensors} <= {*names}}


def _same(array: Array) -> Array:
    return array


def _one(array: Array) -> tuple[Array, ...]:
    return (array,)


def _first(array: Array, _: Array) -> Array:
    """The gradient in a sum is the gradient in either summand."""
    return array


def _turned(tensor: str) -> Role:
    return Role((tensor,), inputs_last, lambda kernel: (inputs_first(kernel),), inputs_last)


_AFFINE: Final = {"scale": as_it_is("weight"), "offset": as_it_is("bias")}
_KERNEL: Final = {"kernel": _turned("weight"), "bias": as_it_is("bias")}
_BATCH_NORM: Final = {
    **{name: as_it_is(name) for name in ("weight", "bias", "running_mean", "running_var")},
    "batches": as_it_is("num_batches_tracked"),
}
_ROLES: Final[dict[str, dict[str, Role]]] = {
    "dense": _KERNEL,
    "conv": _KERNEL,
    "conv_transpose": _KERNEL,
    "embedding": {"embedding": as_it_is("weight")},
    "layer_norm": _AFFINE,
    "group_norm": _AFFINE,
    "batch_norm": _BATCH_NORM,
    "prelu": {"alpha": as_it_is("weight")},
}
#: Kinds whose torch module may hold several layers.
RECURRENT: Final = ("lstm", "gru", "simple_rnn")


def _recurrent(kind: Kind, suffix: str) -> dict[str, Role]:
    biases = (f"bias_ih{suffix}", f"bias_hh{suffix}")
    if kind == "gru":
        kernel, recurrent = (_turned_gates(f"weight_{part}{suffix}") for part in ("ih", "hh"))
        bias = Role(biases, _stacked_gates, _unstacked_gates, _stacked_gates)
    else:
        kernel, recurrent = (_turned(f"weight_{part}{suffix}") for part in ("ih", "hh"))
        bias = Role(biases, np.add, lambda both: (both, np.zeros_like(both)), _first)
    return {"kernel": kernel, "recurrent": recurrent, "bias": bias}


def _turned_gates(tensor: str) -> Role:
    def read(weight: Array) -> Array:
        return swap_gates(weight.T)

    return Role((tensor,), read, lambda kernel: (swap_gates(kernel).T,), read)


def _stacked_gates(of_input: Array, of_state: Array) -> Array:
    return swap_gates(np.stack([of_input, of_state]))


def _unstacked_gates(both: Array) -> tuple[Array, ...]:
    return tuple(map(partial(swap_gates), both))
