"""Runs sorted by arm, each beside the run of its seed that stayed where it comes from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from evenkeel.study._statistics import grouped
from evenkeel.study.sections.frameworks._plan import ARMS, EARLY, Arm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from evenkeel.study.sections.frameworks._records import FrameworkRecord

Moment: TypeAlias = Literal["early", "end"]
#: Number of recorded steps that count as the end.
LATE: Final = 5
MOMENTS: Final[dict[Moment, str]] = {
    "early": f"up to step {EARLY}",
    "end": "at the end",
}
#: What a loss that is not finite counts as.
LOST: Final = 100.0
#: A value for each recorded step of a run.
Curve: TypeAlias = "Callable[[FrameworkRecord], Sequence[float]]"


@dataclass(frozen=True, slots=True)
class Group:
    """The runs of one arm, and those of the network at home, in the order of the seeds."""

    arm: Arm
    records: tuple[FrameworkRecord, ...]
    home: tuple[FrameworkRecord, ...]

    def ratios(self, moment: Moment) -> list[float]:
        """Mean inference loss relative to that at home, minus 1, of each seed."""
        pairs = zip(self.records, self.home, strict=True)
        return [mean(a, loss, moment) / mean(b, loss, moment) - 1 for a, b in pairs]

    def gaps(self, moment: Moment) -> list[float]:
        """Mean accuracy minus that at home, of each seed."""
        pairs = zip(self.records, self.home, strict=True)
        return [mean(a, accuracy, moment) - mean(b, accuracy, moment) for a, b in pairs]

    def first(self) -> list[float]:
        """Largest relative difference in training loss from home over the first steps."""
        return [
            max(
                abs(a - b) / b if a is not None and b else LOST
                for a, b in zip(own.losses, home.losses, strict=True)
            )
            for own, home in zip(self.records, self.home, strict=True)
        ]


def loss(record: FrameworkRecord) -> Sequence[float]:
    """Return the inference losses."""
    return [LOST if value is None else value for value in record.test_loss]


def accuracy(record: FrameworkRecord) -> Sequence[float]:
    """Return the inference accuracies."""
    return record.test_accuracy


def mean(record: FrameworkRecord, curve: Curve, moment: Moment) -> float:
    """Return the mean of a curve over the early or the last recorded steps."""
    values = list(curve(record))
    if moment == "end":
        chosen = values[-LATE:]
    else:
        chosen = [v for step, v in zip(record.steps, values, strict=True) if step <= EARLY]
    return math.fsum(chosen) / len(chosen)


def groups_of(records: Sequence[FrameworkRecord]) -> tuple[Group, ...]:
    """Sort the records by arm, in the order of the plan."""
    by_arm = grouped(records, lambda record: record.config.arm)
    homes = {arm.origin: by_arm[arm] for arm in ARMS if arm.settings == "own"}
    return tuple(Group(arm, runs, homes[arm.origin]) for arm, runs in by_arm.items())
