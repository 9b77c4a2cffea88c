"""Why one training step differs, from what both sides did in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from evenkeel.tools._compare._bound import distance, largest
from evenkeel.tools._compare._causes import inference_causes
from evenkeel.tools._compare._inference import compare_exact
from evenkeel.tools._compare._records import Cause

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from evenkeel.spec import Spec
    from evenkeel.tools._compare._bound import Judged
    from evenkeel.tools._compare._inference import Inference
    from evenkeel.tools._compare._sides import Sides
    from evenkeel.tools._compare._step import JudgedStep
    from evenkeel.tools._compare._training import Proof
    from evenkeel.tools._matching import Pair

#: Relative difference of two ratios that count as one number.
_EXACT: Final = 1e-6


def training_causes(sides: Sides, proof: Proof) -> tuple[Cause, ...]:
    """Why the first step that differs does so, the likeliest cause first.

    What shows in inference from the same state (eps, padding, layout, an activation) comes
    first, then what only training shows.
    """
    step = proof.failed
    if step is None:
        return ()
    if proof.kinks:
        return (_kink(proof.kinks),)
    if all(one.same for one in step.all):
        return (_rounding(step),)
    state = step.runs.state
    inference = compare_exact(sides, state)
    found = inference_causes(sides, inference, state, sides.expected(state))
    found = tuple(cause for cause in found if cause.code != "unknown")
    found += tuple(_by_statistics(sides, step, inference))
    found += tuple(_by_gradients(sides, step))
    return found or (_unknown(step),)


def free_causes(proof: Proof) -> tuple[Cause, ...]:
    """Why free runs part although every single step agrees."""
    failed = [row for row in proof.rows.values() if row.stage == "free run" and not row.equal]
    if not failed:
        return ()
    first = min(failed, key=lambda row: row.step or 0)
    evidence = (
        f"{first.item} differs by {first.error_b:.2g} at step {first.step} of the free run, "
        "while every step from an equal state agrees: a state that is not among the arrays of "
        "the layers, or a network that amplifies rounding"
    )
    return (Cause("unknown", first.layer, evidence),)


def _by_statistics(sides: Sides, step: JudgedStep, inference: Inference) -> Iterator[Cause]:
    """From the running statistics of the first batch norm whose update differs."""
    different = {one.quantity.target for one in step.forward if not one.same}
    values = {call.pair.target.name: call.output.quantity.exact.size for call in inference.calls}
    share = len(step.runs.samples) / len(sides.inputs_a)
    for pair in sides.matching.pairs:
        one, two = pair.source.spec, pair.target.spec
        if one is None or two is None or pair.target.name not in different:
            continue
        update = _Update(sides, step, pair)
        if update.is_missing:
            yield _missing_update(pair, one, two, step)
            return
        channels = max(one.channels, 1)
        count = round(values.get(pair.target.name, 0) / channels * share)
        found = tuple(_by_increments(pair, one, two, update, count))
        yield from found
        if found:
            return


class _Update:
    """How one training pass moved the running statistics of a batch norm, on both sides."""

    def __init__(self, sides: Sides, step: JudgedStep, pair: Pair) -> None:
        runs = step.runs
        old = sides.expected(runs.state)[pair.target.name]
        name = pair.source.name
        state = {**runs.state[name], **runs.exact_a.statistics.get(name, {})}
        new = sides.expected({**runs.state, name: state})[pair.target.name]
        held = runs.exact_b.statistics.get(pair.target.name, {})
        roles = [r for r in ("running_mean", "running_var") if r in old and r in held]
        self.old = {role: old[role] for role in roles}
        self.of_a = {role: new[role] - old[role] for role in roles}
        self.of_b = {role: held[role] - old[role] for role in roles}

    @property
    def is_missing(self) -> bool:
        """Whether the source's statistics move and the target's stay."""
        moves = any(largest(array) > 0 for array in self.of_a.values())
        return moves and all(
            largest(array) <= 1e-12 * max(largest(self.old[role]), largest(self.of_a[role]))
            for role, array in self.of_b.items()
        )

    def ratio(self, role: str) -> float | None:
        """The one number that the target's increments are of the source's, if there is one."""
        if role not in self.of_a:
            return None
        return _one_ratio(self.of_a[role], self.of_b[role])


def _missing_update(pair: Pair, one: Spec, two: Spec, step: JudgedStep) -> Cause:
    """Frozen where the running statistics normalize, too, so that the output differs."""
    name = pair.source.name
    evidence = (
        "a training pass moves the running statistics of a and leaves those of b as they were"
    )
    differs = any(not o.same for o in step.forward if o.quantity.item == "output")
    if differs or (two.statistics_frozen and not one.statistics_frozen):
        evidence += ", and the output differs: in b they normalize in training, too"
        return Cause("frozen", name, evidence)
    evidence += "; the output agrees"
    return Cause("missing statistics update", name, evidence)


def _by_increments(
    pair: Pair, one: Spec, two: Spec, update: _Update, count: int
) -> Iterator[Cause]:
    """Momentum from the means, the variance convention from the variances under it."""
    ratio = update.ratio("running_mean")
    if ratio is None:
        ratio = 1.0
    elif abs(ratio - 1) > _EXACT:
        yield _momentum(pair, one, two, ratio)
    weight = one.momentum.new_weight(1 if one.momentum.is_cumulative else 2)
    if "running_var" not in update.of_a or not weight or not ratio:
        return
    old = update.old["running_var"]
    batch_a = old + update.of_a["running_var"] / weight
    batch_b = old + update.of_b["running_var"] / (weight * ratio)
    factor = _one_ratio(batch_a, batch_b)
    if factor is None or count < 2 or abs(factor - 1) <= _EXACT / count:
        return
    bessel = count / (count - 1)
    for expected, words in ((bessel, "n/(n-1)"), (1 / bessel, "(n-1)/n")):
        if abs(factor / expected - 1) <= _EXACT / count:
            yield Cause(
                "variance convention",
                pair.source.name,
                f"the variance that b adds is {factor:.9g} times a's, which is {words} for "
                f"n = {count} values per channel: a stores the {one.variance} variance, b the "
                f"{two.variance} one",
            )


def _momentum(pair: Pair, one: Spec, two: Spec, ratio: float) -> Cause:
    """Its sense is wrong where the weight that one side gives the new value is the other's old."""
    said = f"a weighs the {_said(one)}, b the {_said(two)}"
    evidence = f"b moves the running mean {ratio:.6g} times as far as a; {said}"
    if one.momentum.value is None or two.momentum.value is None:
        return Cause("momentum value", pair.source.name, evidence)
    weight = one.momentum.new_weight(2)
    swapped = 0 < weight < 1 and abs(ratio * weight / (1 - weight) - 1) <= _EXACT
    code = "momentum sense" if swapped and abs(weight - 0.5) > _EXACT else "momentum value"
    return Cause(code, pair.source.name, evidence)


