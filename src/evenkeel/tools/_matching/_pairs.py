"""Which layer of one network is which of another, and how its arrays are carried over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from evenkeel.dialects._layers import Layer, Values

#: What a role is where only the target has it, so that the function stays the same.
NEUTRAL: Final[dict[str, float]] = {"bias": 0, "weight": 1, "scale": 1, "offset": 0, "batches": 0}
#: Kinds whose arrays have one number per channel, and whose channels keep their order.
_CHANNELWISE: Final = frozenset({"batch_norm", "group_norm", "layer_norm", "prelu"})


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """One layer of the source and the layer of the target that does the same.

    Args:
        source: its name, kind and arrays.
        target: likewise; a ``dense`` layer and a convolution of size 1 do the same.
        order: channel ``j`` of the target's input is channel ``order[j]`` of the source's;
            None for the same order. A dense layer after a flatten has one where the two
            networks flatten in another order.
    """

    source: Layer
    target: Layer
    order: NDArray[np.intp] | None = None

    def to_target(self, role: str, array: NDArray[Any]) -> NDArray[Any]:
        """An array of the source's layer, or a gradient of it, in the target's order and shape."""
        moved = _reordered(self.source, role, array, self.order)
        return np.reshape(moved, _shape_of(self.target, role, moved))

    def to_source(self, role: str, array: NDArray[Any]) -> NDArray[Any]:
        """Undo :meth:`to_target`."""
        shaped = np.reshape(array, _shape_of(self.source, role, array))
        back = None if self.order is None else np.argsort(self.order)
        return _reordered(self.source, role, shaped, back)


@dataclass(frozen=True, slots=True, eq=False)
class Matching:
    """Which layer of the target is which of the source.

    Args:
        pairs: in the execution order of the target; layers that are never called come last.
        absorbed: names (convolution or dense layer, batch norm) of the source: the bias of the
            first has no place in the target and is subtracted from the running mean of the
            second, which is exact.
        dropped: "layer.role" of the source that the target has no place for; leaving it out
            changes nothing in inference.
        made_roles: (layer, role) of the target that the source does not have; it gets the value
            that changes nothing (1 for a scale, 0 for an offset) and must stay frozen.
        preprocessing: layers of the source that change the inputs and that the target lacks:
            the caller has to apply them.
        agrees: whether the data showed that every matched layer gets the same input in both
            networks and that both outputs are equal.
        difference: where the data differ first, in words; empty where they agree.
        remarks: what else is worth knowing, in whole sentences.
    """

    pairs: tuple[Pair, ...]
    absorbed: tuple[tuple[str, str], ...] = ()
    dropped: tuple[str, ...] = ()
    made_roles: tuple[tuple[str, str], ...] = ()
    preprocessing: tuple[Layer, ...] = ()
    agrees: bool = False
    difference: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def made(self) -> tuple[str, ...]:
        """``made_roles`` as "layer.role"."""
        return tuple(f"{layer}.{role}" for layer, role in self.made_roles)

    def to_target(self, values: Values) -> dict[str, dict[str, NDArray[Any]]]:
        """The source's whole state as the target's, what is absorbed and made included.

        Layers that ``values`` lacks are left out.
        """
        values = _with_absorbed(values, self.absorbed)
        return {
            pair.target.name: _layer_to_target(pair, values[pair.source.name])
            for pair in self.pairs
            if pair.source.name in values
        }


def state_of(layers: tuple[Layer, ...]) -> dict[str, dict[str, NDArray[Any]]]:
    """A copy of all arrays of a network."""
    return {
        layer.name: {role: np.array(array.read()) for role, array in layer.arrays.items()}
        for layer in layers
        if layer.arrays
    }


def is_pointwise(layer: Layer) -> bool:
    """Whether the layer multiplies the channels of each position by one matrix."""
    if layer.kind == "dense":
        return True
    kernel = layer.shapes.get("kernel", ())
    whole = layer.settings.get("groups", 1) == 1
    return layer.kind == "conv" and whole and all(size == 1 for size in kernel[:-2])


def is_depthwise(layer: Layer) -> bool:
    """Whether every output channel of a convolution reads one input channel."""
    kernel = layer.shapes.get("kernel", ())
    groups = layer.settings.get("groups", 1)
    return layer.kind == "conv" and groups > 1 and kernel[-2] == 1


def is_channelwise(layer: Layer) -> bool:
    """Whether the channels of the output stand in the order of those of the input."""
    return layer.kind in _CHANNELWISE or is_depthwise(layer)


def takes_any_order(layer: Layer) -> bool:
    """Whether its arrays can follow another order of the input's channels."""
    if layer.kind in ("dense", "lstm", "gru", "simple_rnn", "batch_norm", "prelu"):
        return True
    groups = layer.settings.get("groups", 1)
    return layer.kind in ("conv", "conv_transpose") and (groups == 1 or is_depthwise(layer))


def _reordered(
    layer: Layer, role: str, array: NDArray[Any], order: NDArray[np.intp] | None
) -> NDArray[Any]:
    """The array after its input channels were reordered; roles that see none stay."""
    if order is None or array.ndim == 0:
        return array
    if is_channelwise(layer):
        multiplier = array.shape[-1] // len(order)
        wide = (order[:, None] * multiplier + np.arange(multiplier)).reshape(-1)
        return np.take(array, wide, axis=-1)
    if role != "kernel":
        return array
    return np.take(array, order, axis=-1 if layer.kind == "conv_transpose" else -2)


def _shape_of(layer: Layer, role: str, array: NDArray[Any]) -> tuple[int, ...]:
    """The role's shape in the layer; the array's own where the layer lacks the role."""
    return layer.shapes.get(role, array.shape)


def _layer_to_target(pair: Pair, given: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for role, stored in pair.target.arrays.items():
        if role in given:
            arrays[role] = pair.to_target(role, given[role])
        elif role not in pair.source.arrays and role in NEUTRAL:
            first = next(iter(given.values()), np.zeros(0, np.float32))
            dtype = np.int64 if role == "batches" else first.dtype
            arrays[role] = np.full(stored.shape, NEUTRAL[role], dtype)
    return arrays


def _with_absorbed(values: Values, absorbed: tuple[tuple[str, str], ...]) -> Values:
    """The values after the biases went into the running means (a mean shifts by the bias)."""
    moved = dict(values)
    for layer, norm in absorbed:
        if layer in values and "running_mean" in moved.get(norm, {}):
            mean, bias = moved[norm]["running_mean"], values[layer]["bias"]
            moved[norm] = {**moved[norm], "running_mean": mean - bias.astype(mean.dtype)}
    return moved
