"""The findings in words and tables."""

from __future__ import annotations

import math
from statistics import fmean
from typing import TYPE_CHECKING

from evenkeel.report import Column, Findings, Highlight, Table
from evenkeel.study._statistics import OPTIMIZERS, measure, over_seeds, points
from evenkeel.study.sections.learning_rate._arms import arms_of, pairs_of
from evenkeel.study.sections.learning_rate._figures import figures
from evenkeel.study.sections.learning_rate._plan import TARGET
from evenkeel.study.sections.learning_rate._verdict import measures_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evenkeel.report import Cell
    from evenkeel.study._records import RunRecord
    from evenkeel.study.sections.learning_rate._arms import Arm


def reduce(records: Sequence[RunRecord]) -> Findings:
    """Turn the records, in the order of the plan, into findings."""
    arms = arms_of(records)
    pairs = pairs_of(arms)
    seeds = len({record.config.seed for record in records})
    return Findings(
        headline=_headline(*pairs[0]),
        answer="\n\n".join(
            [_overall(pairs), *(_answer(*pair) for pair in pairs), over_seeds(seeds)]
        ),
        highlights=_highlights(*pairs[0]),
        summary=_summary(arms),
        figures=figures(arms, seeds),
        tables=(_rates_table(arms),),
        measures=measures_of(pairs),
    )


def _overall(pairs: Sequence[tuple[Arm, Arm]]) -> str:
    """Answer the claim in one paragraph: the gains, averaged over networks and optimizers."""
    seeds = [
        pair
        for with_norm, without in pairs
        for pair in zip(with_norm.per_seed(), without.per_seed(), strict=True)
    ]
    rate = 10 ** fmean(a.largest - b.largest for a, b in seeds)
    width = fmean(a.width - b.width for a, b in seeds)
    steps = 2 ** fmean(math.log2(b.steps / a.steps) for a, b in seeds)
    gain = 100 * fmean(a.best - b.best for a, b in seeds)
    return (
        "Averaged over both networks and both optimizers, the largest rate that still trained was "
        f"{rate:.2g} times as large with batch norm as without, the range of rates was "
        f"{abs(width):.1f} decades {'wider' if width >= 0 else 'narrower'}, {TARGET:.0%} accuracy "
        f"took {1 / steps:.2f} times as many steps, and the best accuracy changed by "
        f"{gain:+z.1f} points."
    )


def _headline(with_norm: Arm, without: Arm) -> str:
    """One sentence on the widest effect: the range of rates."""
    name = with_norm.setting
    if not (with_norm.usable or without.usable):
        return f"{name}: {_best_of_neither(with_norm, without)}."
    if not with_norm.usable or not without.usable:
        return f"{name}: {_reach(with_norm)} with batch norm and {_reach(without)} without."
    new, old = with_norm.usable[-1], without.usable[-1]
    change = (
        f"raised the largest usable learning rate {new / old:.3g} times, from {old:g} to {new:g}"
    )
    if new == old:
        change = f"left the largest usable learning rate at {old:g}"
    elif new < old:
        change = f"lowered the largest usable learning rate from {old:g} to {new:g}"
    return (
        f"{name}: batch norm {change}; the best test accuracy was {with_norm.best.accuracy} "
        f"with it and {without.best.accuracy} without."
    )


def _answer(with_norm: Arm, without: Arm) -> str:
    """One paragraph per network and optimizer: rates, accuracy, speed, divergence."""
    name = with_norm.setting
    diverged = (
        f"{with_norm.diverged:.0%} of all runs diverged with and {without.diverged:.0%} without"
    )
    if not (with_norm.usable or without.usable):
        return f"{name}: {_best_of_neither(with_norm, without)}; {diverged}."
    return (
        f"{name}: {_reach(with_norm)} with batch norm, {_reach(without)} without; batch norm "
        f"changed the best accuracy by {_gap(with_norm, without)}; the fewest steps to "
        f"{TARGET:.0%} were {_steps(with_norm)} with and {_steps(without)} without; {diverged}."
    )


def _best_of_neither(with_norm: Arm, without: Arm) -> str:
    return (
        f"no rate brought every run of either network to {TARGET:.0%}; the best test accuracy was "
        f"{with_norm.best.accuracy} with and {without.best.accuracy} without batch norm"
    )


def _gap(with_norm: Arm, without: Arm) -> str:
    seeds = zip(with_norm.per_seed(), without.per_seed(), strict=True)
    return points(measure("gap", "", [a.best - b.best for a, b in seeds]))


def _reach(arm: Arm) -> str:
    """Say at which rates all seeds reach the target."""
    if not arm.usable:
        return f"no rate brought every run to {TARGET:.0%}"
    low, high = arm.usable[0], arm.usable[-1]
    if low == high:
        return f"only rate {low:g} brought every run to {TARGET:.0%}"
    return f"rates from {low:g} to {high:g} brought every run to {TARGET:.0%}"


def _steps(arm: Arm) -> str:
    fewest = arm.fewest_steps()
    return "never all" if fewest is None else f"{fewest:.0f}"


def _highlights(with_norm: Arm, without: Arm) -> tuple[Highlight, ...]:
    name = with_norm.setting
    rows = (
        ("best test accuracy", with_norm.best.accuracy, without.best.accuracy),
        ("largest usable rate", _largest(with_norm), _largest(without)),
        (f"fewest steps to {TARGET:.0%}", _steps(with_norm), _steps(without)),
    )
    return tuple(
        Highlight(
            label=f"{what}, {name}, with batch norm",
            value=value,
            other=f"without batch norm: {other}",
        )
        for what, value, other in rows
    )


def _largest(arm: Arm) -> str:
    return f"{arm.usable[-1]:g}" if arm.usable else "none"


def _summary(arms: tuple[Arm, ...]) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (
            arm.setting,
            "yes" if arm.batch_norm else "no",
            arm.best.accuracy,
            arm.best.rate,
            f"{arm.usable[0]:g}\N{EN DASH}{arm.usable[-1]:g}" if arm.usable else None,
            arm.fewest_steps(),
            arm.diverged,
        )
        for arm in arms
    ]
    return Table(
        name="learning-rate-summary",
        title="Learning rates with and without batch norm",
        columns=(
            Column(title="Setting"),
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
                    arm.network,
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
            Column(title="Network"),
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
