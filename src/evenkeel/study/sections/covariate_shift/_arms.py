"""Runs sorted into arms: one network at one learning rate."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from evenkeel.study._statistics import Spread, grouped, powers
from evenkeel.study.sections.covariate_shift._plan import COMMON

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from evenkeel.study._records import Values
    from evenkeel.study.sections.covariate_shift._run import Point, ShiftRecord

#: Decades beyond which no value is followed; also stands for a run without any finite value.
FARTHEST: Final = 6.0
#: What a quantity is called -> its values at one point.
QUANTITIES: Final[dict[str, Callable[[Point], Values]]] = {
    "drift": lambda point: point.drift,
    "from-start": lambda point: point.drift_from_start,
    "change": lambda point: point.change,
    "range": lambda point: (point.loss_range,),
    "gradient": lambda point: (point.gradient_change,),
    "beta": lambda point: (point.beta,),
}


@dataclass(frozen=True, slots=True)
class Arm:
    """The runs that differ in nothing but the seed."""

    records: tuple[ShiftRecord, ...]

    @property
    def rate(self) -> float:
        """The learning rate that all of them share."""
        return self.records[0].config.rate

    @property
    def network(self) -> str:
        """The network in words."""
        config = self.records[0].config
        return "noisy batch norm" if config.noise else SIDES[config.batch_norm]

    def per_seed(self, quantity: str) -> list[float]:
        """Return the logarithm of a quantity, averaged over steps and layers, for each run."""
        return [_decades(r.points, QUANTITIES[quantity]) for r in self.records]

    def mean(self, quantity: str) -> float:
        """Return the geometric mean over steps, layers and seeds."""
        return 10 ** statistics.fmean(self.per_seed(quantity))

    @property
    def cosine(self) -> float | None:
        """The cosine of old and new gradient, averaged over steps, layers and seeds."""
        values = [v for r in self.records for p in r.points for v in p.cosine if v is not None]
        return statistics.fmean(values) if values else None

    @property
    def losses(self) -> list[float]:
        """The mean training loss of each run; infinite if it was not finite."""
        return [math.inf if r.mean_loss is None else r.mean_loss for r in self.records]

    @property
    def accuracy(self) -> Spread:
        """Test accuracy at the end of each run."""
        return Spread.of(record.test_accuracy for record in self.records)

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps that all runs recorded."""
        shortest = min((record.points for record in self.records), key=len)
        return tuple(point.step for point in shortest)

    def over_steps(self, value: Callable[[Point], float | None]) -> list[Spread | None]:
        """Return the geometric mean of one value at the steps that all runs recorded."""
        columns = zip(*(r.points[: len(self.steps)] for r in self.records), strict=True)
        return [_spread(map(value, points)) for points in columns]


#: Name of a network by whether it has batch norm.
SIDES: Final = {True: "with batch norm", False: "without"}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two networks held against each other."""

    name: str
    with_norm: Arm
    without: Arm

    @property
    def label(self) -> str:
        """At which rates, in words."""
        new, old = self.with_norm.rate, self.without.rate
        if self.name == "common":
            return f"both at rate {new:g}"
        return f"each at its best rate ({new:g} with, {old:g} without)"


def arms_of(records: Sequence[ShiftRecord]) -> tuple[Arm, ...]:
    """Sort the records into arms, in the order of the plan."""
    by = grouped(records, lambda r: (r.config.batch_norm, r.config.noise, r.config.rate))
    return tuple(map(Arm, by.values()))


def comparisons_of(arms: Sequence[Arm]) -> tuple[Comparison, Comparison]:
    """Return both networks at the common rate, and each at its best."""
    sides = {name: [arm for arm in arms if arm.network == name] for name in SIDES.values()}
    common = [next(a for a in side if a.rate == COMMON) for side in sides.values()]
    best = [min(side, key=lambda arm: (sum(arm.losses), arm.rate)) for side in sides.values()]
    return Comparison("common", *common), Comparison("best", *best)


def noisy(arms: Sequence[Arm]) -> Arm:
    """Return the runs with noise."""
    return next(arm for arm in arms if arm.records[0].config.noise)


def _decades(points: Iterable[Point], quantity: Callable[[Point], Values]) -> float:
    """Return the mean of log10 over points and layers; a quantity of 0 is as small as can be."""
    known = [value for point in points for value in quantity(point) if value is not None]
    if not known:
        return FARTHEST
    return statistics.fmean(map(_log, known))


def _log(value: float) -> float:
    limit = 10**FARTHEST
    return math.log10(min(max(value, 1 / limit), limit))


def _spread(values: Iterable[float | None]) -> Spread | None:
    every = list(values)
    finite = [value for value in every if value is not None]
    return powers(Spread.of(map(_log, finite))) if len(finite) == len(every) else None
