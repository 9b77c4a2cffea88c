"""What the data say: which layers of two networks get the same input."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from evenkeel.tools._matching._pairs import takes_any_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from evenkeel.dialects._layers import Layer
    from evenkeel.dialects._network import Trace

#: Layer name -> one print for each of its calls.
Prints: TypeAlias = dict[str, "list[Print]"]

#: Positions that are kept of one input: enough to tell layers apart, few enough to be cheap.
_POSITIONS: Final = 64
#: Relative distance of two activations that count as the same. Rounding in float32 gives 1e-7 to
#: 1e-4 in deep networks; inputs of different layers differ by about 1.
SAME: Final = 2e-3


@dataclass(frozen=True, slots=True, eq=False)
class Print:
    """A sample of one array: positions (rows) and channels, and its Euclidean size."""

    rows: NDArray[np.float64]
    size: float

    @classmethod
    def of(cls, rows: NDArray[Any]) -> Print:
        """Of these rows, in float64."""
        wide = np.asarray(rows, np.float64)
        return cls(wide, _size(wide))

    def minus(self, shift: NDArray[Any]) -> Print:
        """With a constant per channel taken off."""
        return Print.of(self.rows - shift)

    def reordered(self, order: NDArray[np.intp] | None) -> Print:
        """With the channels in another order."""
        return self if order is None else Print(self.rows[:, order], self.size)


def prints(trace: Trace) -> Prints:
    """A sample of the input of every call."""
    found: Prints = defaultdict(list)
    for call in trace.calls:
        found[call.layer].append(sample(call.input))
    return found


def sample(array: NDArray[Any]) -> Print:
    """Evenly spread positions of an array, all of its channels.

    Borders of zeros are cut off, because one framework pads in the convolution and another in
    a layer before it.
    """
    array = without_border(array)
    rows = array.reshape(-1, array.shape[-1]) if array.ndim > 1 else array.reshape(-1, 1)
    chosen = np.unique(np.linspace(0, max(len(rows) - 1, 0), _POSITIONS).astype(np.intp))
    return Print.of(rows[chosen[: len(rows)]])


def without_border(array: NDArray[Any]) -> NDArray[Any]:
    """Channels-last features, cut to the smallest box that holds all that is not zero."""
    if array.ndim < 3:
        return array
    used = array != 0
    for axis in range(1, array.ndim - 1):
        others = tuple(other for other in range(array.ndim) if other != axis)
        places = np.flatnonzero(used.any(axis=others))
        if places.size:
            array = np.take(array, np.arange(places[0], places[-1] + 1), axis=axis)
            used = array != 0
    return array


def distance(one: Print, other: Print) -> float:
    """Of two samples, relative to the first; infinite where shapes or finiteness differ."""
    if one.rows.shape != other.rows.shape:
        return float("inf")
    gap = _size(one.rows - other.rows)
    if not np.isfinite(gap):
        return float("inf")
    return gap / one.size if one.size else gap


def _size(rows: NDArray[np.float64]) -> float:
    # np.linalg.norm starts the threads of BLAS, thousands of times.
    return float(np.sqrt(np.square(rows).sum()))


def _may_be_same(one: Print, other: Print) -> bool:
    """False where the sizes alone rule it out: ||a| - |b|| <= |a - b|, in any order."""
    return one.rows.shape == other.rows.shape and abs(one.size - other.size) <= 2 * SAME * one.size


def is_same(one: Sequence[Print], other: Sequence[Print]) -> bool:
    """Whether two layers get the same inputs, call by call."""
    return len(one) == len(other) and all(
        _may_be_same(a, b) and distance(a, b) <= SAME for a, b in zip(one, other, strict=True)
    )


def find_order(
    layer: Layer, one: Sequence[Print], other: Sequence[Print], *, any_order: bool
) -> NDArray[np.intp] | None:
    """The order of the source's channels in which the target gets them, if there is one.

    Orders of a flattened feature map come first.

    Args:
        layer: of the target.
        one: what the source's layer gets.
        other: what the target's layer gets.
        any_order: try any order that the data alone settle, too.
    """
    if not takes_any_order(layer) or len(one) != len(other):
        return None
    if not all(_may_be_same(a, b) for a, b in zip(one, other, strict=True)):
        return None
    mine, theirs = (np.concatenate([p.rows for p in side]) for side in (one, other))
    if not _are_close(np.sort(mine, axis=1), np.sort(theirs, axis=1)):
        return None
    candidates: list[Iterator[NDArray[np.intp]]] = []
    if layer.kind == "dense":
        candidates.append(flatten_orders(mine.shape[1]))
    if any_order:
        candidates.append(_sorted_order(mine, theirs))
    for order in itertools.chain.from_iterable(candidates):
        if _are_close(mine[:, order], theirs):
            return order
    return None


def _are_close(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    return _size(one - other) <= SAME * _size(one)


def flatten_orders(size: int) -> Iterator[NDArray[np.intp]]:
    """Orders in which a channels-last map (area, channels) is read channels first, and back."""
    for channels in range(2, size):
        if size % channels == 0:
            # (positions, channels) read along the other axis; the inverse is the order of
            # size // channels, so that both directions come up.
            yield np.arange(size).reshape(size // channels, channels).T.reshape(-1)


def _sorted_order(
    one: NDArray[np.float64], other: NDArray[np.float64]
) -> Iterator[NDArray[np.intp]]:
    """The order that sorts the channels by one random projection of their values."""
    weights = np.random.default_rng(0).standard_normal(len(one))
    mine, theirs = weights @ one, weights @ other
    spread = np.diff(np.sort(mine))
    # Channels that nothing tells apart have no order.
    if spread.size and spread.min() > 1e-9 * np.abs(mine).max():
        order = np.empty(len(mine), np.intp)
        order[np.argsort(theirs)] = np.argsort(mine)
        yield order


def similar_inputs(inputs: NDArray[Any], seed: int = 0) -> NDArray[Any]:
    """Inputs that tell layers apart, of the same shape and size as the example.

    An example may be all zeros. Numbers get noise of their own size added; token numbers are
    drawn from the range of the example's.
    """
    rng = np.random.default_rng(seed)
    if np.issubdtype(inputs.dtype, np.integer):
        return rng.integers(inputs.min(), inputs.max() + 1, inputs.shape).astype(inputs.dtype)
    scale = float(np.std(inputs)) or float(np.abs(inputs).max()) or 1.0
    return (inputs + scale * rng.standard_normal(inputs.shape)).astype(inputs.dtype)
