"""The calls of a trace, as both kinds of Flax modules give them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from evenkeel.dialects._network import Call
from evenkeel.dialects.flax._arrays import to_numpy

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


@dataclass(slots=True)
class Recorder:
    """Collects calls in the order in which they end.

    Args:
        calls: what was recorded.
        hidden: whether a compiled function or a scan hid values from the recorder.
        inside: whether a recurrent layer runs, whose cell is not to be recorded by itself.
        cell: name of the cell that was called last.
    """

    calls: list[Call] = field(default_factory=list[Call])
    hidden: bool = False
    inside: bool = False
    cell: str = ""

    def run(
        self,
        layer: str,
        axis: int,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Call a layer's function and record it; ``axis`` is where its features are."""
        if self.inside:
            return function(*args, **kwargs)
        output = function(*args, **kwargs)
        self._add(layer, axis, args[0] if args else None, output)
        return output

    def run_sequence(
        self,
        module: Any,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Call a recurrent layer, and record it under the name of its cell."""
        if self.inside:
            return function(*args, **kwargs)
        self.inside = True
        try:
            output = function(*args, **kwargs)
        finally:
            self.inside = False
        chosen = kwargs.get("return_carry")
        with_carry = module.return_carry if chosen is None else chosen
        chosen = kwargs.get("time_major")
        time_major = module.time_major if chosen is None else chosen
        sequence = output[1] if with_carry else output
        self._add(self.cell, -1, args[0] if args else None, sequence, time_major=time_major)
        return output

    def run_cell(
        self,
        layer: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Call one step of a recurrent cell: (carry, inputs) to (carry, output)."""
        output = function(*args, **kwargs)
        self.cell = layer
        if not self.inside and len(args) > 1:
            self._add(layer, -1, args[1], output[1])
        return output

    def _add(
        self,
        layer: str,
        axis: int,
        given: Any,
        output: Any,
        *,
        time_major: bool = False,
    ) -> None:
        from jax.core import Tracer

        if isinstance(given, Tracer) or isinstance(output, Tracer):
            self.hidden = True
        elif all(hasattr(array, "shape") and hasattr(array, "dtype") for array in (given, output)):
            arrays = [_channels_last(to_numpy(a, layer), axis) for a in (given, output)]
            if time_major:
                arrays = [np.swapaxes(array, 0, 1) for array in arrays]
            self.calls.append(Call(layer, *arrays))


def _channels_last(array: NDArray[Any], axis: int) -> NDArray[Any]:
    """Integer inputs (tokens) have no features."""
    if axis == -1 or array.dtype.kind != "f" or array.ndim <= axis:
        return array
    return np.moveaxis(array, axis, -1)
