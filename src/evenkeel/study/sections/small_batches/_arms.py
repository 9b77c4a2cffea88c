"""Runs sorted by what differs between them, and the accuracies that are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from evenkeel.study._statistics import Spread, grouped
from evenkeel.study.sections.small_batches._plan import LARGE, REFERENCE, WARM_UP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evenkeel.study.sections.small_batches._run import Inference, Noise, Record

#: A way to train and to predict, compared at one batch size.
Way: TypeAlias = Literal["without", "running", "own", "recalibrated", "frozen"]
#: The ways in words.
WAYS: Final[dict[Way, str]] = {
    "without": "without batch norm",
    "running": "batch norm, running averages",
    "own": "batch norm, each test batch's own statistics",
    "recalibrated": "batch norm, recalibrated",
    "frozen": f"batch norm, frozen after {WARM_UP:.0%} of the steps",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The runs of one way at its best rate, one for each seed.

    The best rate is the one with the highest training accuracy, averaged over seeds, with the
    same statistics in inference; the smaller one in a tie.
    """

    records: tuple[Record, ...]
    inference: Inference

    @classmethod
    def best(cls, records: Sequence[Record], inference: Inference = "running") -> Outcome:
        """Choose the rate among the runs of all rates and seeds."""
        rates = [
            cls(members, inference)
            for _, members in sorted(grouped(records, lambda r: r.config.rate).items())
        ]
        return max(rates, key=lambda outcome: Spread.of(outcome.train).mean)

    @property
    def rate(self) -> float:
        """The learning rate of the runs."""
        return self.records[0].config.rate

    @property
    def train(self) -> list[float]:
        """Training accuracy by seed."""
        return [record.scores[self.inference].train for record in self.records]

    @property
    def test(self) -> list[float]:
        """Test accuracy by seed."""
        return [record.scores[self.inference].test for record in self.records]

    @property
    def spread(self) -> Spread:
        """Test accuracy over the seeds."""
        return Spread.of(self.test)

    def over(self, other: Outcome) -> list[float]:
        """Return how much higher the test accuracy is than that of another, by seed."""
        return [a - b for a, b in zip(self.test, other.test, strict=True)]

    def curve(self) -> tuple[tuple[int, ...], list[Spread]]:
        """Return test accuracy over the steps that all runs recorded."""
        curves = [dict(zip(r.steps, r.test_accuracy, strict=True)) for r in self.records]
        steps = sorted(set(curves[0]).intersection(*curves[1:]))
        return tuple(steps), [Spread.of(curve[step] for curve in curves) for step in steps]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Every comparison of the section, at the best rate of each side.

    Args:
        ways: by batch size; "frozen" only where it was tried.
        groups: by group size, inside batches of ``LARGE``.
        noise: of the batch statistics, one tuple for each seed.
        seeds: how many.
    """

    ways: dict[int, dict[Way, Outcome]]
    groups: dict[int, Outcome]
    noise: tuple[tuple[Noise, ...], ...]
    seeds: int

    @property
    def smallest(self) -> int:
        """The smallest batch size."""
        return min(self.ways)

    @property
    def whole(self) -> Outcome:
        """Batch norm with the statistics of the whole batch of ``LARGE``."""
        return self.ways[LARGE]["running"]


def outcomes_of(records: Sequence[Record]) -> Outcomes:
    """Sort the records of a whole plan."""
    arms = grouped(records, lambda r: (r.config.batch_norm, r.config.statistics, r.config.group))
    ways: dict[int, dict[Way, Outcome]] = {}
    for size, members in _by_size(arms[True, "batch", None]).items():
        ways[size] = {
            "running": Outcome.best(members),
            "own": Outcome.best(members, "own"),
            "recalibrated": Outcome.best(members, "recalibrated"),
        }
    for size, members in _by_size(arms[False, "batch", None]).items():
        ways[size] = {"without": Outcome.best(members), **ways[size]}
    for size, members in _by_size(arms[True, "frozen", None]).items():
        ways[size]["frozen"] = Outcome.best(members)
    return Outcomes(
        ways=dict(sorted(ways.items())),
        groups={g: Outcome.best(runs) for (_, _, g), runs in arms.items() if g is not None},
        noise=tuple(record.noise for record in ways[REFERENCE]["running"].records),
        seeds=len({record.config.seed for record in records}),
    )


def _by_size(records: Sequence[Record]) -> dict[int, tuple[Record, ...]]:
    return grouped(records, lambda record: record.config.batch_size)
