"""The findings in words and tables."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

from evenkeel.report import Column, Findings, Highlight, Table
from evenkeel.study._statistics import above, below, over_seeds
from evenkeel.study.sections.covariate_shift._arms import arms_of, comparisons_of, noisy
from evenkeel.study.sections.covariate_shift._figures import figures
from evenkeel.study.sections.covariate_shift._verdict import (
    RATIOS,
    factor,
    measures_of,
    refuted,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evenkeel.report import Cell, Measure
    from evenkeel.study.sections._section import Measures
    from evenkeel.study.sections.covariate_shift._arms import Arm, Comparison
    from evenkeel.study.sections.covariate_shift._run import ShiftRecord


def reduce(records: Sequence[ShiftRecord]) -> Findings:
    """Turn the records, in the order of the plan, into findings."""
    arms = arms_of(records)
    comparisons = comparisons_of(arms)
    noise = noisy(arms)
    seeds = len({record.config.seed for record in records})
    found = measures_of(comparisons, noise)
    measures = {measure.name: measure for measure in found}
    return Findings(
        headline=_headline(comparisons[0], measures),
        answer="\n\n".join(_paragraphs(comparisons, noise, measures, seeds)),
        highlights=_highlights(comparisons[0]),
        summary=_summary(arms),
        figures=figures(comparisons, noise, seeds),
        tables=(_all(arms),),
        measures=found,
    )


def _headline(common: Comparison, measures: Measures) -> str:
    """One sentence: the three answers at the common rate, as factors."""
    ratio = {name: 10 ** measures[f"common-{name}"].mean for name in RATIOS}
    return (
        f"With {_at(common)}, batch norm multiplied the drift of the layers' inputs by "
        f"{ratio['drift']:.2g}, the change of gradients caused by the layers below by "
        f"{ratio['change']:.2g}, and the effective beta-smoothness of the loss by "
        f"{ratio['beta']:.2g}."
    )


def _at(comparison: Comparison) -> str:
    return comparison.label.replace("both", "both networks").replace("each", "each network")


def _paragraphs(
    comparisons: Sequence[Comparison], noise: Arm, measures: Measures, seeds: int
) -> list[str]:
    common, best = comparisons
    effects = " ".join(_effect(comparison, measures) for comparison in comparisons)
    return [
        f"{_headline(common, measures)} {effects} {_noise_in_short(measures)}",
        _three(common, measures),
        _three(best, measures),
        _noise(common, noise, measures),
        over_seeds(seeds, f"All factors are geometric means over steps, layers and {seeds} seeds."),
    ]


def _effect(comparison: Comparison, measures: Measures) -> str:
    """One sentence: whether the shift is smaller, and whether training is faster with it."""
    speed = _speed(measures[f"{comparison.name}-loss"])
    smaller = [
        what
        for name, what in (("drift", "drift"), ("change", "change of gradients"))
        if below(measures[f"{comparison.name}-{name}"])
    ]
    which = {0: "neither shift was", 1: f"only the {smaller[0] if smaller else ''} was"}
    shift = which.get(len(smaller), "both shifts were")
    label = comparison.label
    return (
        f"{label[0].upper()}{label[1:]}, {shift} clearly smaller, and batch norm trained {speed}."
    )


def _noise_in_short(measures: Measures) -> str:
    if refuted(measures):
        return (
            "A network whose batch norm was made to drift more than the network without batch "
            "norm still trained faster than that one, so less drift cannot be the reason."
        )
    drift, loss = measures["noise-drift"], measures["noise-loss"]
    return (
        "A network with noise added after batch norm drifted "
        f"{10**drift.mean:.2g} times as much as the one without batch norm and trained "
        f"{_speed(loss)}, which by the rule does not refute the claim."
    )


def _speed(loss: Measure) -> str:
    """Say what a difference in mean training loss means."""
    return "faster" if below(loss) else "slower" if above(loss) else "neither faster nor slower"


def _three(comparison: Comparison, measures: Mapping[str, Measure]) -> str:
    """One paragraph: drift, change of gradients, smoothness, and who trained faster."""

    def say(name: str) -> str:
        return factor(measures[f"{comparison.name}-{name}"])

    label = comparison.label
    return (
        f"{label[0].upper()}{label[1:]}, with batch norm held against without: (a) the drift of "
        f"the layers' inputs is {say('drift')}, and since the start {say('from-start')}; (b) the "
        f"change of gradients by updates below is {say('change')}, at a mean cosine of "
        f"{_cosine(comparison.with_norm)} with and {_cosine(comparison.without)} without; (c) the "
        f"range of the loss along the gradient is {say('range')}, the relative change of the "
        f"gradient {say('gradient')}, and the effective beta {say('beta')}. The mean training "
        f"loss is {_loss(comparison.with_norm)} with and {_loss(comparison.without)} without."
    )


def _noise(common: Comparison, noise: Arm, measures: Measures) -> str:
    drift, loss = measures["noise-drift"], measures["noise-loss"]
    trained = "lower" if below(loss) else "higher" if above(loss) else "not clearly different"
    return (
        f"Noisy batch norm at rate {noise.rate:g}: its drift, held against no batch norm, is "
        f"{factor(drift)}. Its mean training loss, {_loss(noise)}, is {trained} "
        f"(no batch norm: {_loss(common.without)}; batch norm without noise: "
        f"{_loss(common.with_norm)}). Its test accuracy at the end is {noise.accuracy.mean:.1%}, "
        f"without batch norm {common.without.accuracy.mean:.1%}."
    )


def _cosine(arm: Arm) -> str:
    return "unknown" if arm.cosine is None else f"{arm.cosine:.2f}"


def _loss(arm: Arm) -> str:
    mean = statistics.fmean(arm.losses)
    return f"{mean:.3g}" if math.isfinite(mean) else "not finite"


def _highlights(common: Comparison) -> tuple[Highlight, ...]:
    rate = f"rate {common.with_norm.rate:g}, with batch norm"
    rows = {
        "drift": "(a) drift of inputs",
        "change": "(b) change of gradients",
        "beta": "(c) effective beta",
    }
    return tuple(
        Highlight(
            label=f"{what}, {rate}",
            value=f"{common.with_norm.mean(name):.2g}",
            other=f"without batch norm: {common.without.mean(name):.2g}",
        )
        for name, what in rows.items()
    )


def _summary(arms: Sequence[Arm]) -> Table:
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            arm.network,
            arm.rate,
            f"{arm.mean('drift'):.2g}",
            f"{arm.mean('change'):.2g}",
            _cosine(arm),
            f"{arm.mean('beta'):.2g}",
            _loss(arm),
        )
        for arm in arms
    )
    return Table(
        name="covariate-shift-summary",
        title="Drift, change of gradients and smoothness, means over steps and layers",
        columns=(
            Column(title="Network"),
            Column(title="Rate", format="rate"),
            Column(title="Input drift"),
            Column(title="Gradient change"),
            Column(title="Cosine"),
            Column(title="Effective beta"),
            Column(title="Mean loss"),
        ),
        rows=rows,
    )


def _all(arms: Sequence[Arm]) -> Table:
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            arm.network,
            arm.rate,
            *(float(f"{arm.mean(name):.3g}") for name in RATIOS),
            None if arm.cosine is None else float(f"{arm.cosine:.3g}"),
            arm.accuracy.mean,
            sum(record.finite for record in arm.records) / len(arm.records),
        )
        for arm in arms
    )
    return Table(
        name="covariate-shift-all",
        title="Every network and learning rate, means over steps, layers and seeds",
        columns=(
            Column(title="Network"),
            Column(title="Rate", format="rate"),
            Column(title="Drift", format="number"),
            Column(title="Gradient change", format="number"),
            Column(title="Drift from start", format="number"),
            Column(title="Loss range", format="number"),
            Column(title="Change along gradient", format="number"),
            Column(title="Effective beta", format="number"),
            Column(title="Cosine", format="number"),
            Column(title="Test accuracy", format="percent"),
            Column(title="Stayed finite", format="percent"),
        ),
        rows=rows,
    )
