"""The numbers that decide, the rule, and the verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from evenkeel.report import Verdict
from evenkeel.study._statistics import above, below, measure
from evenkeel.study.sections.frameworks._groups import LOST, MOMENTS
from evenkeel.study.sections.frameworks._plan import ARMS, TITLES, Arm

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from evenkeel.report import Measure
    from evenkeel.study.sections._section import Measures
    from evenkeel.study.sections.frameworks._groups import Group, Moment

#: Inference losses that differ by less than this share count as the same.
MARGIN: Final = 0.05
RULE: Final = (
    "Compared is the mean cross entropy in inference with that of the network that stayed in its "
    f"own framework, seed by seed, over the recorded steps {MOMENTS['early']} (early) and over "
    "the last five (the end); a loss that is not finite counts as "
    f"{LOST:g}. An arm goes on as before if the 95% confidence interval of the relative difference "
    f"lies between -{MARGIN:.0%} and +{MARGIN:.0%}, early and at the end. The claim holds here if "
    "every arm with copied numbers goes on as before, and does not hold here if none does; "
    "otherwise it depends on the direction. It cannot be decided here, and counts as depending on "
    "the framework, unless every arm with translated settings goes on as before."
)
COPIED: Final = tuple(arm for arm in ARMS if arm.settings == "copied")
TRANSLATED: Final = tuple(arm for arm in ARMS if arm.settings == "translated")


def measures_of(groups: Sequence[Group]) -> tuple[Measure, ...]:
    """Return what each arm that moved differs by from its network at home."""
    return tuple(m for g in groups if g.arm.settings != "own" for m in _of_group(g))


def _of_group(group: Group) -> Iterator[Measure]:
    way = f"{TITLES[group.arm.origin]} to {group.arm.title}"
    for moment, when in MOMENTS.items():
        label = f"{way}: inference loss relative to home, minus 1, {when}"
        yield measure(key(group.arm, moment), label, group.ratios(moment), "percent")
        label = f"{way}: inference accuracy minus that at home, {when}"
        name = f"{group.arm.key}-accuracy-{moment}"
        yield measure(name, label, group.gaps(moment), "percent")
    label = f"{way}: largest relative difference of the training loss over the first five steps"
    yield measure(f"{group.arm.key}-first", label, group.first())


def key(arm: Arm, moment: Moment) -> str:
    """Return the name of the measure that decides about an arm."""
    return f"{arm.key}-loss-{moment}"


def goes_on(measures: Measures, arm: Arm) -> bool:
    """Say whether an arm goes on as before, early and at the end."""
    found = [measures[key(arm, moment)] for moment in MOMENTS]
    return all(above(m, -MARGIN) and below(m, MARGIN) for m in found)


def judge(measures: Measures) -> Verdict:
    """Apply :data:`RULE`."""
    same = {arm: goes_on(measures, arm) for arm in (*COPIED, *TRANSLATED)}
    largest = {arm: _largest(measures, arm) for arm in COPIED}
    ways = "; ".join(
        f"{TITLES[arm.origin]} to {TITLES[arm.framework]} {100 * value:+z.0f}%"
        for arm, value in largest.items()
    )
    translated = sum(same[arm] for arm in TRANSLATED)
    reason = (
        f"With copied numbers {sum(same[arm] for arm in COPIED)} of {len(COPIED)} arms go on as "
        f"before, with translated settings {translated} of {len(TRANSLATED)}. Largest change of "
        f"the inference loss with copied numbers: {ways}."
    )
    if translated < len(TRANSLATED):
        return Verdict(kind="depends", words="depends on the framework", reason=reason)
    if all(same[arm] for arm in COPIED):
        return Verdict(kind="holds", words="holds here", reason=reason)
    if not any(same[arm] for arm in COPIED):
        return Verdict(kind="fails", words="does not hold here", reason=reason)
    return Verdict(kind="depends", words="depends on the direction", reason=reason)


def _largest(measures: Measures, arm: Arm) -> float:
    return max((measures[key(arm, moment)].mean for moment in MOMENTS), key=abs)
