"""The two networks of a comparison: opened, copied in float64, put back as they were."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evenkeel.dialects._remote import open_target
from evenkeel.errors import EvenkeelError, InputError, explain
from evenkeel.tools._matching import Matching, match

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from numpy.typing import NDArray

    from evenkeel.dialects._layers import Layer, Values
    from evenkeel.dialects._network import Loss, Network, Step, Trace

State = dict[str, dict[str, "NDArray[Any]"]]


class Side:
    """One network, its float64 copy, and the state that it is put back into."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - a model of any framework
        self.network, self._owned = _opened(model)
        self.start = read_state(self.network)
        self.remarks: list[str] = []
        self.double = self._doubled()

    @property
    def framework(self) -> str:
        """Name of the framework."""
        return self.network.framework

    def layers(self) -> dict[str, Layer]:
        """Layers by name."""
        return {layer.name: layer for layer in self.network.layers()}

    def put(self, values: Values) -> State:
        """Set the state of the float32 network; returns what it holds then, as float64."""
        self.network.write(values)
        return as_double(read_state(self.network))

    def trace(self, inputs: NDArray[Any]) -> Trace:
        """Inference in float32."""
        return self.network.trace(_as(inputs, np.float32))

    def exact_trace(self, inputs: NDArray[Any]) -> Trace | None:
        """Inference in float64; None where the framework has none."""
        return None if self.double is None else self.double.trace(_as(inputs, np.float64))

    def step(self, values: Values, inputs: NDArray[Any], loss: Loss) -> Step:
        """One training pass in float32 from the given state."""
        self.network.write(values)
        return self.network.step(_as(inputs, np.float32), loss)

    def exact_step(self, values: Values, inputs: NDArray[Any], loss: Loss) -> Step:
        """One training pass in float64 from the given state.

        Raises:
            InputError: the framework has no float64 mode for this network.
        """
        if self.double is None:
            raise InputError(
                explain(
                    asked=f"compare training steps of a network of {self.framework}",
                    got="a network without a float64 mode",
                    why="errors of training are measured against float64",
                    do="compare in inference only, steps=0",
                )
            )
        self.double.write(values)
        return self.double.step(_as(inputs, np.float64), loss)

    def restore(self) -> None:
        """Write back every array that is not what it was."""
        now = read_state(self.network)
        changed = {
            name: {
                role: array for role, array in arrays.items() if not _same(array, now[name][role])
            }
            for name, arrays in self.start.items()
        }
        self.network.write({name: arrays for name, arrays in changed.items() if arrays})

    def close(self) -> None:
        """Give back the copy, and the network where it was opened here."""
        if self.double is not None:
            self.double.close()
        if self._owned:
            self.network.close()

    def _doubled(self) -> Network | None:
        try:
            return self.network.double()
        except EvenkeelError as error:
            reason = " ".join(str(error).split())
            self.remarks.append(f"{self.framework}: no float64 mode ({reason}).")
            return None


@dataclass(frozen=True, slots=True, eq=False)
class Sides:
    """Both networks, the inputs of each, channels last, and which layer is which."""

    a: Side
    b: Side
    inputs_a: NDArray[Any]
    inputs_b: NDArray[Any]
    matching: Matching

    def expected(self, state: Values) -> State:
        """A state of the source as the target's."""
        return self.matching.to_target(as_double(state))


@contextmanager
def opened_sides(
    a: Any,  # noqa: ANN401 - a model of any framework
    b: Any,  # noqa: ANN401 - likewise
    inputs: NDArray[Any] | tuple[NDArray[Any], NDArray[Any]],
    mapping: Mapping[str, str] | None,
) -> Generator[Sides]:
    """Open, match, and put everything back at the end, whatever happened."""
    side_a = Side(a)
    try:
        side_b = Side(b)
        try:
            yield _matched(side_a, side_b, inputs, mapping)
        finally:
            side_b.restore()
            side_b.close()
    finally:
        side_a.restore()
        side_a.close()


def read_state(network: Network) -> State:
    """A copy of all arrays of a network, by layer and role."""
    return {
        layer.name: {role: np.array(array.read()) for role, array in layer.arrays.items()}
        for layer in network.layers()
        if layer.arrays
    }


def as_double(state: Values) -> State:
    """The same values in float64; integers stay."""
    return {
        name: {role: _as(array, np.float64) for role, array in arrays.items()}
        for name, arrays in state.items()
    }


def is_float(array: NDArray[Any]) -> bool:
    """Whether its numbers are real ones, not counters or tokens."""
    return bool(np.issubdtype(array.dtype, np.floating))


def _matched(
    a: Side,
    b: Side,
    inputs: NDArray[Any] | tuple[NDArray[Any], NDArray[Any]],
    mapping: Mapping[str, str] | None,
) -> Sides:
    for_a, for_b = inputs if isinstance(inputs, tuple) else (inputs, None)
    canonical_a = _as(a.network.canonical_inputs(np.asarray(for_a)), np.float32)
    canonical_b = canonical_a
    if for_b is not None:
        canonical_b = _as(b.network.canonical_inputs(np.asarray(for_b)), np.float32)
    if len(canonical_a) != len(canonical_b) or not len(canonical_a):
        raise InputError(
            explain(
                asked="compare two networks on a pair of inputs",
                got=f"{len(canonical_a)} and {len(canonical_b)} samples",
                why="both networks have to see the same samples, and at least one",
                do="pass one array, or the same samples in the layout of each network",
            )
        )
    matching = match(a.network, b.network, canonical_a, mapping)
    return Sides(a, b, canonical_a, canonical_b, matching)


def _opened(model: Any) -> tuple[Network, bool]:  # noqa: ANN401 - a model of any framework
    """The network, and whether it was opened here."""
    if isinstance(model, str | os.PathLike):
        return open_target(Path(model)), True
    if all(hasattr(model, name) for name in ("framework", "canonical_inputs", "trace", "double")):
        return model, False
    from evenkeel.dialects._open import open_network

    return open_network(model), True


def _as(array: NDArray[Any], dtype: type[np.floating[Any]]) -> NDArray[Any]:
    return array.astype(dtype, copy=False) if is_float(array) else array


def _same(one: NDArray[Any], two: NDArray[Any]) -> bool:
    """Bit for bit, so that a NaN is put back, too, and is not written again and again."""
    return one.dtype == two.dtype and one.tobytes() == two.tobytes()
