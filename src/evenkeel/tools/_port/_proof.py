r"""The measured proof that a port is exact, and where it failed.

With :math:`u = 2^{-24}` and :math:`w = 2^{-53}`, the source's output :math:`a` and the target's
:math:`b` in float32, and :math:`A` and :math:`B` in float64, all on the example, and largest
absolute differences throughout:

.. math::

    \text{own} = \max(|a - A|,\; u\,|A|), \qquad |b - A| \le 4\,\text{own}.

An output of few numbers may be right by luck, and a framework may fold scale and offset into one
product where the source centres first. Where the law fails, both are looked at: ``own``, relative
to the size of the output, becomes the largest of several inputs of the example's shape; and where
the float64 outputs show the same function, :math:`|B - A| \le 2^{13} (w/u)\,\text{own}`, the
target may show :math:`|b - A| \le 4 \max(\text{own}, (u/w)\,|B - A|)`, its own rounding.
:mod:`evenkeel.tools._compare._bound` derives the same law for all quantities of a training step.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from evenkeel.errors import EvenkeelError, InputError, explain
from evenkeel.tools._matching._data import SAME, distance, sample, similar_inputs
from evenkeel.tools._port._records import Proof

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from numpy.typing import NDArray

    from evenkeel.dialects._network import Call, Network, Trace
    from evenkeel.tools._matching._pairs import Matching

#: How much larger than the source's own float32 error the target's may be.
FACTOR: Final = 4.0
UNIT32: Final = 2.0**-24
#: How much a rounding grows from float64 to float32.
GROWTH: Final = 2.0**29
#: Square root of the longest sum that is allowed for.
ORDER: Final = 2.0**13
#: Inputs on which the source's own error is looked for where one is not enough.
_DRAWS: Final = 8


@contextmanager
def doubled(network: Network) -> Generator[Network]:
    """The float64 copy of a network, closed at the end."""
    double = network.double()
    try:
        yield double
    finally:
        double.close()


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """What both networks made of the example, and what the target was fed."""

    inputs: NDArray[Any]
    fed: NDArray[Any]
    ours: Trace
    theirs: Trace


def run_both(matching: Matching, source: Network, target: Network, inputs: NDArray[Any]) -> Outputs:
    """Run both; the target gets the inputs behind the source's own preprocessing."""
    ours = source.trace(inputs)
    fed = _prepared(matching, ours, inputs)
    return Outputs(inputs, fed, ours, target.trace(fed))


def prove(matching: Matching, source: Network, target: Network, outputs: Outputs) -> Proof:
    """Measure both outputs against float64.

    Raises:
        InputError: neither network has a float64 mode.
    """
    reasons: list[str] = []
    for network, inputs, whose in (
        (source, outputs.inputs, "source"),
        (target, outputs.fed, "target"),
    ):
        try:
            with doubled(network) as double:
                trace = double.trace(_as_float64(inputs))
                proof = _measured(outputs, trace.output, whose)
                if proof.holds or whose == "target":
                    return proof
                return _closer(matching, proof, (source, double), target, outputs, trace)
        except EvenkeelError as error:
            reasons.append(f"{whose}: {str(error).splitlines()[0]}")
    raise InputError(
        explain(
            asked="prove that a port is exact",
            got="; ".join(reasons),
            why="without float64 nobody knows how exact the source itself is",
            do="build one of the models so that it can be copied (Keras: Functional or "
            "Sequential, or with get_config)",
        )
    )


def _measured(outputs: Outputs, exact: NDArray[Any], whose: str) -> Proof:
    size = float(np.abs(exact).max(initial=0))
    own, error = (_error(trace.output, exact) for trace in (outputs.ours, outputs.theirs))
    return Proof(own, error, FACTOR * max(own, UNIT32 * size), size, whose)


def _closer(
    matching: Matching,
    proof: Proof,
    sources: tuple[Network, Network],
    target: Network,
    outputs: Outputs,
    exact: Trace,
) -> Proof:
    """The proof with a source's error that is not small by luck, and the target's own."""
    source, double = sources
    own = max(proof.source_error, UNIT32 * proof.size)
    for seed in range(_DRAWS):
        inputs = similar_inputs(outputs.inputs, seed)
        wide = double.trace(_as_float64(inputs)).output
        size = float(np.abs(wide).max(initial=0))
        if np.isfinite(size) and size > 0:
            own = max(own, proof.size * _error(source.trace(inputs).output, wide) / size)
    bound = FACTOR * own
    if proof.target_error > bound:
        gap = _gap(matching, target, outputs, exact)
        if gap <= ORDER * own / GROWTH:
            bound = FACTOR * max(own, GROWTH * gap)
    return replace(proof, bound=bound)


def _gap(matching: Matching, target: Network, outputs: Outputs, exact: Trace) -> float:
    """Distance of the two outputs in float64; infinite where the target has no float64."""
    try:
        with doubled(target) as double:
            fed = _prepared(matching, exact, _as_float64(outputs.inputs))
            return _error(double.trace(fed).output, exact.output)
    except EvenkeelError:
        return float("inf")


def _error(output: NDArray[Any], exact: NDArray[Any]) -> float:
    if output.shape != exact.shape:
        return float("inf")
    return float(np.abs(np.asarray(output, np.float64) - exact).max(initial=0))


def _prepared(matching: Matching, ours: Trace, inputs: NDArray[Any]) -> NDArray[Any]:
    """The inputs after the source's own preprocessing."""
    if not matching.preprocessing:
        return inputs
    last = matching.preprocessing[-1].name
    return next(call.output for call in ours.calls if call.layer == last)


def first_difference(matching: Matching, outputs: Outputs) -> str:
    """The first layer of the target whose input is not the source's, in words."""
    theirs = outputs.theirs
    before, after = _by_layer(outputs.ours.calls), _by_layer(theirs.calls)
    biases = {norm: layer for layer, norm in matching.absorbed}
    arrays = {pair.source.name: pair.source.arrays for pair in matching.pairs}
    for pair in sorted(matching.pairs, key=lambda p: _position(theirs, p.target.name)):
        layer = biases.get(pair.source.name)
        moved = np.zeros(()) if layer is None else arrays[layer]["bias"].read()
        found = zip(before.get(pair.source.name, ()), after.get(pair.target.name, ()), strict=False)
        for one, other in found:
            wanted = sample(one.input).minus(moved).reordered(pair.order)
            gap = distance(wanted, sample(other.input))
            if gap > SAME:
                return (
                    f"the input of {pair.target.name!r} differs from that of "
                    f"{pair.source.name!r} by {gap:.1e} of its size"
                )
    return f"no layer's input differs by more than {SAME:.0e} of its size; the outputs do"


def _as_float64(inputs: NDArray[Any]) -> NDArray[Any]:
    return inputs.astype(np.float64) if inputs.dtype.kind == "f" else inputs


def _by_layer(calls: Sequence[Call]) -> Mapping[str, list[Call]]:
    found: dict[str, list[Call]] = {}
    for call in calls:
        found.setdefault(call.layer, []).append(call)
    return found


def _position(trace: Trace, name: str) -> int:
    names = [call.layer for call in trace.calls]
    return names.index(name) if name in names else len(names)
