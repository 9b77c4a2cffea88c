"""Runs grouped over their seeds, and the few statistics that the sections need."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from evenkeel.study._records import Outcome, RunRecord


#: The optimizers by the name of their configuration, as the report writes them.
OPTIMIZERS: Final = {"sgd": "SGD", "adam": "Adam"}


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean, sample standard deviation (0 for one value), smallest and largest value."""

    mean: float
    std: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Summarise at least one value."""
        known = list(values)
        std = statistics.stdev(known) if len(known) > 1 else 0.0
        return cls(statistics.fmean(known), std, min(known), max(known))


@dataclass(frozen=True, slots=True)
class Group:
    """The runs that differ in nothing but the seed."""

    records: tuple[RunRecord, ...]

    @property
    def rate(self) -> float:
        """The learning rate that all of them share."""
        return self.records[0].config.rate

    @property
    def best(self) -> Spread:
        """Best test accuracy of each run."""
        return Spread.of(record.best_accuracy for record in self.records)

    @property
    def accuracy(self) -> str:
        """The best test accuracy in words, with its deviation if there is more than one seed."""
        if len(self.records) == 1:
            return f"{100 * self.best.mean:.1f}%"
        return f"{100 * self.best.mean:.1f} ± {100 * self.best.std:.1f}%"

    @property
    def final(self) -> Spread:
        """Test accuracy at the end of each run."""
        return Spread.of(record.final_accuracy for record in self.records)

    @property
    def all_reach_target(self) -> bool:
        """Every run reached the target accuracy at some step."""
        return all(record.steps_to_target is not None for record in self.records)

    def steps_to_target(self) -> Spread | None:
        """Steps until the target over the runs, or None unless every run reached it."""
        steps = [record.steps_to_target for record in self.records]
        known = [step for step in steps if step is not None]
        return Spread.of(known) if len(known) == len(steps) else None

    def share(self, outcome: Outcome) -> float:
        """Return the share of runs with one outcome."""
        return sum(record.outcome == outcome for record in self.records) / len(self.records)

    def over_steps(self) -> tuple[tuple[int, ...], list[Spread]]:
        """Return test accuracy over the steps that all runs recorded."""
        shortest = min((record.steps for record in self.records), key=len)
        # A run that stops early records its last step out of turn; all before it are common.
        common = [s for s in shortest if all(s in record.steps for record in self.records)]
        lookups = [dict(zip(r.steps, r.test_accuracy, strict=True)) for r in self.records]
        return tuple(common), [Spread.of(look[step] for look in lookups) for step in common]


def group_by_seed(
    records: Sequence[RunRecord], keep: Callable[[RunRecord], bool]
) -> tuple[Group, ...]:
    """Group the kept records by learning rate, from small to large."""
    rates = sorted({record.config.rate for record in records if keep(record)})
    return tuple(
        Group(tuple(r for r in records if keep(r) and r.config.rate == rate)) for rate in rates
    )


@dataclass(frozen=True, slots=True)
class Arm:
    """One network under one optimizer: its runs, grouped by learning rate."""

    optimizer: str
    batch_norm: bool
    groups: tuple[Group, ...]

    @property
    def label(self) -> str:
        """The optimizer and the network in words."""
        return f"{OPTIMIZERS[self.optimizer]} {'with' if self.batch_norm else 'without'} batch norm"

    @property
    def best(self) -> Group:
        """The rate with the highest mean of best test accuracies; the smaller one in a tie."""
        return max(self.groups, key=lambda group: (group.best.mean, -group.rate))

    @property
    def usable(self) -> tuple[float, ...]:
        """The rates at which every seed reached the target accuracy."""
        return tuple(group.rate for group in self.groups if group.all_reach_target)

    @property
    def ever_reaches_target(self) -> bool:
        """At least one run at one rate reached the target accuracy."""
        return any(
            record.steps_to_target is not None for group in self.groups for record in group.records
        )

    @property
    def diverged(self) -> float:
        """Share of diverged runs over all rates."""
        return sum(group.share("diverged") for group in self.groups) / len(self.groups)

    def fewest_steps(self) -> float | None:
        """Return the smallest mean number of steps to the target over the rates."""
        means = [steps.mean for g in self.groups if (steps := g.steps_to_target()) is not None]
        return min(means, default=None)


def arms_of(records: Sequence[RunRecord]) -> tuple[Arm, ...]:
    """Sort the records into arms, with batch norm first; arms without runs are left out."""
    return tuple(
        Arm(optimizer, norm, groups)
        for optimizer in OPTIMIZERS
        for norm in (True, False)
        if (
            groups := group_by_seed(
                records,
                lambda r, o=optimizer, n=norm: r.config.optimizer == o and r.config.batch_norm == n,
            )
        )
    )


def decades(low: float, high: float) -> float:
    """Return the distance of two positive numbers in powers of ten."""
    return math.log10(high / low)
