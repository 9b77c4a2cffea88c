"""Runs sorted by training set, batch size and network, each network at its best rate."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from evenkeel.study._statistics import Spread, grouped
from evenkeel.study.sections.regularization._plan import network_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evenkeel.study._plan import RunConfig
    from evenkeel.study.sections.regularization._plan import Network
    from evenkeel.study.sections.regularization._run import Record

#: Records at the end of a run whose mean is its result.
LAST: Final = 3
#: What is compared.
What: TypeAlias = Literal["train", "test", "gap", "train loss", "test loss"]
#: Losses above this, and those that are not finite, count as this, so that means stay finite.
LARGEST_LOSS: Final = 1e6


@dataclass(frozen=True, slots=True)
class Outcome:
    """The runs of one network in one setting at one rate, one for each seed."""

    records: tuple[Record, ...]

    @classmethod
    def best(cls, records: Sequence[Record]) -> Outcome:
        """Choose the rate with the lowest final training loss, averaged over the seeds."""
        rates = sorted(grouped(records, lambda record: record.config.rate).items())
        return min((cls(members) for _, members in rates), key=lambda o: o.mean("train loss"))

    @property
    def config(self) -> RunConfig:
        """The configuration of the first run."""
        return self.records[0].config

    def values(self, what: What) -> list[float]:
        """Return one number for each seed: the mean over the last records of a run."""
        return [_final(record, what) for record in self.records]

    def mean(self, what: What) -> float:
        """Return the mean over the seeds."""
        return statistics.fmean(self.values(what))

    def losses(self) -> tuple[tuple[int, ...], list[Spread]]:
        """Return the test loss over the steps that all runs recorded."""
        curves = [dict(zip(r.steps, r.test_loss, strict=True)) for r in self.records]
        steps = sorted(set(curves[0]).intersection(*curves[1:]))
        return tuple(steps), [Spread.of(_bounded(c[step]) for c in curves) for step in steps]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Every network in every setting at its best rate.

    Args:
        settings: by size of the training set and batch size.
        seeds: how many.
    """

    settings: dict[tuple[int, int], dict[Network, Outcome]]
    seeds: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the training sets."""
        return tuple(sorted({size for size, _ in self.settings}))

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Batch sizes."""
        return tuple(sorted({batch for _, batch in self.settings}))

    def values(
        self,
        what: What,
        network: Network,
        size: int | None = None,
        batch_size: int | None = None,
    ) -> list[float]:
        """Return one number for each seed, averaged over the settings that are not given."""
        columns = [
            networks[network].values(what)
            for (samples, batch), networks in self.settings.items()
            if size in {None, samples} and batch_size in {None, batch}
        ]
        return [statistics.fmean(values) for values in zip(*columns, strict=True)]

    def differences(
        self,
        what: What,
        networks: tuple[Network, Network],
        size: int | None = None,
        batch_size: int | None = None,
    ) -> list[float]:
        """Return by seed how much larger a number is for the first network than the second."""
        first, second = (self.values(what, network, size, batch_size) for network in networks)
        return [a - b for a, b in zip(first, second, strict=True)]

    def spread(
        self, what: What, network: Network, size: int, batch_size: int | None = None
    ) -> Spread:
        """Return :meth:`values` over the seeds."""
        return Spread.of(self.values(what, network, size, batch_size))


def outcomes_of(records: Sequence[Record]) -> Outcomes:
    """Sort the records of a whole plan.

    Where the data has fewer samples than asked for, two sizes are the same; one is left out.
    """
    asked: dict[int, int | None] = {}
    for record in records:
        asked.setdefault(record.samples, record.config.samples)
    kept = [record for record in records if asked[record.samples] == record.config.samples]
    settings = grouped(kept, lambda r: (r.samples, r.config.batch_size))
    return Outcomes(
        settings={setting: _networks(members) for setting, members in settings.items()},
        seeds=len({record.config.seed for record in records}),
    )


def _networks(records: Sequence[Record]) -> dict[Network, Outcome]:
    networks = grouped(records, _network)
    return {network: Outcome.best(members) for network, members in networks.items()}


def _network(record: Record) -> Network:
    return network_of(record.config)


def _final(record: Record, what: What) -> float:
    match what:
        case "train":
            return statistics.fmean(record.train_accuracy[-LAST:])
        case "test":
            return statistics.fmean(record.test_accuracy[-LAST:])
        case "gap":
            return _final(record, "train") - _final(record, "test")
        case "train loss":
            return statistics.fmean(map(_bounded, record.train_loss[-LAST:]))
        case "test loss":
            return statistics.fmean(map(_bounded, record.test_loss[-LAST:]))


def _bounded(loss: float | None) -> float:
    return LARGEST_LOSS if loss is None else min(loss, LARGEST_LOSS)
