"""Runs sorted by batch size, and their accuracies early and at the end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from evenkeel.study._statistics import Spread, grouped
from evenkeel.study.sections.train_vs_inference._plan import EARLY, LATE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from evenkeel.study.sections.train_vs_inference._records import ModeRecord

Moment: TypeAlias = Literal["early", "end"]
MOMENTS: Final[dict[Moment, str]] = {
    "early": f"over the first {EARLY} steps",
    "end": "at the end",
}
#: An accuracy for each recorded step of a run.
Curve: TypeAlias = "Callable[[ModeRecord], Sequence[float]]"


@dataclass(frozen=True, slots=True)
class Group:
    """The runs with one batch size, in the order of the seeds."""

    records: tuple[ModeRecord, ...]

    @property
    def size(self) -> int:
        """Samples per batch."""
        return self.records[0].config.batch_size

    @property
    def momenta(self) -> tuple[float, ...]:
        """The momenta whose running averages were kept."""
        return self.records[0].config.momenta

    def at(self, moment: Moment, curve: Curve) -> list[float]:
        """Return the mean of a curve over the early or the last recorded steps, of each run."""
        return [_mean(record, curve(record), moment) for record in self.records]

    def over_steps(self, curve: Curve) -> tuple[tuple[int, ...], list[Spread]]:
        """Return a curve over the steps that all runs recorded."""
        lookups = [dict(zip(r.steps, curve(r), strict=True)) for r in self.records]
        common = [step for step in lookups[0] if all(step in look for look in lookups)]
        return tuple(common), [Spread.of(look[step] for look in lookups) for step in common]


def batch(record: ModeRecord) -> Sequence[float]:
    """Return the accuracy with the statistics of the test batches."""
    return record.batch


def whole(record: ModeRecord) -> Sequence[float]:
    """Return the accuracy with the statistics of the whole training set."""
    return record.whole


def running(momentum: float) -> Curve:
    """Return the accuracy with the running averages under a momentum."""
    return lambda record: record.running[record.config.momenta.index(momentum)]


def gap(curve: Curve) -> Curve:
    """Return a curve minus the accuracy with batch statistics."""
    return lambda record: [a - b for a, b in zip(curve(record), record.batch, strict=True)]


def above_guessing(record: ModeRecord) -> Sequence[float]:
    """Return the best of all accuracies minus the share of the commonest class."""
    kinds = zip(record.batch, record.whole, *record.running, strict=True)
    return [max(accuracies) - record.majority for accuracies in kinds]


def groups_of(records: Sequence[ModeRecord]) -> tuple[Group, ...]:
    """Sort the records by batch size, in the order of the plan."""
    return tuple(map(Group, grouped(records, lambda r: r.config.batch_size).values()))


def _mean(record: ModeRecord, values: Sequence[float], moment: Moment) -> float:
    if moment == "end":
        chosen = list(values[-LATE:])
    else:
        chosen = [v for step, v in zip(record.steps, values, strict=True) if step <= EARLY]
    return math.fsum(chosen) / len(chosen)
