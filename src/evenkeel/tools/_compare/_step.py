"""One training step of both networks from the same state, judged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from evenkeel.tools._compare._bound import (
    FACTOR,
    UNIT32,
    Judged,
    Quantity,
    judge,
    judge_again,
    judge_together,
    largest,
)
from evenkeel.tools._compare._shifts import LINEAR
from evenkeel.tools._compare._sides import as_double, is_float

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from evenkeel.dialects._layers import Values
    from evenkeel.dialects._network import Loss, Step, Trace
    from evenkeel.tools._compare._sides import Sides
    from evenkeel.tools._matching import Pair

#: A gradient whose float64 value is this much smaller than its float32 one has no correct digit.
_NO_DIGITS: Final = 2.0**-20
#: A gradient this much smaller, in float64, than that of the same layer's kernel is rounding.
_NO_GRADIENT: Final = 2.0**-29
#: An own error this many times above the floor is no rounding of a smooth function.
_JUMP: Final = 64.0
#: How many displacements are tried, and how far they go.
_DIRECTIONS: Final = 4
_DISTANCE: Final = 16 * UNIT32
#: A jump of this fraction of a deviation explains it: it is that of one such element.
_COMPARABLE: Final = 8.0


@dataclass(frozen=True, slots=True, eq=False)
class StepRuns:
    """The same pass in float32 and float64 on both sides, from one state of the source."""

    state: Values
    samples: NDArray[np.intp]
    a: Step
    b: Step
    exact_a: Step
    exact_b: Step


@dataclass(frozen=True, slots=True, eq=False)
class JudgedStep:
    """What the law says about one step.

    Args:
        runs: what was computed.
        forward: statistics in execution order, then output and loss.
        backward: gradients, in the reverse of it.
        zero: names of parameters whose gradient is mathematically zero.
    """

    runs: StepRuns
    forward: tuple[Judged, ...]
    backward: tuple[Judged, ...]
    zero: tuple[str, ...]

    @property
    def all(self) -> tuple[Judged, ...]:
        """Everything, in the order of computation."""
        return self.forward + self.backward

    @property
    def equal(self) -> bool:
        """Whether everything is within its bound."""
        return all(one.equal for one in self.all)

    @property
    def is_jumping(self) -> bool:
        """Whether a gradient of the source is off by more than rounding."""
        return any(one.error_a > _JUMP * one.floor for one in self.backward)

    def judged_with(self, others: Sequence[JudgedStep]) -> JudgedStep:
        """The same step under the largest own error, relative to size, of several."""
        own: dict[tuple[str, str], float] = {}
        for one in (each for step in (self, *others) for each in step.all):
            key = one.quantity.target, one.quantity.item
            own[key] = max(own.get(key, 0.0), one.relative_own)
        forward, backward = (
            tuple(judge_again(one, own[one.quantity.target, one.quantity.item]) for one in judged)
            for judged in (self.forward, self.backward)
        )
        return replace(self, forward=forward, backward=backward)

    def without_jumps(self) -> JudgedStep:
        """Judged by the floor alone in layers whose own error is that of a jump."""
        layers = {one.quantity.layer for one in self.backward if one.error_a > _JUMP * one.floor}
        strict = tuple(
            replace(one, bound=FACTOR * one.floor) if one.quantity.layer in layers else one
            for one in self.backward
        )
        return replace(self, backward=strict)

    def suspects(self) -> tuple[Judged, ...]:
        """Gradients of one function that jump: on either side they are off by more than rounding.

        In float64 they agree, so that the functions are the same.
        """
        return tuple(
            one
            for one in self.backward
            if one.same and (not one.equal or one.error_a > _JUMP * one.floor)
        )


def run_step(sides: Sides, state: Values, samples: NDArray[np.intp], loss: Loss) -> StepRuns:
    """Set both sides to the source's state, and make one pass each in float32 and float64."""
    expected = sides.expected(state)
    x_a, x_b = sides.inputs_a[samples], sides.inputs_b[samples]
    return StepRuns(
        state,
        samples,
        sides.a.step(state, x_a, loss),
        sides.b.step(expected, x_b, loss),
        sides.a.exact_step(state, x_a, loss),
        sides.b.exact_step(expected, x_b, loss),
    )


def judge_step(sides: Sides, runs: StepRuns, loss: Loss, sums: Mapping[str, Sum]) -> JudgedStep:
    """Hold one step against the law.

    Args:
        sides: both networks.
        runs: the passes.
        loss: that was used.
        sums: of each layer, by source name.
    """
    gradients = [
        list(_gradients(pair, runs, sums.get(pair.source.name, _ONE)))
        for pair in reversed(sides.matching.pairs)
    ]
    zero = [q for group in gradients for q in group if q.zero]
    return JudgedStep(
        runs,
        (*_judged_statistics(sides, runs, sums), *_judged_output(runs, loss)),
        tuple(one for group in gradients for one in judge_together(group)),
        tuple(f"{q.layer}.{q.item.removeprefix('gradient of ')}" for q in zero),
    )


