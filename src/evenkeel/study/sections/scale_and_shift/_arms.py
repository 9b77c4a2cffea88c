"""Runs sorted into arms (one start, or one choice of what is learned) and learning rates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from evenkeel.study._statistics import OPTIMIZERS, Spread, grouped
from evenkeel.study.sections.scale_and_shift._plan import LATE, USUAL

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from evenkeel.study.sections.scale_and_shift._plan import Learned, Start
    from evenkeel.study.sections.scale_and_shift._records import Check, ScaleRecord, Trajectory

#: What is learned, as the tables name it.
LEARNED: Final[dict[Learned, str]] = {
    "all": "all",
    "others": "all but gamma, beta",
    "affine": "gamma, beta only",
}


@dataclass(frozen=True, slots=True)
class Group:
    """The runs of an arm at one learning rate, in the order of the seeds."""

    records: tuple[ScaleRecord, ...]

    @property
    def rate(self) -> float:
        """The learning rate that all of them share."""
        return self.records[0].config.rate

    @property
    def finals(self) -> tuple[float, ...]:
        """Test accuracy at the end of each run."""
        return tuple(map(final_accuracy, self.records))

    def over_steps(self) -> tuple[tuple[int, ...], list[Spread]]:
        """Return test accuracy over the steps that all runs recorded."""
        lookups = [dict(zip(r.steps, r.test_accuracy, strict=True)) for r in self.records]
        common = [step for step in lookups[0] if all(step in look for look in lookups)]
        return tuple(common), [Spread.of(look[step] for look in lookups) for step in common]

    def loss(self) -> float | None:
        """Return the mean training loss before the end, None where a run has no finite one."""
        known = [r.train_loss[-1] for r in self.records]
        finite = [loss for loss in known if loss is not None]
        return math.fsum(finite) / len(finite) if len(finite) == len(known) else None


@dataclass(frozen=True, slots=True)
class Arm:
    """One optimizer, one start, one choice of what is learned: its runs by learning rate."""

    optimizer: str
    learned: Learned
    start: Start
    groups: tuple[Group, ...]

    @property
    def name(self) -> str:
        """Start and choice in words, without the optimizer."""
        if self.learned == "others":
            return "gamma and beta fixed at 1 and 0"
        if self.learned == "affine":
            return "only gamma and beta learned"
        return start_name(self.start)

    @property
    def best(self) -> Group:
        """The rate with the highest mean accuracy at the end; the smaller one in a tie."""
        return max(self.groups, key=lambda group: (Spread.of(group.finals).mean, -group.rate))

    @property
    def records(self) -> Iterable[ScaleRecord]:
        """The runs at all rates."""
        return (record for group in self.groups for record in group.records)

    @property
    def is_stuck(self) -> bool:
        """In no run gamma of any layer ever left its start."""
        return all(
            values == (self.start[0],) * len(values)
            for record in self.records
            for line in record.trajectories
            if line.parameter == "gamma"
            for values in (line.min, line.max)
        )


@dataclass(frozen=True, slots=True)
class Side:
    """All arms of one optimizer."""

    optimizer: str
    usual: Arm
    fixed: Arm
    only: Arm | None
    starts: tuple[Arm, ...]

    @property
    def name(self) -> str:
        """The optimizer as the report writes it."""
        return OPTIMIZERS[self.optimizer]

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The usual start, what is compared with it, and the other starts."""
        return (self.usual, self.fixed, *([self.only] if self.only else []), *self.starts)

    def checks(self) -> list[Check]:
        """Return what was held against the formulas, in all runs."""
        return [c for arm in self.arms for record in arm.records for c in record.checks]


def sides_of(records: Sequence[ScaleRecord]) -> tuple[Side, ...]:
    """Sort the records by optimizer and arm, in the order of the plan."""
    return tuple(
        _side(optimizer, members)
        for optimizer, members in grouped(records, lambda r: r.config.optimizer).items()
    )


def _side(optimizer: str, records: Sequence[ScaleRecord]) -> Side:
    groups = grouped(records, lambda r: (r.config.learned, (r.config.gamma, r.config.beta)))
    arms = {
        key: Arm(
            optimizer, *key, tuple(map(Group, grouped(runs, lambda r: r.config.rate).values()))
        )
        for key, runs in groups.items()
    }
    others = [arm for (kind, start), arm in arms.items() if kind == "all" and start != USUAL]
    return Side(
        optimizer,
        arms["all", USUAL],
        arms["others", USUAL],
        arms.get(("affine", USUAL)),
        tuple(others),
    )


def final_accuracy(record: ScaleRecord) -> float:
    """Return the mean accuracy over the last recorded steps; the very last of a broken run."""
    last = record.test_accuracy[-LATE if record.finite else -1 :]
    return math.fsum(last) / len(last)


def start_name(start: Start) -> str:
    """Return a start in words."""
    return f"gamma {start[0]:g}, beta {start[1]:g}"


def lines(record: ScaleRecord, parameter: str) -> list[Trajectory]:
    """Return the trajectories of one parameter, from the first layer on."""
    return [line for line in record.trajectories if line.parameter == parameter]
