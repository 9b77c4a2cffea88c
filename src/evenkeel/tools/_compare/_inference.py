"""Inference of two networks, layer by layer."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from evenkeel.errors import InputError, explain
from evenkeel.tools._compare._bound import Quantity, judge, judge_again, judge_together
from evenkeel.tools._compare._records import ComparisonRow
from evenkeel.tools._compare._shifts import find_shifts, unrounded_means

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from evenkeel.dialects._layers import Values
    from evenkeel.dialects._network import Call, Trace
    from evenkeel.tools._compare._bound import Judged
    from evenkeel.tools._compare._shifts import Shifts
    from evenkeel.tools._compare._sides import Sides
    from evenkeel.tools._matching import Pair


@dataclass(frozen=True, slots=True, eq=False)
class CallsOfOne:
    """One call of one layer in all runs that there are; the source's in the target's layout.

    Args:
        pair: the layer on both sides.
        input: what goes in, without a bias that only one side has in front of batch norm; None
            where a layer of its own pads on one side.
        output: what comes out.
        inputs: of both sides, as exact as there is.
        before: the output of the call before it.
    """

    pair: Pair
    input: Judged | None
    output: Judged
    inputs: tuple[NDArray[Any], NDArray[Any]]
    before: Judged | None = None

    @property
    def equal(self) -> bool:
        """Whether both agree."""
        return self.output.equal and (self.input is None or self.input.equal)


@dataclass(frozen=True, slots=True, eq=False)
class Inference:
    """Both networks in inference mode on the same inputs.

    Args:
        calls: that both sides make, in the order of the source's.
        output: of the networks.
        shifts: biases of the source and of the target that the other one lacks.
        remarks: in whole sentences.
    """

    calls: tuple[CallsOfOne, ...]
    output: Judged
    shifts: tuple[Shifts, Shifts]
    remarks: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether every call and the output agree."""
        return self.output.equal and all(call.equal for call in self.calls)

    def first_difference(self) -> CallsOfOne | None:
        """The first call that differs, in the order of the source's."""
        return next((call for call in self.calls if not call.equal), None)

    def rows(self) -> tuple[ComparisonRow, ...]:
        """One row for each input and output that was compared."""
        judged = [
            one for call in self.calls for one in (call.input, call.output) if one is not None
        ]
        return tuple(inference_row(one) for one in (*judged, self.output))


@dataclass(frozen=True, slots=True, eq=False)
class _Runs:
    """One thing in float32 and float64 of both sides, or what there is of these."""

    a: Any
    b: Any
    exact_a: Any
    exact_b: Any

    def each(self, pick: Callable[[Any], Any]) -> _Runs:
        found = (self.a, self.b, self.exact_a, self.exact_b)
        return _Runs(*(None if one is None else pick(one) for one in found))

    def minus(self, a: NDArray[Any] | None, b: NDArray[Any] | None) -> _Runs:
        """The arrays of each side without a constant per channel."""
        found = ((self.a, a), (self.b, b), (self.exact_a, a), (self.exact_b, b))
        return _Runs(
            *(one if one is None or shift is None else one - shift for one, shift in found)
        )


def compare_inference(sides: Sides) -> Inference:
    """Run both in float32, and in float64 where they can; judge every call.

    Raises:
        InputError: neither side has float64.
    """
    a, b = sides.a, sides.b
    trace_b = b.trace(sides.inputs_b)
    shifts = find_shifts(sides, a.start, b.start, trace_b)
    if b.double is not None and (means := unrounded_means(sides, *shifts)):
        b.double.write(means)
    exact_a, exact_b = a.exact_trace(sides.inputs_a), b.exact_trace(sides.inputs_b)
    if exact_a is None and exact_b is None:
        raise InputError(
            explain(
                asked="compare two networks",
                got=f"{a.framework} and {b.framework}, neither with a float64 mode here",
                why="errors are measured against float64",
                do="compare one of them with a network of another framework",
            )
        )
    return _judge_traces(sides, _Runs(a.trace(sides.inputs_a), trace_b, exact_a, exact_b), shifts)


def compare_exact(sides: Sides, state: Values) -> Inference:
    """As :func:`compare_inference`, in float64 only, both sides in the given source state."""
    held = sides.expected(state)
    for side, values in ((sides.a, state), (sides.b, held)):
        if side.double is not None:
            side.double.write(values)
    traces = sides.a.exact_trace(sides.inputs_a), sides.b.exact_trace(sides.inputs_b)
    runs = _Runs(*traces, *traces)
    return _judge_traces(sides, runs, find_shifts(sides, state, held, runs.b))


