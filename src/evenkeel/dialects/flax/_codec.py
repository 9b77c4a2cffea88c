"""Flax's arrays of a layer in the canonical layout and back, the same for NNX, Linen and files.

A codec has one entry per canonical role: which of the layer's own arrays the role is made of,
by their paths below the layer joined by a slash, and how.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evenkeel.checkpoints import StoredArray
from evenkeel.errors import UnsayableError, explain

Array: TypeAlias = NDArray[Any]
Arrays: TypeAlias = Sequence[Array]


def _same(parts: Arrays) -> Array:
    return parts[0]


def _alone(role: Array) -> list[Array]:
    return [role]


@dataclass(frozen=True, slots=True)
class Entry:
    """How one role is made.

    Args:
        parts: names of the layer's own arrays; all of them are there, or the role is absent.
        read: the role from the parts.
        write: the parts from the role.
        pull: the gradient in the role from the gradients in the parts, that is the transpose
            of ``write``; None where it is ``read``, as it is for every reordering.
    """

    parts: tuple[str, ...]
    read: Callable[[Arrays], Array] = _same
    write: Callable[[Array], list[Array]] = _alone
    pull: Callable[[Arrays], Array] | None = None

    def gradient(self, parts: Arrays) -> Array:
        """The gradient in the role."""
        return (self.pull or self.read)(parts)


Codec: TypeAlias = Mapping[str, Entry]


def _flip(parts: Arrays) -> Array:
    """(*k, in, out) that is slid over the input as (*k, out, in) of a gradient, and back."""
    kernel = parts[0]
    spatial = tuple(range(kernel.ndim - 2))
    return np.flip(kernel, spatial).swapaxes(-1, -2)


def _side_by_side(parts: Arrays) -> Array:
    return np.concatenate(parts, axis=-1)


def _cut(pieces: int) -> Callable[[Array], list[Array]]:
    return lambda role: np.split(role, pieces, axis=-1)


def _reorder(order: tuple[int, ...]) -> Callable[[Arrays], Array]:
    """One array of gates side by side, with the gates in another order."""

    def change(parts: Arrays) -> Array:
        pieces = np.split(parts[0], len(order), axis=-1)
        return np.concatenate([pieces[place] for place in order], axis=-1)

    return change


#: Gates r, z, n of Flax and z, r, h of Keras: the same exchange in both directions.
_EXCHANGE: Final = _reorder((1, 0, 2))


def _gru_bias(parts: Arrays) -> Array:
    """Rows: of the input z, r, h; of the recurrence, which has only h."""
    z, r, n, hidden = parts
    nothing = np.zeros_like(z)
    return np.stack([np.concatenate([z, r, n]), np.concatenate([nothing, nothing, hidden])])


def _gru_bias_parts(role: Array) -> list[Array]:
    (z, r, n), (hidden_z, hidden_r, hidden) = (np.split(row, 3) for row in role)
    return [z + hidden_z, r + hidden_r, n, hidden]


def _gru_bias_gradient(parts: Arrays) -> Array:
    z, r, n, hidden = parts
    return np.stack([np.concatenate([z, r, n]), np.concatenate([z, r, hidden])])


def _nnx_gru_bias(parts: Arrays) -> Array:
    row = _EXCHANGE(parts)
    return np.stack([row, np.zeros_like(row)])


def _nnx_gru_bias_parts(role: Array) -> list[Array]:
    (z, r, n), (hidden_z, hidden_r, hidden) = (np.split(row, 3) for row in role)
    if hidden.any():
        raise UnsayableError(
            explain(
                asked="write the bias of a GRU cell for flax.nnx.GRUCell",
                got=f"a recurrent bias of the candidate up to {np.abs(hidden).max():.3g}",
                why="the cell has no such bias, and no other parameter takes its place",
                do="use flax.linen.GRUCell, or a cell of your own with that bias",
            )
        )
    return [np.concatenate([r + hidden_r, z + hidden_z, n])]


def _nnx_gru_bias_gradient(parts: Arrays) -> Array:
    row = _EXCHANGE(parts)
    z, r, n = np.split(row, 3)
    return np.stack([row, np.concatenate([z, r, np.zeros_like(n)])])


def _renamed(**roles: str) -> Codec:
    return {role: Entry((part,)) for role, part in roles.items()}


def _gates(side: str, gates: str, array: str, names: Mapping[str, str]) -> Entry:
    parts = tuple(f"{names.get(side + gate, side + gate)}/{array}" for gate in gates)
    return Entry(parts, _side_by_side, _cut(len(gates)))


def _lstm(names: Mapping[str, str]) -> Codec:
    return {
        "kernel": _gates("i", "ifgo", "kernel", names),
        "recurrent": _gates("h", "ifgo", "kernel", names),
        "bias": _gates("h", "ifgo", "bias", names),
    }


DENSE: Final = _renamed(kernel="kernel", bias="bias")
NORM: Final = _renamed(scale="scale", offset="bias")
BATCH_NORM: Final = _renamed(
    weight="scale", bias="bias", running_mean="mean", running_var="var", batches="batches"
)
EMBEDDING: Final = _renamed(embedding="embedding")
PRELU: Final[Codec] = {
    "alpha": Entry(
        ("negative_slope",), lambda parts: parts[0].reshape(1), lambda role: [role.reshape(())]
    )
}
TRANSPOSED: Final[Codec] = {
    "kernel": Entry(("kernel",), _flip, lambda role: [_flip([role])]),
    "bias": Entry(("bias",)),
}
LSTM: Final = _lstm({})
#: NNX cannot name an attribute with the keyword.
LSTM_NNX: Final = _lstm({"if": "if_"})
LSTM_JOINED: Final = _renamed(
    kernel="dense_i/kernel", recurrent="dense_h/kernel", bias="dense_h/bias"
)
GRU: Final[Codec] = {
    "kernel": _gates("i", "zrn", "kernel", {}),
    "recurrent": _gates("h", "zrn", "kernel", {}),
    "bias": Entry(
        ("iz/bias", "ir/bias", "in/bias", "hn/bias"),
        _gru_bias,
        _gru_bias_parts,
        _gru_bias_gradient,
    ),
}
GRU_JOINED: Final[Codec] = {
    "kernel": Entry(("dense_i/kernel",), _EXCHANGE, lambda role: [_EXCHANGE([role])]),
    "recurrent": Entry(("dense_h/kernel",), _EXCHANGE, lambda role: [_EXCHANGE([role])]),
    "bias": Entry(("dense_i/bias",), _nnx_gru_bias, _nnx_gru_bias_parts, _nnx_gru_bias_gradient),
}
SIMPLE: Final = _renamed(kernel="i/kernel", recurrent="h/kernel", bias="i/bias")
SIMPLE_JOINED: Final = _renamed(
    kernel="dense_i/kernel", recurrent="dense_h/kernel", bias="dense_i/bias"
)


def plain(names: Sequence[str]) -> Codec:
    """The codec of a layer of unknown kind: its arrays by their own names."""
    return {name: Entry((name,)) for name in names}


def covers(codec: Codec, names: Sequence[str]) -> bool:
    """Whether every one of the names is part of a role whose parts are all there."""
    present = set(names)
    return present == {
        part for entry in codec.values() if present >= {*entry.parts} for part in entry.parts
    }


def roles(codec: Codec, own: Mapping[str, StoredArray]) -> dict[str, StoredArray]:
    """The canonical arrays of a layer, made from its own when they are read."""
    return {
        role: _role(entry, [own[part] for part in entry.parts])
        for role, entry in codec.items()
        if own.keys() >= {*entry.parts}
    }


def _role(entry: Entry, parts: Sequence[StoredArray]) -> StoredArray:
    # One byte per element at most: the shape follows without reading a value.
    blank = [np.broadcast_to(np.zeros((), np.int8), part.shape) for part in parts]
    shape = entry.read(blank).shape
    return StoredArray(shape, parts[0].dtype, lambda: entry.read([part.read() for part in parts]))


def parts(codec: Codec, values: Mapping[str, Array]) -> dict[str, Array]:
    """A layer's own arrays from canonical ones."""
    return {
        name: array
        for role, value in values.items()
        for name, array in zip(codec[role].parts, codec[role].write(value), strict=True)
    }


def gradients(codec: Codec, own: Mapping[str, Array]) -> dict[str, Array]:
    """Gradients in the roles from gradients in a layer's own arrays."""
    return {
        role: entry.gradient([own[part] for part in entry.parts])
        for role, entry in codec.items()
        if own.keys() >= {*entry.parts}
    }
