"""The findings in words and tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evenkeel.report import Column, Findings, Highlight, Table
from evenkeel.study._statistics import Spread, over_seeds, points
from evenkeel.study.sections.frameworks._figures import figures
from evenkeel.study.sections.frameworks._groups import (
    MOMENTS,
    accuracy,
    groups_of,
    loss,
    mean,
)
from evenkeel.study.sections.frameworks._plan import ORIGINS, TITLES
from evenkeel.study.sections.frameworks._verdict import (
    COPIED,
    TRANSLATED,
    goes_on,
    key,
    measures_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from evenkeel.report import Cell, Measure
    from evenkeel.study.sections.frameworks._groups import Group
    from evenkeel.study.sections.frameworks._plan import Arm, Framework
    from evenkeel.study.sections.frameworks._records import FrameworkRecord


def reduce(records: Sequence[FrameworkRecord]) -> Findings:
    """Turn the records, in the order of the plan, into findings."""
    groups = groups_of(records)
    measures = measures_of(groups)
    known = {found.name: found for found in measures}
    seeds = len({record.config.seed for record in records})
    return Findings(
        headline=_headline(known),
        answer="\n\n".join(_answer(known, seeds)),
        highlights=_highlights(known),
        summary=_table(groups, "torch"),
        figures=figures(groups, seeds),
        tables=(_table(groups, "keras"), _settings_table()),
        measures=measures,
    )


def _headline(known: Mapping[str, Measure]) -> str:
    worst = max(COPIED, key=lambda arm: max(abs(known[key(arm, m)].mean) for m in MOMENTS))
    return (
        f"{TITLES[worst.origin]}'s eps and momentum copied as numbers to "
        f"{TITLES[worst.framework]} change the inference loss by {_change(known, worst)}; "
        f"translated they change it by at most {_most(known):.1%}."
    )


def _most(known: Mapping[str, Measure]) -> float:
    """The largest mean change over the arms with translated settings."""
    return max(abs(known[key(arm, m)].mean) for arm in TRANSLATED for m in MOMENTS)


def _change(known: Mapping[str, Measure], arm: Arm) -> str:
    return " and ".join(
        f"{100 * known[key(arm, moment)].mean:+z.1f}% {when}" for moment, when in MOMENTS.items()
    )


def _answer(known: Mapping[str, Measure], seeds: int) -> Iterator[str]:
    """The copies, the translations, the first steps, why, and the seeds."""
    yield " ".join(_copied(known, arm) for arm in COPIED)
    yield _translated(known)
    first = max(known[f"{arm.key}-first"].mean for arm in TRANSLATED)
    yield (
        "Training itself uses the statistics of the batch, so that momentum has no part in it: "
        "over the first five steps the training losses of the translated arms differ from home "
        f"by at most {first:.1e} of their value (one rounding of float32 is 6e-08). What momentum "
        "and the convention of the variance decide is inference, and with it everything that is "
        "chosen by looking at it."
    )
    yield over_seeds(seeds)


def _copied(known: Mapping[str, Measure], arm: Arm) -> str:
    verdict = "goes on as before" if goes_on(known, arm) else "does not go on as before"
    return (
        f"{TITLES[arm.origin]} to {TITLES[arm.framework]}, copied, {verdict}: the inference loss "
        f"changes by {_change(known, arm)}, the accuracy at the end by "
        f"{points(known[f'{arm.key}-accuracy-end'])}."
    )


def _translated(known: Mapping[str, Measure]) -> str:
    same = sum(goes_on(known, arm) for arm in TRANSLATED)
    accuracy = max(abs(known[f"{a.key}-accuracy-{m}"].mean) for a in TRANSLATED for m in MOMENTS)
    return (
        f"With translated settings {same} of {len(TRANSLATED)} arms go on as before: the mean "
        f"inference loss changes by at most {_most(known):.2g} of its value, the accuracy by at "
        f"most {100 * accuracy:.1f} points, early or at the end."
    )


def _highlights(known: Mapping[str, Measure]) -> tuple[Highlight, ...]:
    return tuple(
        Highlight(
            label=f"inference loss, {TITLES[arm.origin]} to {TITLES[arm.framework]}, copied",
            value=f"{100 * known[key(arm, 'end')].mean:+z.1f}% {MOMENTS['end']}",
            other=f"{100 * known[key(arm, 'early')].mean:+z.1f}% {MOMENTS['early']}",
        )
        for arm in COPIED
    )


def _table(groups: Sequence[Group], origin: Framework) -> Table:
    def row(group: Group) -> tuple[Cell, ...]:
        values = (
            Spread.of(mean(record, curve, moment) for record in group.records).mean
            for moment in MOMENTS
            for curve in (loss, accuracy)
        )
        return (group.arm.title, *values)

    columns = [
        column
        for when in MOMENTS.values()
        for column in (
            Column(title=f"loss, {when}", format="number"),
            Column(title=f"accuracy, {when}", format="percent"),
        )
    ]
    return Table(
        name=f"from-{origin}",
        title=f"In inference, with settings from {TITLES[origin]}",
        columns=(Column(title="trained in"), *columns),
        rows=tuple(row(group) for group in groups if group.arm.origin == origin),
    )


def _settings_table() -> Table:
    """What the settings of each origin mean, so that the numbers can be checked."""
    return Table(
        name="settings",
        title="The settings that are moved",
        columns=tuple(
            Column(title=title)
            for title in ("from", "eps", "momentum", "weighs", "running variance")
        ),
        rows=tuple(
            (
                TITLES[origin],
                f"{spec.eps:g}",
                f"{spec.momentum.value:g}",
                f"the {spec.momentum.weighs} value",
                spec.variance,
            )
            for origin, spec in ORIGINS.items()
        ),
    )
