"""The two proofs over training steps: step by step in float32, and free running in float64."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from evenkeel.tools._compare._bound import distance, largest
from evenkeel.tools._compare._losses import draw_batch
from evenkeel.tools._compare._records import ComparisonRow
from evenkeel.tools._compare._sides import as_double, is_float
from evenkeel.tools._compare._step import judge_step, jumps, run_step, statistics_size
from evenkeel.tools._compare._updates import Updates

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from evenkeel.dialects._layers import Values
    from evenkeel.dialects._network import Step
    from evenkeel.tools._compare._bound import Judged
    from evenkeel.tools._compare._losses import Losses
    from evenkeel.tools._compare._records import Stage
    from evenkeel.tools._compare._sides import Sides
    from evenkeel.tools._compare._step import JudgedStep, Sum
    from evenkeel.tools._compare._updates import Optimizer
    from evenkeel.tools._matching import Pair

#: Largest relative difference of two free runs in float64.
FREE: Final = 1e-7
#: Draws of a batch, until none of its gradients jumps within rounding.
_DRAWS: Final = 8
#: Further batches that measure the own error where one does not suffice.
_MEASURED: Final = 6


@dataclass(slots=True)
class Proof:
    """What training showed so far.

    Args:
        rows: by what they compare; of all steps the first that differs, or the tightest.
        failed: the first step of the step-by-step proof that differs.
        kinks: parameters whose gradient jumped at every draw of that step's batch.
        zero: parameters whose gradient is mathematically zero.
        remarks: in whole sentences.
    """

    rows: dict[tuple[str, ...], ComparisonRow] = field(
        default_factory=dict[tuple[str, ...], ComparisonRow]
    )
    failed: JudgedStep | None = None
    kinks: tuple[str, ...] = ()
    zero: dict[str, None] = field(default_factory=dict[str, None])
    remarks: dict[str, None] = field(default_factory=dict[str, None])

    def add(self, row: ComparisonRow) -> None:
        """Keep the row if it is the first that differs, or nearer to its bound than before."""
        key = (row.stage, row.optimizer or "", row.layer, row.target, row.item)
        before = self.rows.get(key)
        if before is None or (before.equal and (not row.equal or _use(row) > _use(before))):
            self.rows[key] = row

    def say(self, remarks: Iterable[str]) -> None:
        """Keep remarks once each."""
        self.remarks.update(dict.fromkeys(remarks))


def prove(
    sides: Sides, losses: Losses, steps: int, rule: Optimizer, sums: Mapping[str, Sum]
) -> Proof:
    """Both proofs with one update rule; the free run only where every single step agrees."""
    proof = Proof()
    _step_by_step(proof, sides, losses, steps, rule, sums)
    if proof.failed is None:
        _free_run(proof, sides, losses, steps, rule)
    return proof


def _step_by_step(
    proof: Proof,
    sides: Sides,
    losses: Losses,
    steps: int,
    rule: Optimizer,
    sums: Mapping[str, Sum],
) -> None:
    """Both sides start every step from the source's state; float64 gradients lead to the next."""
    updates, state = Updates(rule), as_double(sides.a.start)
    for number in range(steps):
        # What a float32 network holds is the state that all four passes start from.
        state = sides.a.put(state)
        step = _drawn(proof, sides, losses, number, state, sums)
        proof.zero.update(dict.fromkeys(step.zero))
        proof.say((*step.runs.a.remarks, *step.runs.b.remarks))
        for one in step.all:
            proof.add(_row(one, rule, number))
        if not step.equal:
            proof.failed = step
            return
        exact = step.runs.exact_a
        state = updates.apply(state, exact.gradients, exact.statistics)


def _drawn(
    proof: Proof,
    sides: Sides,
    losses: Losses,
    number: int,
    state: Values,
    sums: Mapping[str, Sum],
) -> JudgedStep:
    """One judged step, with a batch at which no gradient jumps within rounding if there is one."""
    step: JudgedStep | None = None
    kinks: tuple[str, ...] = ()
    for attempt in range(_DRAWS):
        samples = draw_batch(len(sides.inputs_a), number, attempt)
        loss = losses.of(samples)
        step = judge_step(sides, run_step(sides, state, samples, loss), loss, sums)
        suspects = step.suspects()
        # A function that differs in float64 differs for another reason than a kink.
        if not all(one.same for one in step.all) or (step.equal and not suspects):
            return step
        kinks = jumps(sides, step, loss, suspects) if suspects else ()
        if not kinks:
            return step if step.equal else _measured_again(sides, losses, number, step, sums)
        remark = (
            f"Step {number + 1} draws another batch: within rounding of the first one "
            f"gradients jump ({_named(kinks)}), as at the kink of an activation."
        )
        proof.say([remark])
    assert step is not None  # noqa: S101 - at least one draw is made
    step = step.without_jumps()
    proof.kinks = () if step.equal else kinks
    return step


