"""The plots of the section."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from evenkeel.report import Axis, Figure, Panel, Series
from evenkeel.study._curves import banded, caption
from evenkeel.study._statistics import Spread
from evenkeel.study.sections.scale_and_shift._arms import lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evenkeel.study.sections.scale_and_shift._arms import Arm, Side
    from evenkeel.study.sections.scale_and_shift._records import ScaleRecord, Trajectory

_STEP: Final = Axis(title="step", format="count")


def figures(sides: Sequence[Side], seeds: int) -> tuple[Figure, ...]:
    """Accuracy by start, gamma and beta of one run, gamma by start, formulas."""
    return (
        _accuracy(sides, seeds),
        _trajectories(sides, "gamma"),
        _trajectories(sides, "beta"),
        _sizes(sides, seeds),
        _formulas(sides),
    )


def _accuracy(sides: Sequence[Side], seeds: int) -> Figure:
    def line(side: Side, arm: Arm) -> Series:
        color = [side.usual, side.fixed, *side.starts].index(arm)
        return banded(arm.name, color, *arm.best.over_steps())

    def panel(side: Side, what: str, arms: Sequence[Arm]) -> Panel:
        series = tuple(line(side, arm) for arm in arms)
        return Panel(title=f"{side.name}, by {what}", series=series)

    ends = "; ".join(
        f"{side.name}, {arm.name}: {Spread.of(arm.best.finals).mean:.1%}"
        for side in sides
        for arm in side.arms
    )
    return Figure(
        name="accuracy-by-start",
        title="Test accuracy over training steps, each start at its best rate",
        caption=caption(
            "The usual start is gamma 1, beta 0. Gamma starts alike in all layers, and so does "
            "beta.",
            seeds,
        ),
        alt=f"Line plots of test accuracy over steps. At the end: {ends}.",
        x=_STEP,
        y=Axis(title="test accuracy", format="percent", limits=(0, 1.02)),
        panels=(
            *(panel(s, "initial gamma", [s.usual, s.fixed, *_by_gamma(s)]) for s in sides),
            *(panel(s, "initial beta", [s.usual, *_by_beta(s)]) for s in sides),
        ),
    )


def _by_gamma(side: Side) -> list[Arm]:
    return [arm for arm in side.starts if arm.start[1] == 0]


def _by_beta(side: Side) -> list[Arm]:
    return [arm for arm in side.starts if arm.start[1] != 0]


def _trajectories(sides: Sequence[Side], parameter: str) -> Figure:
    """Draw gamma or beta of every layer over one run of each optimizer, from the usual start."""
    runs = {side.name: side.usual.best.records[0] for side in sides}
    layers = [line.layer for line in lines(next(iter(runs.values())), parameter)]
    ends = "; ".join(
        f"{name}, layer {number}: mean {line.mean[-1]:.3g}, from {line.min[-1]:.3g} to "
        f"{line.max[-1]:.3g}"
        for name, record in runs.items()
        for number, line in enumerate(lines(record, parameter), start=1)
        if line.mean[-1] is not None and line.min[-1] is not None and line.max[-1] is not None
    )
    return Figure(
        name=f"{parameter}-over-steps",
        title=f"{parameter.capitalize()} over training steps, from the usual start",
        caption=(
            "One run of each optimizer at its best rate, first seed. The thick line is the mean "
            "over the channels of a layer, the band holds the middle 80% of them, thin lines are "
            "single channels."
        ),
        alt=f"Line plots of {parameter} over steps for each batch-norm layer. At the end: {ends}.",
        x=_STEP,
        y=Axis(title=parameter),
        panels=tuple(
            Panel(
                title=f"layer {number + 1}",
                series=tuple(
                    series
                    for color, (name, record) in enumerate(runs.items())
                    for series in _spread(name, color, record, lines(record, parameter)[number])
                ),
            )
            for number in range(len(layers))
        ),
    )


def _spread(name: str, color: int, record: ScaleRecord, line: Trajectory) -> tuple[Series, ...]:
    steps = tuple(map(float, record.steps))
    dash = "dash" if color else "solid"
    return (
        *(
            Series(
                name=f"{name}, channel {channel}",
                x=steps,
                y=values,
                color=color,
                dash=dash,
                markers=False,
                faint=True,
            )
            for channel, values in line.channels.items()
        ),
        Series(
            name=f"{name}, mean",
            x=steps,
            y=line.mean,
            low=line.low,
            high=line.high,
            color=color,
            dash=dash,
            markers=False,
        ),
    )


def _sizes(sides: Sequence[Side], seeds: int) -> Figure:
    """Draw the size of gamma over steps from each start above 0, in the first and last layer."""
    drawn = [
        (side, [side.usual, *(arm for arm in _by_gamma(side) if arm.start[0] > 0)])
        for side in sides
    ]
    count = len(lines(sides[0].usual.best.records[0], "gamma"))
    numbers = sorted({0, count - 1})
    ends = "; ".join(
        f"{side.name}, layer {number + 1}, from {arm.start[0]:g}: {spread.mean:.3g}"
        for side, arms in drawn
        for number in numbers
        for arm in arms
        if (spread := size_over_steps(arm, number)[1][-1]) is not None
    )
    return Figure(
        name="gamma-by-start",
        title="Size of gamma over training steps, by its start",
        caption=caption(
            "The root mean square of gamma over the channels of a layer, on a logarithmic axis, "
            "each start at its best rate and with beta from 0. A gamma of 0 has no place here.",
            seeds,
        ),
        alt=f"Line plots of the size of gamma over steps. At the end: {ends}.",
        x=_STEP,
        y=Axis(title="root mean square of gamma", scale="log"),
        panels=tuple(
            Panel(
                title=f"{side.name}, layer {number + 1}",
                series=tuple(
                    banded(f"gamma from {arm.start[0]:g}", color, *size_over_steps(arm, number))
                    for color, arm in enumerate(arms)
                ),
            )
            for side, arms in drawn
            for number in numbers
        ),
    )


def size_over_steps(arm: Arm, layer: int) -> tuple[tuple[int, ...], list[Spread | None]]:
    """Return the size of gamma over the steps that all runs recorded."""
    lookups = [
        dict(zip(record.steps, lines(record, "gamma")[layer].size, strict=True))
        for record in arm.best.records
    ]
    common = tuple(step for step in lookups[0] if all(step in look for look in lookups))
    columns = [[look[step] for look in lookups] for step in common]
    finite = [[value for value in column if value is not None] for column in columns]
    return common, [Spread.of(known) if len(known) == len(lookups) else None for known in finite]


def _formulas(sides: Sequence[Side]) -> Figure:
    """Draw the largest errors of autograd's gradients over the checked steps."""

    def line(side: Side, color: int, parameter: str) -> Series:
        worst = worst_by_step(side, parameter)
        return Series(
            name=side.name,
            x=tuple(map(float, worst)),
            y=tuple(worst.values()),
            color=color,
            dash="dash" if color else "solid",
        )

    def bound(steps: Sequence[float]) -> Series:
        y = (1.0,) * len(steps)
        return Series(name="bound", x=tuple(steps), y=y, color=5, dash="dot", markers=False)

    panels: list[Panel] = []
    for parameter in ("gamma", "beta"):
        drawn = [line(side, color, parameter) for color, side in enumerate(sides)]
        panels.append(Panel(title=f"gradient of {parameter}", series=(*drawn, bound(drawn[0].x))))
    largest = max(
        (y for p in panels for s in p.series[:-1] for y in s.y if y is not None), default=0
    )
    return Figure(
        name="formula-gradients",
        title="Autograd's gradients against the written formula",
        caption=(
            "Largest error over all channels, layers, starts, rates and seeds, in units of the "
            "bound on what float32 may do; the formula is evaluated in float64."
        ),
        alt=f"Line plots of errors over steps; the largest is {largest:.2g} of its bound.",
        x=_STEP,
        y=Axis(title="error / bound", scale="log"),
        panels=tuple(panels),
    )


def worst_by_step(side: Side, parameter: str) -> dict[int, float | None]:
    """Return the largest error of a gradient at each checked step, None if not finite."""
    found: dict[int, list[float | None]] = {}
    for check in side.checks():
        if check.parameter == parameter:
            found.setdefault(check.step, []).append(check.gradient)
    known = {step: [v for v in found[step] if v is not None] for step in sorted(found)}
    return {
        step: max(values) if len(values) == len(found[step]) else None
        for step, values in known.items()
    }
