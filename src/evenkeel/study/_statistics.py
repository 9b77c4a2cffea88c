"""The few statistics that all sections need, over the repetitions of a run."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from scipy.special import stdtrit

from evenkeel.report import Measure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from evenkeel.report import Format

RecordT = TypeVar("RecordT")
KeyT = TypeVar("KeyT")

#: Probability that a confidence interval covers the mean.
CONFIDENCE: Final = 0.95
#: The optimizers by the name of their configuration, as the report writes them.
OPTIMIZERS: Final = {"sgd": "SGD", "adam": "Adam"}


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean, sample standard deviation, and the 95 % confidence interval of the mean.

    The interval is Student's: mean +- t(n - 1) std / sqrt(n), for values that are roughly normal.
    One value has no spread: ``std`` is 0 and both ends of the interval are the value.
    """

    mean: float
    std: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Summarise at least one value.

        Example:
            >>> spread = Spread.of([1.0, 2.0, 3.0])
            >>> spread.mean, spread.std, round(spread.high, 3)
            (2.0, 1.0, 4.484)
        """
        known = list(values)
        mean = statistics.fmean(known)
        if len(known) == 1:
            return cls(mean, 0.0, mean, mean)
        std = statistics.stdev(known)
        quantile = float(stdtrit(len(known) - 1, (1 + CONFIDENCE) / 2))
        reach = quantile * std / math.sqrt(len(known))
        return cls(mean, std, mean - reach, mean + reach)


def powers(spread: Spread) -> Spread:
    """Turn the spread of base-10 logarithms into factors: geometric mean and its interval.

    Example:
        >>> powers(Spread.of([1.0, 3.0])).mean
        100.0
    """
    return Spread(10**spread.mean, spread.std, 10**spread.low, 10**spread.high)


def measure(name: str, label: str, values: Iterable[float], form: Format = "number") -> Measure:
    """Return the values of all repetitions with mean, deviation and interval."""
    known = tuple(values)
    spread, single = Spread.of(known), len(known) == 1
    return Measure(
        name=name,
        label=label,
        values=known,
        mean=spread.mean,
        std=None if single else spread.std,
        low=None if single else spread.low,
        high=None if single else spread.high,
        format=form,
    )


def above(measured: Measure, limit: float = 0.0) -> bool:
    """Say whether the mean is above the limit with its whole interval (its value, if alone)."""
    return (measured.mean if measured.low is None else measured.low) > limit


def below(measured: Measure, limit: float = 0.0) -> bool:
    """Say whether the mean is below the limit with its whole interval (its value, if alone)."""
    return (measured.mean if measured.high is None else measured.high) < limit


def grouped(
    records: Sequence[RecordT], key: Callable[[RecordT], KeyT]
) -> dict[KeyT, tuple[RecordT, ...]]:
    """Sort records into groups, groups and records in the order of the plan."""
    groups: dict[KeyT, list[RecordT]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return {name: tuple(members) for name, members in groups.items()}


def plus_minus(spread: Spread, count: int, unit: str = "%", digits: int = 1) -> str:
    """Write a share as percent with the standard deviation over ``count`` > 1 seeds.

    Example:
        >>> plus_minus(Spread.of([0.98, 0.99]), 2)
        '98.5 ± 0.7%'
    """
    mean = f"{100 * spread.mean:.{digits}f}"
    return f"{mean}{unit}" if count == 1 else f"{mean} ± {100 * spread.std:.{digits}f}{unit}"


def over_seeds(count: int, many: str = "") -> str:
    """Say over what the numbers of a section are taken; ``many`` replaces the usual sentence."""
    if count == 1:
        return "All numbers are from one seed, so there is no spread."
    return many or f"All numbers are means over {count} seeds; ± is the standard deviation."


def points(measured: Measure) -> str:
    """Write a difference of shares as percentage points with its interval.

    Example:
        >>> points(measure("gain", "gain", [0.01, 0.02, 0.03]))
        '+2.0 points (95% interval -0.5 to +4.5)'
    """
    if measured.low is None or measured.high is None:
        return f"{100 * measured.mean:+z.1f} points"
    low, high = 100 * measured.low, 100 * measured.high
    return f"{100 * measured.mean:+z.1f} points (95% interval {low:+z.1f} to {high:+z.1f})"


def listing(names: Iterable[object]) -> str:
    """Write names as a list in a sentence.

    Example:
        >>> listing([2, 4, 8])
        '2, 4 and 8'
    """
    *first, last = map(str, names)
    return f"{', '.join(first)} and {last}" if first else last
