"""The numbers that decide, the rule, and the verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from evenkeel.report import Verdict
from evenkeel.study._statistics import above, below, measure
from evenkeel.study.sections.covariate_shift._plan import COMMON, LAG

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from evenkeel.report import Measure
    from evenkeel.study.sections._section import Measures
    from evenkeel.study.sections.covariate_shift._arms import Arm, Comparison

RULE: Final = (
    f"The networks with and without batch norm are compared twice, both at rate {COMMON:g} and "
    "each at its best rate (lowest training loss averaged over all steps and seeds). For each "
    f"seed, the drift of the layers' inputs over {LAG} steps and the relative change of the "
    "layers' gradients by updates of the layers below are averaged over layers and steps "
    "(geometric mean) and divided, with by without; the measure is the logarithm of the ratio to "
    "base 10. The shift is smaller with batch norm, by one measure in one comparison, if the 95% "
    "confidence interval lies below zero. The claim does not hold here if the shift is smaller in "
    "none of the four cases, or if the network with noisy batch norm refutes it: if at the common "
    "rate its drift is larger than without batch norm and its mean training loss is nevertheless "
    "lower, each by an interval that excludes zero, since then less drift cannot be what makes "
    "batch norm train faster. Otherwise the claim holds here if the shift is smaller in all four "
    "cases, and depends on the measure or the rate if it is smaller in some. The smoothness of "
    "the loss is shown beside and decides nothing."
)
#: Key of a ratio with / without -> what it is; the first two decide.
RATIOS: Final = {
    "drift": f"drift of the layers' inputs over {LAG} steps",
    "change": "change of the layers' gradients by updates below",
    "from-start": "drift of the layers' inputs since the start",
    "range": "range of the loss along the gradient",
    "gradient": "relative change of the gradient along itself",
    "beta": "effective beta-smoothness",
}
_DECIDING: Final = ("drift", "change")
_WORDS: Final = {
    "drift": "drift",
    "change": "change of gradients",
    "common": "at the common rate",
    "best": "at the best rates",
}
#: Stands for the loss of a run that was not finite: far above that of any constant prediction.
_WORST: Final = 1e3


def measures_of(comparisons: Sequence[Comparison], noise: Arm) -> tuple[Measure, ...]:
    """Return all ratios of both comparisons, the losses, and the two numbers on noise."""
    return (
        *(found for comparison in comparisons for found in _compared(comparison)),
        *_noisy(noise, comparisons[0].without),
    )


def _compared(comparison: Comparison) -> Iterator[Measure]:
    a, b = comparison.with_norm, comparison.without
    for quantity, what in RATIOS.items():
        yield measure(
            f"{comparison.name}-{quantity}",
            f"{what}, {comparison.label}: log10 of with / without",
            _differences(a.per_seed(quantity), b.per_seed(quantity)),
        )
    yield measure(
        f"{comparison.name}-loss",
        f"mean training loss, {comparison.label}: with minus without",
        _differences(_losses(a), _losses(b)),
    )


def _noisy(noise: Arm, without: Arm) -> Iterator[Measure]:
    at = f"noisy batch norm against none, both at rate {noise.rate:g}"
    yield measure(
        "noise-drift",
        f"{RATIOS['drift']}, {at}: log10 of the ratio",
        _differences(noise.per_seed("drift"), without.per_seed("drift")),
    )
    yield measure(
        "noise-loss",
        f"mean training loss, {at}: difference",
        _differences(_losses(noise), _losses(without)),
    )


def _losses(arm: Arm) -> list[float]:
    return [min(loss, _WORST) for loss in arm.losses]


def _differences(new: list[float], old: list[float]) -> list[float]:
    return [a - b for a, b in zip(new, old, strict=True)]


def refuted(measures: Measures) -> bool:
    """Say whether noise makes the inputs drift more than without batch norm, and yet helps."""
    return above(measures["noise-drift"]) and below(measures["noise-loss"])


def judge(measures: Measures) -> Verdict:
    """Apply :data:`RULE`."""
    smaller = {
        (quantity, comparison): below(measures[f"{comparison}-{quantity}"])
        for quantity in _DECIDING
        for comparison in ("common", "best")
    }
    cases = "; ".join(
        f"{_WORDS[quantity]} {_WORDS[comparison]} {10 ** measures[key].mean:.3g}"
        for quantity, comparison in smaller
        for key in [f"{comparison}-{quantity}"]
    )
    reason = (
        f"The shift with batch norm is clearly smaller in {sum(smaller.values())} of 4 cases "
        f"(ratios with / without: {cases}). Noisy batch norm drifted "
        f"{10 ** measures['noise-drift'].mean:.3g} times as much as no batch norm, and its mean "
        f"training loss differed by {measures['noise-loss'].mean:+.3g}, which "
        f"{'refutes' if refuted(measures) else 'does not refute'} the claim."
    )
    if refuted(measures) or not any(smaller.values()):
        return Verdict(kind="fails", words="does not hold here", reason=reason)
    if all(smaller.values()):
        return Verdict(kind="holds", words="holds here", reason=reason)
    return Verdict(kind="depends", words=f"depends on {_on(smaller)}", reason=reason)


def _on(smaller: dict[tuple[str, str], bool]) -> str:
    """Name what separates the cases where the shift is smaller from the others."""
    for position, what in enumerate(("how the shift is measured", "the learning rate")):
        groups: dict[str, set[bool]] = {}
        for case, is_smaller in smaller.items():
            groups.setdefault(case[position], set()).add(is_smaller)
        if all(len(seen) == 1 for seen in groups.values()):
            return what
    return "the learning rate and on how the shift is measured"


def factor(measured: Measure) -> str:
    """Write a ratio with its interval, and say whether it is clearly one way or the other."""
    times = f"factor {10**measured.mean:.3g}"
    if measured.low is not None and measured.high is not None:
        times += f", 95% interval {10**measured.low:.3g} to {10**measured.high:.3g}"
    if below(measured):
        return f"smaller ({times})"
    return f"larger ({times})" if above(measured) else f"not clearly different ({times})"