def _said(spec: Spec) -> str:
    momentum = spec.momentum
    if momentum.value is None:
        return "new value by 1/t (cumulative)"
    return f"{momentum.weighs} value by {momentum.value:g}"


def _by_gradients(sides: Sides, step: JudgedStep) -> Iterator[Cause]:
    """From parameters that only one side trains, and gradients in another order."""
    runs = step.runs
    for pair in sides.matching.pairs:
        ours = set(runs.a.gradients.get(pair.source.name, {}))
        theirs = set(runs.b.gradients.get(pair.target.name, {}))
        common = set(pair.source.arrays) & set(pair.target.arrays)
        for side, roles in (("b", common & (ours - theirs)), ("a", common & (theirs - ours))):
            if roles:
                listed = ", ".join(sorted(roles))
                evidence = f"{listed} of it gets no gradient in {side}, and one on the other side"
                yield Cause("frozen", pair.source.name, evidence)
    yield from _by_mode(sides)


def _by_mode(sides: Sides) -> Iterator[Cause]:
    """A batch norm that is frozen in its description on one side only."""
    for pair in sides.matching.pairs:
        one, two = pair.source.spec, pair.target.spec
        if one is None or two is None or one.statistics_frozen == two.statistics_frozen:
            continue
        side = "a" if one.statistics_frozen else "b"
        evidence = f"its statistics are frozen in {side} and move on the other side"
        yield Cause("frozen", pair.source.name, evidence)


def _kink(names: tuple[str, ...]) -> Cause:
    return Cause(
        "kink",
        names[0].rpartition(".")[0],
        f"in float64 both sides agree; in float32 the gradient of {names[0]} jumps within "
        "rounding of every batch that was drawn; compare with fewer samples or positions",
    )


def _rounding(step: JudgedStep) -> Cause:
    worst: Judged = max((one for one in step.all if not one.equal), key=lambda one: one.ratio)
    q = worst.quantity
    evidence = (
        f"both sides agree in float64; in float32 the {q.item} of b is off by {worst.error_b:.2g}, "
        f"that of a by {worst.error_a:.2g}: b computes the same function less exactly"
    )
    return Cause("rounding", q.layer, evidence)


def _unknown(step: JudgedStep) -> Cause:
    first = next(one for one in step.all if not one.equal)
    q = first.quantity
    evidence = (
        f"from an equal state inference agrees, and the {q.item} of a training pass differs by "
        f"up to {first.error_b:.2g}"
    )
    return Cause("unknown", q.layer, evidence)


def _one_ratio(one: NDArray[Any], two: NDArray[Any]) -> float | None:
    """The number c with two = c one, or None."""
    square = float(np.sum(one * one))
    if square == 0 or one.shape != two.shape:
        return None
    ratio = float(np.sum(one * two)) / square
    return ratio if distance(two, ratio * one) <= _EXACT * largest(two) else None
