"""Runs sorted into arms (one network under one optimizer) and groups (one learning rate)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evenkeel.study._statistics import OPTIMIZERS, Spread, grouped, plus_minus
from evenkeel.study.sections.learning_rate._plan import network_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evenkeel.study._records import Outcome, RunRecord


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
        return plus_minus(self.best, len(self.records))

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
        known = [r.steps_to_target for r in self.records if r.steps_to_target is not None]
        return Spread.of(known) if len(known) == len(self.records) else None

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


@dataclass(frozen=True, slots=True)
class Arm:
    """One network under one optimizer: its runs, grouped by learning rate."""

    network: str
    optimizer: str
    batch_norm: bool
    groups: tuple[Group, ...]

    @property
    def setting(self) -> str:
        """Network and optimizer in words."""
        return f"{OPTIMIZERS[self.optimizer]}, {self.network}"

    @property
    def label(self) -> str:
        """The setting, and whether there is batch norm."""
        return f"{self.setting}, {'with' if self.batch_norm else 'without'} batch norm"

    @property
    def best(self) -> Group:
        """The rate with the highest mean of best test accuracies; the smaller one in a tie."""
        return max(self.groups, key=lambda group: (group.best.mean, -group.rate))

    @property
    def usable(self) -> tuple[float, ...]:
        """The rates at which every seed reached the target accuracy."""
        return tuple(group.rate for group in self.groups if group.all_reach_target)

    @property
    def diverged(self) -> float:
        """Share of diverged runs over all rates."""
        return sum(group.share("diverged") for group in self.groups) / len(self.groups)

    def fewest_steps(self) -> float | None:
        """Return the smallest mean number of steps to the target over the rates."""
        means = [steps.mean for g in self.groups if (steps := g.steps_to_target()) is not None]
        return min(means, default=None)

    def per_seed(self) -> tuple[Seed, ...]:
        """Return what each repetition reached over all rates."""
        columns = zip(*(group.records for group in self.groups), strict=True)
        return tuple(Seed(tuple(records)) for records in columns)


@dataclass(frozen=True, slots=True)
class Seed:
    """The runs of one arm and one repetition, from the smallest learning rate to the largest."""

    records: tuple[RunRecord, ...]

    @property
    def reached(self) -> list[float]:
        """The rates at which the target accuracy was reached."""
        return [r.config.rate for r in self.records if r.steps_to_target is not None]

    @property
    def largest(self) -> float:
        """log10 of the largest such rate; half a decade below the grid if there is none."""
        if self.reached:
            return math.log10(max(self.reached))
        return math.log10(self.records[0].config.rate) - 0.5

    @property
    def width(self) -> float:
        """Decades from the smallest to the largest such rate; 0 if there are fewer than two."""
        return math.log10(max(self.reached) / min(self.reached)) if self.reached else 0.0

    @property
    def steps(self) -> int:
        """Fewest steps to the target at any rate; the length of a run if it was never reached."""
        steps = (r.steps_to_target for r in self.records)
        longest = max(record.steps[-1] for record in self.records)
        return min((s for s in steps if s is not None), default=longest)

    @property
    def best(self) -> float:
        """Best test accuracy at any rate."""
        return max(record.best_accuracy for record in self.records)


def arms_of(records: Sequence[RunRecord]) -> tuple[Arm, ...]:
    """Sort the records into arms, in the order of the plan."""
    by_arm = grouped(
        records, lambda r: (network_name(r.config), r.config.optimizer, r.config.batch_norm)
    )
    return tuple(
        Arm(*names, tuple(map(Group, grouped(members, lambda r: r.config.rate).values())))
        for names, members in by_arm.items()
    )


def pairs_of(arms: Sequence[Arm]) -> tuple[tuple[Arm, Arm], ...]:
    """Return the arms with batch norm, each beside the one without."""
    return tuple(
        (a, b)
        for a in arms
        for b in arms
        if a.setting == b.setting and a.batch_norm and not b.batch_norm
    )
