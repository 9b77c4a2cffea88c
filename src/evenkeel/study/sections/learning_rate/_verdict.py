"""The numbers that decide, the rule, and the verdict."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from evenkeel.report import Verdict
from evenkeel.study._statistics import OPTIMIZERS, above, measure
from evenkeel.study.sections.learning_rate._plan import NETWORKS, RATES, TARGET

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from evenkeel.report import Measure
    from evenkeel.study.sections._section import Measures
    from evenkeel.study.sections.learning_rate._arms import Arm

RULE: Final = (
    "For each network and optimizer, and for each seed, three gains of batch norm are computed "
    f"over the grid of learning rates: the largest rate at which the run reaches {TARGET:.0%} test "
    "accuracy at any recorded step (in decades), the distance from the smallest to the largest "
    "such rate (in decades), and the fewest steps to that accuracy at any rate (as a base-2 "
    "logarithm of the ratio). A seed that reaches it at no rate counts as half a decade below the "
    "grid, with no range and with all steps of a run. The claim holds here if the 95% confidence "
    "interval of every gain lies above zero. It does not hold here if none does. Otherwise it "
    "depends on the settings, which are named."
)
#: Key of a gain -> what it is.
GAINS: Final = {
    "rate": "gain in the largest rate, decades",
    "width": "gain in the range of rates, decades",
    "steps": "gain in steps, log2 of the ratio",
}
#: Key of a gain -> the part of the claim.
_PARTS: Final = {"rate": "larger rates", "width": "a wider range", "steps": "fewer steps"}


def measures_of(pairs: Sequence[tuple[Arm, Arm]]) -> tuple[Measure, ...]:
    """Return the gains of every pair, and the best accuracies beside them."""
    return tuple(found for pair in pairs for found in _of_pair(*pair))


def _of_pair(with_norm: Arm, without: Arm) -> Iterator[Measure]:
    prefix = _key(with_norm.network, with_norm.optimizer)
    seeds = list(zip(with_norm.per_seed(), without.per_seed(), strict=True))
    gains = {
        "rate": [a.largest - b.largest for a, b in seeds],
        "width": [a.width - b.width for a, b in seeds],
        "steps": [math.log2(b.steps / a.steps) for a, b in seeds],
    }
    for name, values in gains.items():
        yield measure(f"{prefix}-{name}", f"{with_norm.setting}: {GAINS[name]}", values)
    for arm in (with_norm, without):
        name = f"{prefix}-accuracy-{'with' if arm.batch_norm else 'without'}"
        best = [record.best_accuracy for record in arm.best.records]
        yield measure(name, f"{arm.label}: accuracy at the best rate", best, "percent")
    difference = [a.best - b.best for a, b in seeds]
    label = f"{with_norm.setting}: gain in best accuracy"
    yield measure(f"{prefix}-accuracy", label, difference, "percent")


def judge(measures: Measures) -> Verdict:
    """Apply :data:`RULE`."""
    clear = {
        (network, optimizer): [g for g in GAINS if above(measures[f"{key}-{g}"])]
        for network in NETWORKS
        for optimizer in RATES
        if f"{(key := _key(network, optimizer))}-rate" in measures
    }
    count, most = sum(map(len, clear.values())), len(GAINS) * len(clear)
    reason = f"{count} of {most} gains have an interval above zero: " + "; ".join(
        f"{OPTIMIZERS[optimizer]}, {network}: {' and '.join(_PARTS[g] for g in gains) or 'none'}"
        for (network, optimizer), gains in clear.items()
    )
    if count == most:
        return Verdict(kind="holds", words="holds here", reason=f"{reason}.")
    if count == 0:
        return Verdict(kind="fails", words="does not hold here", reason=f"{reason}.")
    return Verdict(kind="depends", words=f"depends on {_on(clear)}", reason=f"{reason}.")


def _on(clear: dict[tuple[str, str], list[str]]) -> str:
    """Name the setting that separates where all gains are clear from where they are not."""
    if len({tuple(gains) for gains in clear.values()}) == 1:
        return "what is counted"
    for position, what in ((1, "the optimizer"), (0, "the network")):
        seen: dict[str, set[tuple[str, ...]]] = {}
        for setting, gains in clear.items():
            seen.setdefault(setting[position], set()).add(tuple(gains))
        if all(len(kinds) == 1 for kinds in seen.values()):
            return what
    return "the network and the optimizer"


def _key(network: str, optimizer: str) -> str:
    return f"{network.replace(' ', '-')}-{optimizer}"
