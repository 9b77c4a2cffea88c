"""The numbers that decide, the rule, and the verdict."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Final

from evenkeel.report import Verdict
from evenkeel.study._statistics import above, below, grouped, listing, measure, points
from evenkeel.study.sections.small_batches._arms import WAYS
from evenkeel.study.sections.small_batches._laws import slope
from evenkeel.study.sections.small_batches._plan import LARGE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from evenkeel.report import Measure
    from evenkeel.study.sections._section import Measures
    from evenkeel.study.sections.small_batches._arms import Outcomes
    from evenkeel.study.sections.small_batches._run import Noise

#: Batch sizes that the claim calls small.
SMALL: Final = (2, 4, 8)
RULE: Final = (
    "For each batch size and seed, the test accuracy without batch norm is subtracted from that "
    "with it, both at the same batch size and number of steps, each side at its best learning "
    "rate (by training accuracy). Batch norm fails at a batch size if the 95% confidence interval "
    "of this difference lies below zero. Small means a batch size of "
    f"{listing(SMALL)} (those of them that were run). The claim holds here if batch norm fails at "
    "every small batch size, both with running averages and after recalibration. It does not hold "
    "here if batch norm with running averages fails at none of them. Otherwise it depends: on the "
    "statistics used in inference, if recalibration leaves no failure at a small batch size; on "
    "the batch size, if not."
)


def measures_of(found: Outcomes) -> tuple[Measure, ...]:
    """Return all differences in accuracy, and the exponents of the noise."""
    return (*_ways(found), *_gains(found), *_groups(found), *_exponents(found.noise))


def _ways(found: Outcomes) -> Iterator[Measure]:
    for size, ways in found.ways.items():
        for way, outcome in ways.items():
            if way != "without":
                label = f"batch size {size}: test accuracy {WAYS[way]}, minus without batch norm"
                yield measure(f"{way}-{size}", label, outcome.over(ways["without"]), "percent")


def _gains(found: Outcomes) -> Iterator[Measure]:
    for size, ways in found.ways.items():
        for way in ("own", "recalibrated", "frozen"):
            if way in ways:
                label = f"batch size {size}: test accuracy {WAYS[way]}, minus running averages"
                gain = ways[way].over(ways["running"])
                yield measure(f"{way}-gain-{size}", label, gain, "percent")


def _groups(found: Outcomes) -> Iterator[Measure]:
    for group, outcome in found.groups.items():
        label = f"groups of {group} in batches of {LARGE}: test accuracy"
        beside = outcome.over(found.ways[group]["running"]) if group in found.ways else []
        whole = outcome.over(found.whole)
        yield measure(
            f"groups-{group}", f"{label}, minus statistics of the whole batch", whole, "percent"
        )
        if beside:
            name = f"groups-beside-{group}"
            yield measure(name, f"{label}, minus batch size {group}", beside, "percent")


def _exponents(noise: Sequence[Sequence[Noise]]) -> Iterator[Measure]:
    for what in ("mean", "variance"):
        slopes = [found for seed in noise if (found := exponent(seed, what)) is not None]
        if slopes and len(slopes) == len(noise):
            label = f"exponent of the batch size in the noise of the batch {what}"
            yield measure(f"noise-{what}", label, slopes)


def exponent(noise: Sequence[Noise], what: str) -> float | None:
    """Return the slope of log noise over log batch size, averaged over the layers of a network."""
    slopes: list[float] = []
    for layer in grouped(noise, lambda n: n.layer).values():
        values = [n.mean if what == "mean" else n.variance for n in layer]
        known = {n.batch_size: v for n, v in zip(layer, values, strict=True) if v}
        if len(known) > 1:
            slopes.append(slope(known, known.__getitem__))
    return statistics.fmean(slopes) if slopes else None


def judge(measures: Measures) -> Verdict:
    """Apply :data:`RULE`."""
    small = [size for size in SMALL if f"running-{size}" in measures]
    failing = [size for size in small if below(measures[f"running-{size}"])]
    still = [size for size in small if below(measures[f"recalibrated-{size}"])]
    reason = (
        "Test accuracy with batch norm and running averages minus without batch norm: "
        + "; ".join(f"{points(measures[f'running-{size}'])} at batch size {size}" for size in small)
        + f". Batch norm fails {_at(failing)}, and after recalibration {_at(still)}."
    )
    if not failing:
        return Verdict(kind="fails", words="does not hold here", reason=reason)
    if failing == small == still:
        return Verdict(kind="holds", words="holds here", reason=reason)
    on = "the batch size" if still else "the statistics used in inference"
    return Verdict(kind="depends", words=f"depends on {on}", reason=reason)


def _at(sizes: Sequence[int]) -> str:
    return f"at {listing(sizes)}" if sizes else "at none of them"


def compared(measures: Measures, sizes: Sequence[int]) -> dict[str, list[int]]:
    """Sort batch sizes into those where batch norm is worse or better than none, or unclear."""
    kinds: dict[str, list[int]] = {"worse": [], "better": [], "unclear": []}
    for size in sizes:
        found = measures[f"running-{size}"]
        kind = "worse" if below(found) else "better" if above(found) else "unclear"
        kinds[kind].append(size)
    return kinds
