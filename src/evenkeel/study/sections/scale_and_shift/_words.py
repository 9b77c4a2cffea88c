"""The findings in words and tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evenkeel.report import Column, Findings, Highlight, Table
from evenkeel.study._statistics import Spread, above, below, over_seeds, plus_minus, points
from evenkeel.study.sections.scale_and_shift._arms import LEARNED, lines, sides_of, start_name
from evenkeel.study.sections.scale_and_shift._figures import figures, size_over_steps, worst_by_step
from evenkeel.study.sections.scale_and_shift._verdict import (
    MARGIN,
    describe,
    measures_of,
    starts_in,
    state_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from evenkeel.report import Cell, Measure
    from evenkeel.study.sections.scale_and_shift._arms import Arm, Side
    from evenkeel.study.sections.scale_and_shift._plan import Start
    from evenkeel.study.sections.scale_and_shift._records import ScaleRecord


def reduce(records: Sequence[ScaleRecord]) -> Findings:
    """Turn the records, in the order of the plan, into findings."""
    sides = sides_of(records)
    measures = measures_of(sides)
    known = {found.name: found for found in measures}
    seeds = len({record.config.seed for record in records})
    return Findings(
        headline=_headline(sides, known),
        answer="\n\n".join(_answer(sides, known, seeds)),
        highlights=_highlights(sides, known),
        summary=_summary(sides, known),
        figures=figures(sides, seeds),
        tables=(_rates(sides), _ends(sides), _formulas(sides)),
        measures=measures,
    )


def _headline(sides: Sequence[Side], known: Mapping[str, Measure]) -> str:
    gains = " and ".join(
        f"{points(known[f'{side.optimizer}-learned'])} with {side.name}" for side in sides
    )
    return f"Learning gamma and beta changed the test accuracy by {gains}. {_counts(sides, known)}"


def _counts(sides: Sequence[Side], known: Mapping[str, Measure]) -> str:
    """Count what the other starts did, for each optimizer."""
    counted: list[str] = []
    for side in sides:
        states = [state_of(found) for found in starts_in(known, side.optimizer).values()]
        counted.append(
            f"from {states.count('worse')} with {side.name} (not from "
            f"{states.count('harmless')}, undecided for {states.count('unclear')})"
        )
    count = len(starts_in(known, sides[0].optimizer))
    return (
        f"Of {count} other starts, more than {100 * MARGIN:g} point of accuracy is lost "
        f"{' and '.join(counted)}."
    )


def _answer(sides: Sequence[Side], known: Mapping[str, Measure], seeds: int) -> Iterator[str]:
    """One paragraph for the claim, then the starts, the stuck ones, the way, the formulas."""
    gains = (
        f"With {side.name}, {_learning(side, known[f'{side.optimizer}-learned'])}."
        for side in sides
    )
    yield f"{' '.join(gains)} {_counts(sides, known)}"
    yield " ".join(
        f"With {side.name}: {_starts(starts_in(known, side.optimizer))}." for side in sides
    )
    yield from _stuck(sides)
    yield " ".join(_way(side) for side in sides)
    yield from _only(sides)
    yield from _held_against_formulas(sides)
    yield over_seeds(seeds)


def _learning(side: Side, gain: Measure) -> str:
    if above(gain):
        verb = "learning gamma and beta raised the test accuracy at the end"
    elif below(gain):
        verb = "learning gamma and beta lowered the test accuracy at the end"
    else:
        verb = "learning gamma and beta made no clear difference to the test accuracy at the end"
    text = f"{verb}: {_percent(side.usual)} learned, {_percent(side.fixed)} fixed at 1 and 0"
    learned, fixed = side.usual.best.loss(), side.fixed.best.loss()
    if learned is not None and fixed is not None:
        text += f" (training loss {learned:.3g} and {fixed:.3g})"
    return text


def _starts(starts: Mapping[Start, Measure]) -> str:
    """Sort the other starts by what they did to the accuracy."""
    words = {
        "harmless": f"starts that cost less than {100 * MARGIN:g} point, if anything:",
        "worse": f"starts that cost more than {100 * MARGIN:g} point:",
        "unclear": "undecided, as the interval allows both:",
    }
    named = {
        state: [describe(m, start) for start, m in starts.items() if state_of(m) == state]
        for state in words
    }
    return "; ".join(
        f"{text} {', '.join(named[state]) or 'none'}"
        for state, text in words.items()
        if named[state] or state == "harmless"
    )


def _stuck(sides: Sequence[Side]) -> Iterator[str]:
    """Name the starts from which gamma never moved, and say why a gamma of 0 is one."""
    stuck: dict[Start, list[str]] = {}
    for side in sides:
        for arm in side.starts:
            if arm.is_stuck:
                stuck.setdefault(arm.start, []).append(side.name)
    if not stuck:
        return
    named = "; ".join(f"{start_name(start)} ({', '.join(on)})" for start, on in stuck.items())
    text = f"From some starts gamma of no layer ever moved, at any rate: {named}."
    if any(gamma == 0 for gamma, _ in stuck):
        text += (
            " Where gamma is 0 in every layer, each of them gives beta for every sample: the next "
            "one gets equal values, so that its normalized input and with it its gradient of "
            "gamma are 0, and what goes back to the layer before is multiplied by gamma, which "
            "is 0 (equations 9 and 10). No learning rate helps. Goyal et al. start gamma at 0 "
            "only at the end of a residual branch, where the skip connection carries signal and "
            "gradient past it."
        )
    yield text


def _way(side: Side) -> str:
    """Say where gamma and beta of each layer went in the first run."""
    record = side.usual.best.records[0]
    gammas, betas = lines(record, "gamma"), lines(record, "beta")
    ends = [
        f"layer {number}: gamma {_range(gamma.low[-1], gamma.high[-1])}, "
        f"beta {_range(beta.low[-1], beta.high[-1])}"
        for number, (gamma, beta) in enumerate(zip(gammas, betas, strict=True), start=1)
    ]
    return (
        f"With {side.name}, the middle 80% of the channels ended in these ranges "
        f"(first seed, start at 1 and 0): {'; '.join(ends)}. {_sizes(side, len(gammas))}"
    )


def _sizes(side: Side, layers: int) -> str:
    """Say how large gamma was at the end, from each start above 0."""
    arms = [side.usual, *(arm for arm in side.starts if arm.start[0] > 0 and arm.start[1] == 0)]
    ends = [
        f"from {arm.start[0]:g} to {', '.join(_end(arm, layer) for layer in range(layers))}"
        for arm in arms
    ]
    return f"The root mean square of gamma in the layers, one by one, went: {'; '.join(ends)}."


def _end(arm: Arm, layer: int) -> str:
    spread = size_over_steps(arm, layer)[1][-1]
    return "not finite" if spread is None else f"{spread.mean:.3g}"


def _range(low: float | None, high: float | None) -> str:
    return "not finite" if low is None or high is None else f"{low:.3g} to {high:.3g}"


def _only(sides: Sequence[Side]) -> Iterator[str]:
    reached = [f"{_percent(side.only)} with {side.name}" for side in sides if side.only]
    if reached:
        yield (
            "Learning nothing but gamma and beta, with all weights left as they were drawn, "
            f"reached {' and '.join(reached)}."
        )


def _held_against_formulas(sides: Sequence[Side]) -> Iterator[str]:
    checks = [check for side in sides for check in side.checks()]
    if not checks:
        return
    total = 2 * sum(check.channels for check in checks)
    outside = sum(check.outside for check in checks)
    errors = [
        f"{what} {'not finite' if largest is None else f'{largest:.3g} of its bound'}"
        for what, largest in (
            ("gradient", _largest([check.gradient for check in checks])),
            ("update", _largest([check.update for check in checks])),
        )
    ]
    yield (
        f"Of {total:,} gradients and updates of single gammas and betas that were held against "
        f"the written formulas, {outside:,} differed by more than float32 may; the largest error "
        f"of a {errors[0]}, of an {errors[1]}."
    )


def _largest(errors: Sequence[float | None]) -> float | None:
    known = [error for error in errors if error is not None]
    return max(known) if len(known) == len(errors) else None


def _percent(arm: Arm) -> str:
    return plus_minus(Spread.of(arm.best.finals), len(arm.best.finals))


def _highlights(sides: Sequence[Side], known: Mapping[str, Measure]) -> tuple[Highlight, ...]:
    first = sides[0]
    starts = starts_in(known, first.optimizer)
    harmless = sum(state_of(found) == "harmless" for found in starts.values())
    checks = [check for side in sides for check in side.checks()]
    outside = sum(check.outside for check in checks)
    return (
        Highlight(
            label=f"gain from learning gamma and beta, {first.name}",
            value=f"{100 * known[f'{first.optimizer}-learned'].mean:+z.1f} points",
            other=f"{_percent(first.usual)} learned, {_percent(first.fixed)} fixed",
        ),
        Highlight(
            label=f"other starts of gamma and beta that do no harm, {first.name}",
            value=f"{harmless} of {len(starts)}",
            other=f"harm: more than {100 * MARGIN:g} point lost",
        ),
        Highlight(
            label="gradients and updates that differ from the written formula",
            value=f"{outside:,}",
            other=f"of {2 * sum(check.channels for check in checks):,} held against it",
        ),
    )


def _summary(sides: Sequence[Side], known: Mapping[str, Measure]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for side in sides:
        starts = starts_in(known, side.optimizer)
        for arm in side.arms:
            found = starts.get(arm.start) if arm in side.starts else None
            rows.append(
                (
                    side.name,
                    LEARNED[arm.learned],
                    arm.start[0],
                    arm.start[1],
                    arm.best.rate,
                    _percent(arm),
                    None if found is None else state_of(found),
                )
            )
    return Table(
        name="scale-and-shift-summary",
        title="Accuracy at the end by start, and by what is learned",
        columns=(
            Column(title="Opt."),
            Column(title="Learned"),
            Column(title="Gamma", format="number"),
            Column(title="Beta", format="number"),
            Column(title="Best rate", format="rate"),
            Column(title="Accuracy"),
            Column(title="Start is"),
        ),
        rows=tuple(rows),
    )


def _rates(sides: Sequence[Side]) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (
            side.name,
            LEARNED[arm.learned],
            *arm.start,
            group.rate,
            Spread.of(group.finals).mean,
            group.loss(),
        )
        for side in sides
        for arm in side.arms
        for group in arm.groups
    ]
    return Table(
        name="scale-and-shift-all",
        title="Every start and learning rate, means over the seeds",
        columns=(
            Column(title="Optimizer"),
            Column(title="Learned"),
            Column(title="Gamma", format="number"),
            Column(title="Beta", format="number"),
            Column(title="Rate", format="rate"),
            Column(title="Accuracy at the end", format="percent"),
            Column(title="Training loss at the end", format="number"),
        ),
        rows=tuple(rows),
    )


def _ends(sides: Sequence[Side]) -> Table:
    """Gamma and beta at the end of the runs that the figures of them show."""
    rows: list[tuple[Cell, ...]] = [
        (
            side.name,
            number,
            parameter,
            *(column[-1] for column in (line.mean, line.min, line.low, line.median)),
            *(column[-1] for column in (line.high, line.max)),
        )
        for side in sides
        for parameter in ("gamma", "beta")
        for number, line in enumerate(lines(side.usual.best.records[0], parameter), start=1)
    ]
    titles = ("Mean", "Smallest", "10% quantile", "Median", "90% quantile", "Largest")
    return Table(
        name="scale-and-shift-ends",
        title="Gamma and beta over the channels at the end, usual start, first seed",
        columns=(
            Column(title="Optimizer"),
            Column(title="Layer", format="count"),
            Column(title="Parameter"),
            *(Column(title=title, format="number") for title in titles),
        ),
        rows=tuple(rows),
    )


def _formulas(sides: Sequence[Side]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for side in sides:
        for parameter in ("gamma", "beta"):
            for step, gradient in worst_by_step(side, parameter).items():
                checks = [c for c in side.checks() if (c.step, c.parameter) == (step, parameter)]
                rows.append(
                    (
                        side.name,
                        step,
                        parameter,
                        gradient,
                        _largest([check.update for check in checks]),
                        2 * sum(check.channels for check in checks),
                        sum(check.outside for check in checks),
                    )
                )
    return Table(
        name="scale-and-shift-formulas",
        title="Gradients and updates against the written formulas, all starts, rates and seeds",
        columns=(
            Column(title="Optimizer"),
            Column(title="Step", format="count"),
            Column(title="Parameter"),
            Column(title="Gradient: largest error / bound", format="number"),
            Column(title="Update: largest error / bound", format="number"),
            Column(title="Compared", format="count"),
            Column(title="Beyond the bound", format="count"),
        ),
        rows=tuple(rows),
    )
