"""Section ``learning-rate``: which rates train, how fast, and how well.

From top to bottom: the rates, the plan, the answer in words, tables, figures, and at the end the
section itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from evenkeel.report import Axis, Column, Figure, Findings, Highlight, Measure, Panel, Series, Table
from evenkeel.study._curves import BAND, affine_figure, banded
from evenkeel.study._network import INITIALISATION
from evenkeel.study._plan import RunConfig, Scale
from evenkeel.study._records import OUTCOME_RULE
from evenkeel.study._statistics import OPTIMIZERS, Arm, Group, Spread, arms_of, decades
from evenkeel.study.sections._section import Section

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from evenkeel.report import Cell
    from evenkeel.study._records import RunRecord

#: Test accuracy that "reached" means in this section.
TARGET: Final = 0.9
#: Learning rates of each optimizer: five decades, two per decade; the same for both networks.
RATES: Final[dict[Literal["sgd", "adam"], tuple[float, ...]]] = {
    "sgd": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
    "adam": (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0),
}


def _plan(scale: Scale) -> tuple[RunConfig, ...]:
    """Every optimizer, network, rate and seed; a quick look takes one rate per decade."""
    return tuple(
        RunConfig(
            section="learning-rate",
            batch_norm=batch_norm,
            optimizer=optimizer,
            rate=rate,
            seed=seed,
            epochs=8 if scale.quick else 15,
            target=TARGET,
        )
        for optimizer, rates in RATES.items()
        for batch_norm in (True, False)
        for rate in (rates[::2] if scale.quick else rates)
        for seed in scale.seeds
    )


def _reduce(records: Sequence[RunRecord]) -> Findings:
    arms = arms_of(records)
    pairs = tuple((a, b) for a in arms for b in arms if _paired(a, b))
    seeds = len({record.config.seed for record in records})
    return Findings(
        headline=" ".join(_headline(*pair) for pair in pairs),
        answer="\n\n".join([*(_answer(*pair) for pair in pairs), _seeds(seeds)]),
        highlights=_highlights(*pairs[0]),
        summary=_summary(arms),
        figures=_figures(arms),
        tables=(_rates_table(arms),),
        measures=tuple(_measure(arm) for arm in arms),
    )


def _seeds(count: int) -> str:
    if count == 1:
        return "All numbers are from one seed, so there is no spread."
    return f"All numbers are means over {count} seeds; ± is the standard deviation."


def _measure(arm: Arm) -> Measure:
    best, count = arm.best.best, len(arm.best.records)
    return Measure(
        label=f"best test accuracy, {arm.label}",
        mean=best.mean,
        std=best.std if count > 1 else None,
        count=count,
    )


def _paired(a: Arm, b: Arm) -> bool:
    return a.optimizer == b.optimizer and a.batch_norm and not b.batch_norm


def _headline(with_norm: Arm, without: Arm) -> str:
    """One sentence on the widest effect: the range of rates."""
    name = OPTIMIZERS[with_norm.optimizer]
    if not (with_norm.ever_reaches_target or without.ever_reaches_target):
        return f"With {name}, {_best_of_neither(with_norm, without)}."
    if not with_norm.usable or not without.usable:
        return f"With {name}, {_reach(with_norm)} with batch norm and {_reach(without)} without."
    new, old = with_norm.usable[-1], without.usable[-1]
    change = (
        f"raised the largest usable learning rate {new / old:.3g} times, from {old:g} to {new:g}"
    )
    if new == old:
        change = f"left the largest usable learning rate at {old:g}"
    elif new < old:
        change = f"lowered the largest usable learning rate from {old:g} to {new:g}"
    return (
        f"With {name}, batch norm {change}; the best test accuracy was {with_norm.best.accuracy} "
        f"with it and {without.best.accuracy} without."
    )


def _answer(with_norm: Arm, without: Arm) -> str:
    """One paragraph per optimizer: rates, accuracy, speed, divergence."""
    name = OPTIMIZERS[with_norm.optimizer]
    diverged = (
        f"{with_norm.diverged:.0%} of all runs diverged with and {without.diverged:.0%} without"
    )
    if not (with_norm.ever_reaches_target or without.ever_reaches_target):
        return f"{name}: {_best_of_neither(with_norm, without)}; {diverged}."
    return (
        f"{name}: {_reach(with_norm)} with batch norm, {_reach(without)} without; at the best "
        f"rate of each, batch norm changed the accuracy by {_gap(with_norm, without)}; the fewest "
        f"steps to {TARGET:.0%} were {_steps(with_norm)} with and {_steps(without)} without; "
        f"{diverged}."
    )


def _best_of_neither(with_norm: Arm, without: Arm) -> str:
    return (
        f"neither network reached {TARGET:.0%}; the best test accuracy was "
        f"{with_norm.best.accuracy} with and {without.best.accuracy} without batch norm"
    )


def _gap(with_norm: Arm, without: Arm) -> str:
    a, b = with_norm.best, without.best
    gap = a.best.mean - b.best.mean
    points = f"{100 * gap:+.1f} points"
    if len(a.records) == len(b.records) == 1:
        return points
    clear = "more than" if abs(gap) > a.best.std + b.best.std else "within"
    return f"{points}, {clear} the spread over seeds"


def _reach(arm: Arm) -> str:
    """Say at which rates all seeds reach the target."""
    if not arm.usable:
        return f"no rate brought every run to {TARGET:.0%}"
    low, high = arm.usable[0], arm.usable[-1]
    if low == high:
        return f"only rate {low:g} brought every run to {TARGET:.0%}"
    return (
        f"rates from {low:g} to {high:g} ({decades(low, high):.1f} decades) brought every run "
        f"to {TARGET:.0%}"
    )


def _steps(arm: Arm) -> str:
    fewest = arm.fewest_steps()
    return "never all" if fewest is None else f"{fewest:.0f}"


def _highlights(with_norm: Arm, without: Arm) -> tuple[Highlight, ...]:
    name = OPTIMIZERS[with_norm.optimizer]
    return (
        Highlight(
            label=f"best test accuracy, {name}, with batch norm",
            value=with_norm.best.accuracy,
            other=f"without batch norm: {without.best.accuracy}",
        ),
        Highlight(
            label=f"largest usable rate, {name}, with batch norm",
            value=_largest(with_norm),
            other=f"without batch norm: {_largest(without)}",
        ),
        Highlight(
            label=f"fewest steps to {TARGET:.0%}, {name}, with batch norm",
            value=_steps(with_norm),
            other=f"without batch norm: {_steps(without)}",
        ),
    )


def _largest(arm: Arm) -> str:
    return f"{arm.usable[-1]:g}" if arm.usable else "none"


def _summary(arms: tuple[Arm, ...]) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (
            OPTIMIZERS[arm.optimizer],
            "with" if arm.batch_norm else "without",
            arm.best.accuracy,
            arm.best.rate,
            f"{arm.usable[0]:g} to {arm.usable[-1]:g}" if arm.usable else None,
            arm.fewest_steps(),
            arm.diverged,
        )
        for arm in arms
    ]
    return Table(
        name="learning-rate-summary",
        title="Learning rates with and without batch norm",
        columns=(
            Column(title="Optimizer"),
            Column(title="Batch norm"),
            Column(title="Best accuracy"),
            Column(title="At rate", format="rate"),
            Column(title=f"All reach {TARGET:.0%}"),
            Column(title="Fewest steps", format="count"),
            Column(title="Diverged", format="percent"),
        ),
        rows=tuple(rows),
    )


def _rates_table(arms: tuple[Arm, ...]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for arm in arms:
        for group in arm.groups:
            steps = group.steps_to_target()
            rows.append(
                (
                    OPTIMIZERS[arm.optimizer],
                    "with" if arm.batch_norm else "without",
                    group.rate,
                    group.best.mean,
                    group.final.mean,
                    None if steps is None else steps.mean,
                    group.share("trained"),
                    group.share("diverged"),
                    group.share("slow"),
                )
            )
    return Table(
        name="learning-rate-all",
        title="Every learning rate, means over the seeds",
        columns=(
            Column(title="Optimizer"),
            Column(title="Batch norm"),
            Column(title="Rate", format="rate"),
            Column(title="Best accuracy", format="percent"),
            Column(title="Final accuracy", format="percent"),
            Column(title=f"Steps to {TARGET:.0%}", format="count"),
            Column(title="Trained", format="percent"),
            Column(title="Diverged", format="percent"),
            Column(title="Too slow", format="percent"),
        ),
        rows=tuple(rows),
    )


def _figures(arms: tuple[Arm, ...]) -> tuple[Figure, ...]:
    normed = [(arm, what) for arm in arms if arm.batch_norm for what in ("gamma", "beta")]
    return (
        _accuracy_over_steps(arms),
        _accuracy_by_rate(arms),
        _diverged_by_rate(arms),
        _steps_by_rate(arms),
        *(
            affine_figure(
                arm.best.records[0],
                parameter,
                name=f"{parameter}-{arm.optimizer}",
                title=f"{parameter} over training steps, {OPTIMIZERS[arm.optimizer]}",
            )
            for arm, parameter in normed
        ),
    )


def _panels(arms: tuple[Arm, ...], series: Callable[[Arm, str, int], Series]) -> tuple[Panel, ...]:
    """Return one panel per optimizer, with both networks in it."""
    return tuple(
        Panel(
            title=OPTIMIZERS[optimizer],
            series=tuple(
                series(arm, "with batch norm" if arm.batch_norm else "without", 1 - arm.batch_norm)
                for arm in arms
                if arm.optimizer == optimizer
            ),
        )
        for optimizer in dict.fromkeys(arm.optimizer for arm in arms)
    )


def _accuracy_over_steps(arms: tuple[Arm, ...]) -> Figure:
    def series(arm: Arm, name: str, color: int) -> Series:
        steps, spreads = arm.best.over_steps()  # step 0 has no place on a logarithmic axis
        return banded(f"{name}, rate {arm.best.rate:g}", color, steps[1:], spreads[1:])

    def end(arm: Arm) -> str:
        steps, spreads = arm.best.over_steps()
        return f"{arm.label}: {spreads[-1].mean:.1%} after {steps[-1]} steps."

    return Figure(
        name="accuracy-over-steps",
        title="Test accuracy over training steps, each network at its best rate",
        caption=f"The axis of steps is logarithmic: most of it happens early. {BAND}",
        alt="Line plots of test accuracy over steps, one for each optimizer. "
        + " ".join(end(arm) for arm in arms),
        x=Axis(title="step", scale="log", format="count"),
        y=Axis(title="test accuracy", format="percent"),
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
        alt=f"Line plots over the learning rate, one for each optimizer. {title}. "
        + " ".join(f"{arm.label}: {say(arm)}." for arm in arms),
        x=Axis(title="learning rate", scale="log", format="rate"),
        y=y,
        panels=_panels(arms, series),
    )


def _accuracy_by_rate(arms: tuple[Arm, ...]) -> Figure:
    return _by_rate(
        arms,
        lambda group: group.best,
        name="accuracy-by-rate",
        title="Best test accuracy by learning rate",
        caption=f"The best accuracy at any recorded step of a run. {BAND}",
        say=lambda arm: f"{arm.best.best.mean:.1%} at {arm.best.rate:g}; {_reach(arm)}",
        y=Axis(title="best test accuracy", format="percent", limits=(0, 1.02)),
    )


def _diverged_by_rate(arms: tuple[Arm, ...]) -> Figure:
    return _by_rate(
        arms,
        lambda group: Spread.of([group.share("diverged")]),
        name="diverged-by-rate",
        title="Share of diverged runs by learning rate",
        caption="By the rule stated above; a run that is only too slow has not diverged.",
        say=lambda arm: f"{arm.diverged:.0%} of all runs diverged",
        y=Axis(title="diverged runs", format="percent", limits=(-0.04, 1.04)),
    )


def _steps_by_rate(arms: tuple[Arm, ...]) -> Figure:
    return _by_rate(
        arms,
        lambda group: group.steps_to_target(),
        name="steps-by-rate",
        title=f"Steps until {TARGET:.0%} test accuracy by learning rate",
        caption=f"Drawn only where every seed got there; lower is faster. {BAND}",
        say=lambda arm: f"{_steps(arm)} at the fewest",
        y=Axis(title=f"steps to {TARGET:.0%}", scale="log", format="count"),
    )


SECTION: Final = Section(
    name="learning-rate",
    title="Learning rate",
    claim=(
        "With batch normalization a network trains at larger learning rates, over a wider range "
        "of them, and in fewer steps."
    ),
    method=(
        (
            "The same network (three hidden layers of 256, 128 and 64 units with ReLU) is trained "
            "with batch norm between each linear layer and its ReLU, and without. Both start from "
            f"the same initialisation ({INITIALISATION}) and see the same grid of learning rates: "
            "0.001 to 100 for SGD without momentum, 0.00001 to 1 for Adam. Batches of 64, a "
            "constant rate, no weight decay, no dropout."
        ),
        (
            f"A rate counts as usable if every seed reaches {TARGET:.0%} test accuracy at some "
            "step; a network's best rate is the one with the highest best accuracy, averaged over "
            "seeds. "
            "Accuracy is measured with the running statistics, every 5 steps up to step 100."
        ),
        OUTCOME_RULE,
    ),
    plan=_plan,
    reduce=_reduce,
)