@dataclass(frozen=True, slots=True)
class Sum:
    r"""The sums over samples and positions that gradients and statistics of a layer are.

    *In any order.* Adding n numbers one by one in float32 makes the error
    :math:`\sum \delta_k S_k`, where :math:`S_k` are the partial sums and :math:`\delta_k`
    roundings of at most u, with variance :math:`u^2/3` (``docs/numerics.md``, section 6, has the
    model). Where partial sums grow evenly to S, its standard deviation is
    :math:`u \sqrt n\, S / 3`. Pairwise or in float64 it is less; a side must
    not be worse for the order that it takes.

    *Bias before batch norm.* With :math:`d_i` the gradient of the layer's output at position i
    of n, that of the bias is :math:`\sum d_i` and that of the kernel :math:`\sum d_i x_i`, about
    :math:`\sqrt n\, |d|\, |x|` in root mean squares. In front of batch norm
    :math:`\sum d_i = 0`, and what is computed is rounding, up to :math:`n u |d|`: in the sum
    itself, and in the mean that batch norm subtracts from every :math:`d_i` alike. So the floor is
    :math:`\sqrt n\, u` times the kernel's gradient, divided by :math:`|x|`.

    Args:
        terms: n, per sample.
        scale: root mean square of the layer's input.
        before_norm: whether batch norm reads the layer's output directly.
    """

    terms: float
    scale: float
    before_norm: bool

    def floor(self, samples: int) -> float:
        """Rounding of a sum in any order, relative to its size."""
        return UNIT32 * max(1.0, self._root(samples) / 3)

    def zero_floor(self, samples: int, kernel: float) -> float:
        """Rounding of a bias gradient that is zero, from the largest gradient of the kernel."""
        return UNIT32 * self._root(samples) * kernel / self.scale if self.scale else 0.0

    def _root(self, samples: int) -> float:
        return float(np.sqrt(max(self.terms * samples, 1.0)))


#: Of a layer that is never called.
_ONE: Final = Sum(1.0, 0.0, before_norm=False)


def find_sums(trace: Trace, kinds: Mapping[str, str]) -> dict[str, Sum]:
    """The sums of all layers, by the layer's name."""
    found: dict[str, Sum] = {}
    for number, call in enumerate(trace.calls):
        direct = kinds.get(call.layer) in LINEAR and any(
            kinds.get(one.layer) == "batch_norm" and np.array_equal(call.output, one.input)
            for one in trace.calls[number + 1 : number + 2]
        )
        terms = call.output.size / call.output.shape[-1] / len(trace.output)
        scale = float(np.sqrt(np.mean(np.square(call.input, dtype=np.float64))))
        before = found.get(call.layer)
        found[call.layer] = Sum(terms + (before.terms if before else 0.0), scale, direct)
    return found


def _judged_output(runs: StepRuns, loss: Loss) -> Iterator[Judged]:
    steps = (runs.a, runs.b, runs.exact_a, runs.exact_b)
    a, b, exact, other = (step.output for step in steps)
    output = judge(Quantity("", "", "output", a, b, exact, other))
    yield output
    _, gradient = loss(runs.exact_a.output)
    own = output.bound / FACTOR * float(np.abs(gradient).sum())
    a, b, exact, other = (np.asarray(step.loss, np.float64) for step in steps)
    own = own if np.isfinite(own) else 0.0
    yield judge(Quantity("", "", "loss", a, b, exact, other, own=own))


def _judged_statistics(sides: Sides, runs: StepRuns, sums: Mapping[str, Sum]) -> Iterator[Judged]:
    """New running statistics: the source's whole new state as the target's, and the target's."""
    new, exact = (sides.expected(_with(runs.state, step)) for step in (runs.a, runs.exact_a))
    for pair in sides.matching.pairs:
        if pair.source.kind != "batch_norm":
            continue
        name = pair.target.name
        found, other = (step.statistics.get(name, {}) for step in (runs.b, runs.exact_b))
        floor = sums.get(pair.source.name, _ONE).floor(len(runs.samples))
        quantities: list[Quantity] = []
        for role, array in exact.get(name, {}).items():
            if role not in pair.source.arrays or role not in found:
                continue
            size = statistics_size(role, exact[name])
            values = new[name][role], found[role], array, other[role]
            quantities.append(
                Quantity(pair.source.name, name, role, *values, size=size, own=floor * size)
            )
        yield from judge_together(quantities)


