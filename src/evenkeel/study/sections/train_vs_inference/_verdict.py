"""The numbers that decide, the rule, and the verdict."""

from __future__ import annotations

from itertools import combinations, product
from typing import TYPE_CHECKING, Final

from evenkeel.report import Verdict
from evenkeel.study._statistics import above, below, measure
from evenkeel.study.sections.train_vs_inference._groups import (
    MOMENTS,
    Moment,
    above_guessing,
    batch,
    gap,
    running,
    whole,
)
from evenkeel.study.sections.train_vs_inference._plan import EARLY, LATE, MOMENTA, SIZES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from evenkeel.report import Measure
    from evenkeel.study.sections._section import Measures
    from evenkeel.study.sections.train_vs_inference._groups import Group

#: Accuracies closer than this count as the same.
MARGIN: Final = 0.01
#: A network has learned something if it is so much better than guessing the commonest class.
LEARNED: Final = 0.1
RULE: Final = (
    "The gap is the test accuracy with running averages minus that with batch statistics, of the "
    "same weights on the same samples. For each batch size and momentum it is averaged over the "
    f"recorded steps up to step {EARLY} (early) and over the last {LATE} recorded steps (the "
    "end). The two accuracies count as the same if the 95% confidence interval of that gap lies "
    f"between -{100 * MARGIN:g} and +{100 * MARGIN:g} percentage point. Left out are batch sizes "
    "and times at which the best of all accuracies is, on average, less than "
    f"{100 * LEARNED:g} points above guessing the commonest class: a network that has learned "
    "nothing is equally bad with any statistics. The claim holds here if the accuracies are the "
    "same for every batch size and momentum that is left, early and at the end. It does not hold "
    "here if they are never the same, or if nothing is left. Otherwise it depends on the batch "
    "size, the momentum, the training step, or several of these: on each that, with the other two "
    "alike, makes a difference."
)
#: What a setting consists of, in the order of its key.
_FACTORS: Final = ("the batch size", "the momentum", "the training step")
#: Batch size, momentum and moment.
Setting = tuple[int, float, Moment]


def measures_of(groups: Sequence[Group]) -> tuple[Measure, ...]:
    """Return the gaps of every setting, and the accuracies with batch statistics beside them."""
    return tuple(found for group in groups for found in _of_group(group))


def _of_group(group: Group) -> Iterator[Measure]:
    for moment, when in MOMENTS.items():
        for momentum in group.momenta:
            yield measure(
                key(group.size, momentum, moment),
                f"batch {group.size}, momentum {momentum:g}: running minus batch, {when}",
                group.at(moment, gap(running(momentum))),
                "percent",
            )
        yield measure(
            f"batch-{group.size}-whole-{moment}",
            f"batch {group.size}: whole training set minus batch, {when}",
            group.at(moment, gap(whole)),
            "percent",
        )
        yield measure(
            _learned_key(group.size, moment),
            f"batch {group.size}: best accuracy minus the share of the commonest class, {when}",
            group.at(moment, above_guessing),
            "percent",
        )
        yield measure(
            f"batch-{group.size}-accuracy-{moment}",
            f"batch {group.size}: accuracy with batch statistics, {when}",
            group.at(moment, batch),
            "percent",
        )


def key(size: int, momentum: float, moment: Moment) -> str:
    """Return the name of the measure of a setting."""
    return f"batch-{size}-momentum-{momentum:g}-{moment}"


def is_same(measured: Measure) -> bool:
    """Say whether the gap lies within the margin with its whole interval."""
    return above(measured, -MARGIN) and below(measured, MARGIN)


def settings_in(measures: Measures) -> dict[Setting, Measure]:
    """Return the gaps that count, by setting: those of networks that have learned something."""
    return {
        (size, momentum, moment): measures[key(size, momentum, moment)]
        for size, momentum, moment in product(SIZES, MOMENTA, MOMENTS)
        if (learned := measures.get(_learned_key(size, moment))) and learned.mean >= LEARNED
    }


def judge(measures: Measures) -> Verdict:
    """Apply :data:`RULE`."""
    gaps = settings_in(measures)
    if not gaps:
        reason = "No network learned enough for a comparison."
        return Verdict(kind="fails", words="does not hold here", reason=reason)
    same = {setting: is_same(found) for setting, found in gaps.items()}
    lowest, highest = (find(gaps, key=lambda s: gaps[s].mean) for find in (min, max))
    reason = (
        f"The accuracies are the same in {sum(same.values())} of {len(same)} settings "
        f"({_counted(same, 'early')}, {_counted(same, 'end')}); the gap runs from "
        f"{_named(lowest, gaps[lowest])} to {_named(highest, gaps[highest])}."
    )
    if all(same.values()):
        return Verdict(kind="holds", words="holds here", reason=reason)
    if not any(same.values()):
        return Verdict(kind="fails", words="does not hold here", reason=reason)
    on = [what for position, what in enumerate(_FACTORS) if _matters(same, position)]
    return Verdict(kind="depends", words=f"depends on {_listed(on)}", reason=reason)


def _matters(same: dict[Setting, bool], position: int) -> bool:
    """Say whether two settings that differ in nothing else come out differently."""
    return any(
        same[a] != same[b]
        for a, b in combinations(same, 2)
        if [i for i, (p, q) in enumerate(zip(a, b, strict=True)) if p != q] == [position]
    )


def _counted(same: dict[Setting, bool], moment: Moment) -> str:
    found = [alike for (_, _, when), alike in same.items() if when == moment]
    return f"{sum(found)} of {len(found)} {MOMENTS[moment]}"


def _named(setting: Setting, measured: Measure) -> str:
    size, momentum, moment = setting
    return (
        f"{100 * measured.mean:+z.1f} points (batch {size}, momentum {momentum:g}, "
        f"{MOMENTS[moment]})"
    )


def _learned_key(size: int, moment: Moment) -> str:
    return f"batch-{size}-learned-{moment}"


def _listed(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
