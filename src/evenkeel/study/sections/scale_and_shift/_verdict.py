"""The numbers that decide, the rule, and the verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from evenkeel.report import Verdict
from evenkeel.study._statistics import OPTIMIZERS, above, below, measure, points
from evenkeel.study.sections.scale_and_shift._arms import start_name
from evenkeel.study.sections.scale_and_shift._plan import LATE, STARTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from evenkeel.report import Measure
    from evenkeel.study.sections._section import Measures
    from evenkeel.study.sections.scale_and_shift._arms import Arm, Side
    from evenkeel.study.sections.scale_and_shift._plan import Start
    from evenkeel.study.sections.scale_and_shift._records import Check

#: A start that costs less accuracy than this is harmless.
MARGIN: Final = 0.01
RULE: Final = (
    f"Accuracy at the end is the mean test accuracy over the last {LATE} recorded steps. Every "
    "start, and every choice of what is learned, is taken at its own best learning rate of the "
    "grid and compared, seed by seed, with the usual network: gamma from 1, beta from 0, both "
    "learned. With an optimizer, learning helps if the 95% confidence interval of the usual "
    "network minus the one with gamma and beta fixed at 1 and 0 lies above zero; another start is "
    f"harmless if the interval of its accuracy minus the usual one lies above -{100 * MARGIN:g} "
    "percentage point. The claim holds here if learning helps and every start is harmless with "
    "every optimizer. It does not hold here if learning helps with no optimizer, or if no start "
    "is harmless with any. Otherwise it depends on the start, the optimizer, or both, whichever "
    "makes a difference."
)


def measures_of(sides: Sequence[Side]) -> tuple[Measure, ...]:
    """Return the gains, the accuracies, and how well the formulas were met."""
    return tuple(found for side in sides for found in (*_of_side(side), *_formulas(side)))


def _of_side(side: Side) -> Iterator[Measure]:
    label = f"{side.name}: accuracy, learned minus fixed gamma and beta"
    yield measure(f"{side.optimizer}-learned", label, _gain(side.usual, side.fixed), "percent")
    for arm in side.starts:
        label = f"{side.name}: accuracy from {arm.name}, minus that from the usual start"
        values = _gain(arm, side.usual)
        yield measure(_start_key(side.optimizer, arm.start), label, values, "percent")
    for arm in side.arms:
        name = f"{side.optimizer}-accuracy-{arm.learned}-{arm.start[0]:g}-{arm.start[1]:g}"
        yield measure(name, f"{side.name}: accuracy, {arm.name}", arm.best.finals, "percent")


def _formulas(side: Side) -> Iterator[Measure]:
    """Per seed, over all runs: the largest errors where they are finite, and what lies outside."""
    seeds = [_checks_of_seed(side, number) for number in range(len(side.usual.best.records))]
    for what in ("gradient", "update"):
        worst = [[getattr(check, what) for check in checks] for checks in seeds]
        if all(values and None not in values for values in worst):
            label = (
                f"{side.name}: largest error of a {what} of gamma or beta, in units of its bound"
            )
            yield measure(f"{side.optimizer}-{what}-error", label, [max(v) for v in worst])
    label = f"{side.name}: gradients and updates of gamma and beta beyond their bounds"
    counts = [sum(check.outside for check in checks) for checks in seeds]
    yield measure(f"{side.optimizer}-outside", label, counts, "count")


def _checks_of_seed(side: Side, number: int) -> list[Check]:
    return [
        check for arm in side.arms for group in arm.groups for check in group.records[number].checks
    ]


def _gain(arm: Arm, other: Arm) -> list[float]:
    return [a - b for a, b in zip(arm.best.finals, other.best.finals, strict=True)]


def state_of(difference: Measure) -> Literal["harmless", "worse", "unclear"]:
    """Say what a start does, from its difference to the usual one, with the whole interval."""
    if above(difference, -MARGIN):
        return "harmless"
    return "worse" if below(difference, -MARGIN) else "unclear"


def starts_in(measures: Measures, optimizer: str) -> dict[Start, Measure]:
    """Return the differences of the other starts that were measured."""
    keys = {start: _start_key(optimizer, start) for start in STARTS}
    return {start: measures[key] for start, key in keys.items() if key in measures}


def judge(measures: Measures) -> Verdict:
    """Apply :data:`RULE`."""
    optimizers = [name for name in OPTIMIZERS if f"{name}-learned" in measures]
    gains = {name: measures[f"{name}-learned"] for name in optimizers}
    starts = {name: starts_in(measures, name) for name in optimizers}
    harmless = {
        name: {start for start, found in starts[name].items() if state_of(found) == "harmless"}
        for name in optimizers
    }
    reason = "; ".join(
        f"{OPTIMIZERS[name]}: learning gamma and beta changed the accuracy by "
        f"{points(gains[name])}, and {len(harmless[name])} of {len(starts[name])} other starts "
        "are harmless"
        for name in optimizers
    )
    helps = [above(gains[name]) for name in optimizers]
    if all(helps) and all(harmless[name] == set(starts[name]) for name in optimizers):
        return Verdict(kind="holds", words="holds here", reason=f"{reason}.")
    if not any(helps) or not any(harmless.values()):
        return Verdict(kind="fails", words="does not hold here", reason=f"{reason}.")
    partly = any(0 < len(harmless[name]) < len(starts[name]) for name in optimizers)
    differ = len(set(helps)) > 1 or len({frozenset(found) for found in harmless.values()}) > 1
    on = [what for what, true in (("the start", partly), ("the optimizer", differ)) if true]
    return Verdict(kind="depends", words=f"depends on {' and '.join(on)}", reason=f"{reason}.")


def describe(difference: Measure, start: Start) -> str:
    """Return a start with its difference in points."""
    return f"{start_name(start)} ({100 * difference.mean:+z.1f} points)"


def _start_key(optimizer: str, start: Start) -> str:
    return f"{optimizer}-start-{start[0]:g}-{start[1]:g}"