def statistics_size(role: str, arrays: Mapping[str, NDArray[Any]]) -> float:
    """What the values of a statistic are made of: a mean has the error of its deviations, too.

    The mean of a batch is off by about u times its standard deviation, however small it is
    (``docs/numerics.md``, section 2).
    """
    size = largest(arrays[role])
    if role == "running_mean" and "running_var" in arrays:
        return max(size, float(np.sqrt(largest(arrays["running_var"]))))
    return size


def _with(state: Values, step: Step) -> dict[str, dict[str, NDArray[Any]]]:
    return as_double(
        {name: {**arrays, **step.statistics.get(name, {})} for name, arrays in state.items()}
    )


def _gradients(pair: Pair, runs: StepRuns, terms: Sum) -> Iterator[Quantity]:
    """Gradients of one layer; a role that only one side can have is judged by its size."""
    ours, theirs = pair.source.name, pair.target.name
    of_a = (runs.a.gradients.get(ours, {}), runs.exact_a.gradients.get(ours, {}))
    of_b = (runs.b.gradients.get(theirs, {}), runs.exact_b.gradients.get(theirs, {}))
    kernel = largest(of_a[1].get("kernel"))
    for role in dict.fromkeys((*of_a[0], *of_b[0])):
        a, exact = (pair.to_target(role, g[role]) if role in g else None for g in of_a)
        b, other = (g.get(role) for g in of_b)
        if exact is None:
            if role not in pair.source.arrays:
                continue  # made for the target: named among the remarks
            yield Quantity(ours, theirs, f"gradient of {role}", None, b, _nothing(b), other)
            continue
        zero = _is_zero(a, exact, kernel if role == "bias" and terms.before_norm else 0.0)
        samples = len(runs.samples)
        own = terms.floor(samples) * largest(exact)
        if zero:
            own = terms.zero_floor(samples, kernel)
        if b is None and role not in pair.target.arrays and zero:
            b, other = np.zeros_like(exact), np.zeros_like(exact)
        yield Quantity(ours, theirs, f"gradient of {role}", a, b, exact, other, own=own, zero=zero)


def _nothing(like: NDArray[Any] | None) -> NDArray[Any]:
    return np.zeros(() if like is None else like.shape)


def _is_zero(a: NDArray[Any] | None, exact: NDArray[Any], kernel: float) -> bool:
    """Whether float64 shows that a gradient is nothing but rounding.

    Args:
        a: the gradient in float32.
        exact: in float64.
        kernel: the largest gradient of the kernel of the same layer where structure says that
            the gradient is zero (a bias before batch norm), else 0.
    """
    size = largest(exact)
    if kernel and size <= _NO_GRADIENT * kernel:
        return True
    return 0 < size <= _NO_DIGITS * largest(a)


def jumps(
    sides: Sides, step: JudgedStep, loss: Loss, suspects: tuple[Judged, ...]
) -> tuple[str, ...]:
    """Which of the gradients are discontinuous within rounding of this state and batch.

    The source is run in float64 at states and inputs displaced by relative roundings of random
    sign, at one and two times the distance. Of a smooth function the second difference
    is of second order, far below the errors of float32; at a kink (an activation or a maximum
    that changes sides) it is the jump.
    """
    runs, inputs = step.runs, sides.inputs_a[step.runs.samples]
    generator = np.random.default_rng(0)
    found: set[str] = set()
    for _ in range(_DIRECTIONS):
        signs = int(generator.integers(2**32))
        near, far = (
            sides.a.exact_step(
                _displaced(runs.state, distance, signs),
                _displaced({"": {"": inputs}}, distance, signs)[""][""],
                loss,
            )
            for distance in (_DISTANCE, 2 * _DISTANCE)
        )
        for one in suspects:
            role = one.quantity.item.removeprefix("gradient of ")
            name = one.quantity.layer
            g = (s.gradients[name][role] for s in (runs.exact_a, near, far))
            if _second_difference(*g) >= max(one.error_a, one.error_b) / _COMPARABLE:
                found.add(f"{name}.{role}")
    return tuple(sorted(found))


def _second_difference(at: NDArray[Any], near: NDArray[Any], far: NDArray[Any]) -> float:
    return largest(far - 2 * near + at)


def _displaced(state: Values, distance: float, seed: int) -> dict[str, dict[str, NDArray[Any]]]:
    generator = np.random.default_rng(seed)
    return {
        name: {
            role: array.astype(np.float64)
            * (1 + distance * generator.choice((-1.0, 1.0), size=array.shape))
            if is_float(array)
            else array
            for role, array in arrays.items()
        }
        for name, arrays in state.items()
    }
