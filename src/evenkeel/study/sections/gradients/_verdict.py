"""The numbers that decide, the rule, and the verdict."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from evenkeel.report import Verdict
from evenkeel.study._statistics import above, below, listing
from evenkeel.study.sections.gradients._plan import ACTIVATIONS, DEPTHS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from evenkeel.report import Measure
    from evenkeel.study.sections._section import Measures

#: Decades between the gradients of the first and the last layer that count as too many.
LIMIT: Final = 1.0
#: When gradients are measured, by the name in a measure.
STAGES: Final = {"start": "at the start", "training": "in training"}
#: What a measure's interval says.
Fate: TypeAlias = Literal["vanish", "explode", "stay", "unclear"]

RULE: Final = (
    "For each activation, each depth, and both at the start and in training, the gradient of the "
    "first hidden layer is divided by that of the last; the measure is the logarithm of the ratio "
    "to base 10, so 1 is a factor of ten. A network's gradients vanish if the 95% confidence "
    "interval of the measure lies below -1, explode if it lies above 1, and stay if it lies "
    "between the two. A setting tests the claim if gradients vanish or explode in it with or "
    "without batch norm. The claim holds here if there are such settings and in all of them the "
    "gradients stay with batch norm. It does not hold here if they stay in none of them, or if "
    "there is no such setting, since then there was nothing to prevent. Otherwise it depends on "
    "the settings, which are named."
)


class Setting(NamedTuple):
    """One comparison of the network with batch norm and the one without."""

    activation: str
    depth: int
    stage: str

    def key(self, *, batch_norm: bool) -> str:
        """Return the name of the measure of one of the two networks."""
        return f"{self.activation}-{self.depth}-{self.stage}-{'with' if batch_norm else 'without'}"


#: What the verdict may depend on, in the order of :class:`Setting`.
_FACTORS: Final = ("the activation", "the depth", "the stage of training")


def fate(measured: Measure) -> Fate:
    """Say what becomes of the gradients between the last layer and the first."""
    if below(measured, -LIMIT):
        return "vanish"
    if above(measured, LIMIT):
        return "explode"
    return "stay" if above(measured, -LIMIT) and below(measured, LIMIT) else "unclear"


def settings_of(measures: Measures) -> tuple[Setting, ...]:
    """Return the settings that were measured, in the order of the plan."""
    every = itertools.product(ACTIVATIONS, DEPTHS, STAGES)
    return tuple(s for s in itertools.starmap(Setting, every) if s.key(batch_norm=True) in measures)


def judge(measures: Measures) -> Verdict:
    """Apply :data:`RULE`."""
    settings = settings_of(measures)
    fates = {
        (setting, batch_norm): fate(measures[setting.key(batch_norm=batch_norm)])
        for setting in settings
        for batch_norm in (True, False)
    }
    lost = {True: 0, False: 0}
    for (_, batch_norm), found in fates.items():
        lost[batch_norm] += found in {"vanish", "explode"}
    kept = {
        s: fates[s, True] == "stay"
        for s in settings
        if {fates[s, True], fates[s, False]} & {"vanish", "explode"}
    }
    reason = (
        f"Gradients vanish or explode in {lost[True]} of {len(settings)} settings with batch norm "
        f"and in {lost[False]} without; of the {len(kept)} settings that test the claim, they stay "
        f"within a factor of ten in {sum(kept.values())} with batch norm."
    )
    if kept and all(kept.values()):
        return Verdict(kind="holds", words="holds here", reason=reason)
    if not any(kept.values()):
        return Verdict(kind="fails", words="does not hold here", reason=reason)
    return Verdict(kind="depends", words=f"depends on {_on(kept)}", reason=reason)


def _on(kept: Mapping[Setting, bool]) -> str:
    """Name the fewest factors that separate where gradients stay from where they do not."""
    positions = range(len(_FACTORS))
    sets = (c for n in positions for c in itertools.combinations(positions, n + 1))
    fewest = next(chosen for chosen in sets if _separates(chosen, kept))
    return listing(_FACTORS[position] for position in fewest)


def _separates(chosen: Iterable[int], kept: Mapping[Setting, bool]) -> bool:
    seen: dict[tuple[str | int, ...], bool] = {}
    return all(
        seen.setdefault(tuple(setting[position] for position in chosen), stays) == stays
        for setting, stays in kept.items()
    )
