"""Biases in front of batch norm that only one of two networks has.

Batch norm subtracts a mean, so that the bias of the layer before it and the same number in the
running mean cancel. Where one network has such a bias and the other has not, what goes into batch
norm differs by it, and what comes out does not: both are compared without it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from evenkeel.tools._compare._bound import UNIT32

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from evenkeel.dialects._layers import Values
    from evenkeel.dialects._network import Trace
    from evenkeel.tools._compare._sides import Sides

#: Of a sum of two numbers of float32: of itself, and of what it is made of.
_ROUNDINGS: Final = 2 * UNIT32
#: Kinds whose bias shifts every output by the same number.
LINEAR: Final = frozenset({"dense", "conv", "conv_transpose"})


@dataclass(frozen=True, slots=True, eq=False)
class Shift:
    """One bias that the other network lacks.

    Args:
        layer: whose bias it is.
        norm: the batch norm that reads the layer's output directly.
        bias: a number for each channel, in float64.
    """

    layer: str
    norm: str
    bias: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Shifts:
    """The biases of one network that the other lacks."""

    found: tuple[Shift, ...] = ()

    def of_input(self, layer: str) -> NDArray[np.float64] | None:
        """What the inputs of a layer are larger by; None for nothing."""
        return next((shift.bias for shift in self.found if shift.norm == layer), None)

    def of_output(self, layer: str) -> NDArray[np.float64] | None:
        """What the outputs of a layer are larger by; None for nothing."""
        return next((shift.bias for shift in self.found if shift.layer == layer), None)

    def without(self, values: Values) -> Values:
        """The same function with these biases at 0."""
        moved = {name: dict(arrays) for name, arrays in values.items()}
        for shift in self.found:
            moved[shift.layer]["bias"] = np.zeros_like(shift.bias)
            norm = moved.get(shift.norm, {})
            if "running_mean" in norm:
                norm["running_mean"] = norm["running_mean"] - shift.bias
        return moved


def find_shifts(sides: Sides, state: Values, held: Values, trace: Trace) -> tuple[Shifts, Shifts]:
    """The biases that only one side has, of the source and of the target.

    Args:
        sides: both networks.
        state: of the source.
        held: the state of the target.
        trace: of the target.
    """
    ours = tuple(Shift(layer, norm, _bias(state, layer)) for layer, norm in sides.matching.absorbed)
    made = {layer for layer, role in sides.matching.made_roles if role == "bias"}
    theirs = tuple(
        Shift(layer, norm, _bias(held, layer))
        for layer, norm in _in_front_of_norms(sides, trace)
        if layer in made
    )
    return Shifts(ours), Shifts(theirs)


def unrounded_means(sides: Sides, ours: Shifts, theirs: Shifts) -> dict[str, dict[str, Any]]:
    """The target's running means that took a bias in, before float32 rounded them.

    Sum and difference of a mean and a bias are rounded when they are stored, once more than
    anything that is only copied. In float64, where functions are told apart, that would show.
    Means that are further off are another function's, and stay.
    """
    expected, held = sides.expected(sides.a.start), sides.b.start
    target = {pair.source.name: pair.target.name for pair in sides.matching.pairs}
    moved = [(target[shift.norm], 0.0, shift.bias) for shift in ours.found]
    moved += [(shift.norm, shift.bias, shift.bias) for shift in theirs.found]
    means: dict[str, dict[str, Any]] = {}
    for norm, added, bias in moved:
        if "running_mean" not in held[norm] or "running_mean" not in expected[norm]:
            continue
        exact, stored = expected[norm]["running_mean"] + added, held[norm]["running_mean"]
        if np.all(np.abs(exact - stored) <= _ROUNDINGS * (np.abs(exact) + np.abs(bias))):
            means[norm] = {"running_mean": exact}
    return means


def _bias(state: Values, layer: str) -> NDArray[np.float64]:
    return state[layer]["bias"].astype(np.float64)


def _in_front_of_norms(sides: Sides, trace: Trace) -> Iterator[tuple[str, str]]:
    """Linear layers of the target, each with the batch norm that reads its output directly."""
    kinds = {pair.target.name: pair.target.kind for pair in sides.matching.pairs}
    for one, two in itertools.pairwise(trace.calls):
        linear = kinds.get(one.layer) in LINEAR and kinds.get(two.layer) == "batch_norm"
        if linear and np.array_equal(one.output, two.input):
            yield one.layer, two.layer