def inference_row(judged: Judged) -> ComparisonRow:
    """The row of one judged quantity."""
    q = judged.quantity
    return ComparisonRow(
        "inference",
        None,
        q.layer,
        q.target,
        q.item,
        None,
        judged.error_a,
        judged.error_b,
        judged.bound,
        judged.equal,
        "" if judged.same else "another function: they differ in float64, too",
    )


def _judge_traces(sides: Sides, runs: _Runs, shifts: tuple[Shifts, Shifts]) -> Inference:
    remarks: list[str] = []
    calls: list[CallsOfOne] = []
    for pair, found in _matched_calls(sides, runs, remarks):
        before = calls[-1].output if calls else None
        calls.append(replace(_judge_call(pair, found, shifts), before=before))
    outputs = runs.each(attrgetter("output"))
    output = judge(_quantity("", "", "output", outputs))
    if calls:
        output = judge_again(output, calls[-1].output.relative_own)
    return Inference(tuple(calls), output, shifts, tuple(remarks))


def _matched_calls(sides: Sides, runs: _Runs, remarks: list[str]) -> Iterator[tuple[Pair, _Runs]]:
    """Calls of matched layers, in the order of the source's."""
    by_layer = runs.each(_calls_by_layer)
    pairs = {pair.source.name: pair for pair in sides.matching.pairs}
    seen: dict[str, int] = defaultdict(int)
    for call in (runs.exact_a or runs.a).calls:
        pair = pairs.get(call.layer)
        if pair is None:
            continue
        number = seen[call.layer]
        seen[call.layer] += 1
        ours, theirs = pair.source.name, pair.target.name
        if number >= len(by_layer.b[theirs]):
            remarks.append(f"{theirs} is called less often than {ours}.")
            continue
        yield (
            pair,
            _Runs(
                by_layer.a[ours][number],
                by_layer.b[theirs][number],
                None if by_layer.exact_a is None else by_layer.exact_a[ours][number],
                None if by_layer.exact_b is None else by_layer.exact_b[theirs][number],
            ),
        )


def _calls_by_layer(trace: Trace) -> dict[str, list[Call]]:
    calls: dict[str, list[Call]] = defaultdict(list)
    for call in trace.calls:
        calls[call.layer].append(call)
    return calls


def _judge_call(pair: Pair, call: _Runs, shifts: tuple[Shifts, Shifts]) -> CallsOfOne:
    names = pair.source.name, pair.target.name
    moved = [one.of_input(name) for one, name in zip(shifts, names, strict=True)]
    inputs = call.each(attrgetter("input")).minus(*moved)
    inputs = _in_target_layout(inputs, pair)
    moved = [one.of_output(name) for one, name in zip(shifts, names, strict=True)]
    outputs = call.each(attrgetter("output")).minus(*moved)
    quantities = [_quantity(*names, "output", outputs)]
    if inputs.a.size == inputs.b.size:  # a layer of its own may pad on one side
        quantities.append(_quantity(*names, "input", inputs))
    output, *rest = judge_together(quantities)
    best = tuple(
        rough if exact is None else exact
        for rough, exact in ((inputs.a, inputs.exact_a), (inputs.b, inputs.exact_b))
    )
    return CallsOfOne(pair, rest[0] if rest else None, output, best)


def _in_target_layout(inputs: _Runs, pair: Pair) -> _Runs:
    """The source's inputs with their channels in the target's order."""
    if pair.order is None or inputs.a.shape[-1] != len(pair.order):
        return inputs
    order = pair.order
    exact = None if inputs.exact_a is None else np.take(inputs.exact_a, order, -1)
    return _Runs(np.take(inputs.a, order, -1), inputs.b, exact, inputs.exact_b)


def _quantity(layer: str, target: str, item: str, runs: _Runs) -> Quantity:
    shape = runs.b.shape
    a, exact_a = (_shaped(one, shape) for one in (runs.a, runs.exact_a))
    exact = runs.exact_b if exact_a is None else exact_a
    other = None if exact_a is None else runs.exact_b
    return Quantity(layer, target, item, a, runs.b, exact, other)


def _shaped(array: NDArray[Any] | None, shape: Sequence[int]) -> NDArray[Any] | None:
    """A dense layer's features beside those of a convolution of size 1, which have more axes."""
    if array is None or array.shape == tuple(shape) or array.size != np.prod(shape):
        return array
    return array.reshape(shape)