def _measured_again(
    sides: Sides, losses: Losses, number: int, step: JudgedStep, sums: Mapping[str, Sum]
) -> JudgedStep:
    """Judge by the largest own error over more batches at the same state.

    The error of a tensor of few numbers is a random number, and one batch measures it badly.
    Batches near a kink are left out: they would make the error large.
    """
    others: list[JudgedStep] = []
    for attempt in range(_DRAWS, _DRAWS + _MEASURED):
        samples = draw_batch(len(sides.inputs_a), number, attempt)
        loss = losses.of(samples)
        runs = run_step(sides, step.runs.state, samples, loss)
        other = judge_step(sides, runs, loss, sums)
        if not other.is_jumping:
            others.append(other)
    return step.judged_with(others)


def _free_run(proof: Proof, sides: Sides, losses: Losses, steps: int, rule: Optimizer) -> None:
    """Both sides follow their own gradients in float64 from the same start."""
    state_a = as_double(sides.a.start)
    state_b = as_double({**sides.b.start, **sides.expected(sides.a.start)})
    updates_a, updates_b = Updates(rule), Updates(rule)
    trained = _trained_roles(sides)
    for number in range(steps):
        samples = draw_batch(len(sides.inputs_a), number)
        loss = losses.of(samples)
        a = sides.a.exact_step(state_a, sides.inputs_a[samples], loss)
        b = sides.b.exact_step(state_b, sides.inputs_b[samples], loss)
        state_a = updates_a.apply(state_a, a.gradients, a.statistics)
        kept = {
            name: {role: g for role, g in arrays.items() if (name, role) in trained}
            for name, arrays in b.gradients.items()
        }
        state_b = updates_b.apply(state_b, kept, b.statistics)
        rows = [_free_loss(a, b), *_free_rows(sides, state_a, state_b, proof)]
        for row in rows:
            proof.add(replace(row, optimizer=rule, step=number + 1))
        if not all(row.equal for row in rows):
            return


def _trained_roles(sides: Sides) -> set[tuple[str, str]]:
    """Of the target: what is made for it stays as it is."""
    return {
        (pair.target.name, role)
        for pair in sides.matching.pairs
        for role in pair.target.arrays
        if role in pair.source.arrays
    }


def _free_loss(a: Step, b: Step) -> ComparisonRow:
    error = abs(a.loss - b.loss)
    return _free_row("", "", "loss", error, abs(a.loss))


def _free_rows(
    sides: Sides, state_a: Values, state_b: Values, proof: Proof
) -> Iterator[ComparisonRow]:
    expected = sides.expected(state_a)
    for pair in sides.matching.pairs:
        arrays = expected.get(pair.target.name, {})
        for role, array in arrays.items():
            if role not in pair.source.arrays or not is_float(array):
                continue
            error = distance(state_b[pair.target.name][role], array)
            yield _free_row(
                pair.source.name,
                pair.target.name,
                role,
                error,
                _free_size(pair, role, arrays, proof),
            )


def _free_size(pair: Pair, role: str, arrays: dict[str, np.ndarray], proof: Proof) -> float:
    """What a difference is relative to.

    A parameter without a gradient drifts by rounding alone and may be 0 itself: what counts is
    the function, so that its size is that of the layer's kernel.
    """
    if f"{pair.source.name}.{role}" in proof.zero:
        return max(largest(array) for array in arrays.values())
    return statistics_size(role, arrays)


def _free_row(layer: str, target: str, item: str, error: float, size: float) -> ComparisonRow:
    bound = FREE * size
    return ComparisonRow(
        "free run", None, layer, target, item, None, 0.0, error, bound, error <= bound < np.inf
    )


def _row(judged: Judged, rule: Optimizer, number: int) -> ComparisonRow:
    q = judged.quantity
    stage: Stage = "step by step"
    note = "mathematically zero" if q.zero else ""
    if not judged.same:
        note = "another function: they differ in float64, too"
    return ComparisonRow(
        stage,
        rule,
        q.layer,
        q.target,
        q.item,
        number + 1,
        judged.error_a,
        judged.error_b,
        judged.bound,
        judged.equal,
        note,
    )


def _use(row: ComparisonRow) -> float:
    """How much of the bound a row needs."""
    if row.error_b == 0:
        return 0.0
    return row.error_b / row.bound if row.bound else np.inf


def _named(names: tuple[str, ...], shown: int = 3) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
