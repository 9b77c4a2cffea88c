"""Finds and reads batch-norm layers among the names of a state dict.

A state dict holds the arrays and the counter. It says nothing of eps, of momentum, of the
convention of the running variance, or of the layer's class: an InstanceNorm with running
statistics has the same names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from evenkeel.checkpoints import StoredArray
from evenkeel.dialects.torch._tensors import to_numpy
from evenkeel.errors import FileError, InputError, explain
from evenkeel.spec import Spec, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    Stored: TypeAlias = StoredArray | NDArray[Any] | Tensor

#: Fields of Spec that no state dict stores; a description read from one has torch's defaults.
NOT_STORED: Final = ("eps", "momentum", "variance", "rank", "activation", "synchronized")
_MEAN, _VAR, _COUNTER = "running_mean", "running_var", "num_batches_tracked"
_NAMES: Final = ("weight", "bias", _MEAN, _VAR, _COUNTER)


@dataclass(frozen=True, slots=True)
class StoredLayer:
    """One layer of a state dict; ``assumed`` names the fields of ``spec`` that are not stored."""

    name: str
    spec: Spec
    state: State
    assumed: tuple[str, ...] = NOT_STORED


def find_layers(names: Iterable[str]) -> list[str]:
    """Names of the layers, with every prefix (``module.``, ``_orig_mod.``) as it stands.

    A layer is where ``running_mean`` and ``running_var`` share a prefix; the name of a layer
    at the top is empty.
    """
    known = list(names)
    means = [name for name in known if name == _MEAN or name.endswith(f".{_MEAN}")]
    prefixes = [name.removesuffix(_MEAN) for name in means]
    present = set(known)
    return [prefix.removesuffix(".") for prefix in prefixes if f"{prefix}{_VAR}" in present]


def read_layer(arrays: Mapping[str, Stored], name: str) -> StoredLayer:
    """Read the layer called ``name``.

    Args:
        arrays: name to torch tensor, NumPy array or
            :class:`~evenkeel.checkpoints.StoredArray`.
        name: as :func:`find_layers` gives it.

    Raises:
        InputError: the arrays of the layer do not fit together, or are no floating-point arrays
            of one number per channel.
    """
    prefix = f"{name}." if name else ""
    own = {key: arrays[prefix + key] for key in _NAMES if prefix + key in arrays}
    try:
        values = {key: _values(array, prefix + key) for key, array in own.items()}
        batches = _count(values[_COUNTER]) if _COUNTER in values else None
        state = State(*(values.get(key) for key in _NAMES[:-1]), batches=batches)
        settings: dict[str, Any] = {
            "channels": values[_MEAN].size,
            "scale": "weight" in own,
            "offset": "bias" in own,
            "statistics_dtype": _dtype(own[_MEAN]),
            "parameter_dtype": _dtype(own.get("weight", own.get("bias", own[_MEAN]))),
            "name": name,
        }
        spec = Spec(**settings)
        return StoredLayer(name, spec, state.check(spec))
    except FileError:
        raise
    except InputError as error:
        shapes = [f"{key} {_dtype(array)} {tuple(array.shape)}" for key, array in own.items()]
        raise InputError(
            explain(
                asked=f"read {name or 'the top'} of a state dict as a batch-norm layer",
                got=", ".join(shapes),
                why=str(error).partition("why: ")[2].partition("\n")[0],
                do="check that the file is whole, and that this is a batch-norm layer",
            )
        ) from error


def read_arrays(arrays: Mapping[str, Stored]) -> list[StoredLayer]:
    """All batch-norm layers of a state dict, in the order of its names.

    Raises:
        InputError: as :func:`read_layer`.

    Example:
        >>> from torch import nn
        >>> [layer.name for layer in read_arrays(nn.Sequential(nn.BatchNorm1d(2)).state_dict())]
        ['0']
    """
    return [read_layer(arrays, name) for name in find_layers(arrays)]


def _values(array: Stored, name: str) -> NDArray[Any]:
    if isinstance(array, StoredArray):
        return array.read()
    return array if isinstance(array, np.ndarray) else to_numpy(array, name)


def _count(counter: NDArray[Any]) -> int:
    """Torch loads shape (1,) and fractions, too (5.7 becomes 5)."""
    if counter.size != 1 or not np.isfinite(counter).all():
        raise InputError(
            explain(
                asked="the number of batches",
                got=f"shape {counter.shape}",
                why=f"{_COUNTER} is one finite number",
                do="check that the file is whole",
            )
        )
    return int(counter.reshape(()))


def _dtype(array: Stored) -> str:
    return str(array.dtype).removeprefix("torch.")
