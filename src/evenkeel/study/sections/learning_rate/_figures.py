"""The plots of the section."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from evenkeel.report import Axis, Figure, Panel
from evenkeel.study._curves import banded, caption
from evenkeel.study._statistics import Spread, grouped
from evenkeel.study.sections.learning_rate._plan import TARGET

if TYPE_CHECKING:
    from collections.abc import Callable

    from evenkeel.report import Series
    from evenkeel.study.sections.learning_rate._arms import Arm, Group


def figures(arms: tuple[Arm, ...], seeds: int) -> tuple[Figure, ...]:
    """Accuracy over steps, then accuracy, divergence and speed over the learning rate."""
    draw = partial(_by_rate, arms)
    return (
        _accuracy_over_steps(arms, seeds),
        draw(
            lambda group: group.best,
            name="accuracy-by-rate",
            title="Best test accuracy by learning rate",
            caption=caption("The best accuracy at any recorded step of a run.", seeds),
            say=lambda arm: f"{arm.best.best.mean:.1%} at {arm.best.rate:g}",
            y=Axis(title="best test accuracy", format="percent", limits=(0, 1.02)),
        ),
        draw(
            lambda group: Spread.of([group.share("diverged")]),
            name="diverged-by-rate",
            title="Share of diverged runs by learning rate",
            caption="By the rule stated above; a run that is only too slow has not diverged.",
            say=lambda arm: f"{arm.diverged:.0%} of all runs diverged",
            y=Axis(title="diverged runs", format="percent", limits=(-0.04, 1.04)),
        ),
        draw(
            lambda group: group.steps_to_target(),
            name="steps-by-rate",
            title=f"Steps until {TARGET:.0%} test accuracy by learning rate",
            caption=caption("Drawn only where every seed got there; lower is faster.", seeds),
            say=_fewest,
            y=Axis(title=f"steps to {TARGET:.0%}", scale="log", format="count"),
        ),
    )


def _panels(arms: tuple[Arm, ...], series: Callable[[Arm, str, int], Series]) -> tuple[Panel, ...]:
    """Return one panel per network and optimizer, with and without batch norm in it."""
    return tuple(
        Panel(
            title=setting,
            series=tuple(
                series(arm, "with batch norm" if arm.batch_norm else "without", 1 - arm.batch_norm)
                for arm in members
            ),
        )
        for setting, members in grouped(arms, lambda arm: arm.setting).items()
    )


def _accuracy_over_steps(arms: tuple[Arm, ...], seeds: int) -> Figure:
    def series(arm: Arm, name: str, color: int) -> Series:
        steps, spreads = arm.best.over_steps()  # step 0 has no place on a logarithmic axis
        return banded(f"{name}, rate {arm.best.rate:g}", color, steps[1:], spreads[1:])

    def end(arm: Arm) -> str:
        steps, spreads = arm.best.over_steps()
        return f"{arm.label}: {spreads[-1].mean:.1%} after {steps[-1]} steps."

    return Figure(
        name="accuracy-over-steps",
        title="Test accuracy over training steps, each network at its best rate",
        caption=caption("The axis of steps is logarithmic: most of it happens early.", seeds),
        alt="Line plots of test accuracy over steps, one for each network and optimizer. "
        + " ".join(end(arm) for arm in arms),
        x=Axis(title="step", scale="log", format="count"),
        y=Axis(title="test accuracy", format="percent", limits=(0, 1.02)),
        panels=_panels(arms, series),
    )


def _by_rate(
    arms: tuple[Arm, ...],
    value: Callable[[Group], Spread | None],
    *,
    name: str,
    title: str,
    caption: str,
    say: Callable[[Arm], str],
    y: Axis,
) -> Figure:
    """Draw one value of every group over the learning rate."""

    def series(arm: Arm, name: str, color: int) -> Series:
        rates = [group.rate for group in arm.groups]
        return banded(name, color, rates, [value(group) for group in arm.groups])

    return Figure(
        name=name,
        title=title,
        caption=caption,
        alt=f"Line plots over the learning rate, one for each network and optimizer. {title}. "
        + " ".join(f"{arm.label}: {say(arm)}." for arm in arms),
        x=Axis(title="learning rate", scale="log", format="rate"),
        y=y,
        panels=_panels(arms, series),
    )


def _fewest(arm: Arm) -> str:
    fewest = arm.fewest_steps()
    return "never all" if fewest is None else f"{fewest:.0f} at the fewest"
