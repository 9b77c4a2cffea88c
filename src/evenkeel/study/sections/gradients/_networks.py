"""Runs sorted into networks: one activation, one depth, with or without batch norm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from evenkeel.study._statistics import Spread, grouped
from evenkeel.study.sections.gradients._plan import ACTIVATIONS
from evenkeel.study.sections.gradients._verdict import Setting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evenkeel.study._plan import Activation
    from evenkeel.study.sections.gradients._run import GradientRecord

#: Farthest that a ratio of two gradients is followed; also stands for "vanished entirely" and
#: "not finite". float32 reaches over less than 40 decades on either side of 1.
FARTHEST: Final = 40.0
#: Share of the loss of the best constant prediction that a trained network stays below.
_LEARNED: Final = 0.9


@dataclass(frozen=True, slots=True)
class Network:
    """The runs of one network, which differ in nothing but the seed."""

    records: tuple[GradientRecord, ...]

    @property
    def activation(self) -> Activation:
        """Name of the activation in the configuration."""
        return self.records[0].config.activation

    @property
    def name(self) -> str:
        """Name of the activation in words."""
        return ACTIVATIONS[self.activation]

    @property
    def depth(self) -> int:
        """Number of hidden layers."""
        return len(self.records[0].config.hidden)

    @property
    def batch_norm(self) -> bool:
        """Whether there is batch norm."""
        return self.records[0].config.batch_norm

    @property
    def label(self) -> str:
        """Activation and depth, and whether there is batch norm."""
        norm = "with" if self.batch_norm else "without"
        return f"{self.name}, {self.depth} layers, {norm}"

    def setting(self, stage: str) -> Setting:
        """Return what is compared at one stage."""
        return Setting(self.activation, self.depth, stage)

    def per_seed(self, stage: str) -> list[float]:
        """Return the decades from the last to the first hidden layer's gradient, for each run."""
        profiles = (r.start if stage == "start" else r.training for r in self.records)
        return [decades(profile[0], profile[-1]) for profile in profiles]

    def by_layer(self, stage: str) -> list[Spread]:
        """Return every hidden layer's decades beyond the last one's."""
        profiles = [r.start if stage == "start" else r.training for r in self.records]
        relative = [[decades(value, profile[-1]) for value in profile] for profile in profiles]
        return [Spread.of(column) for column in zip(*relative, strict=True)]

    def over_steps(self) -> tuple[tuple[int, ...], list[Spread]]:
        """Return the decades at the start and at every step that all runs recorded."""
        steps = min((record.steps for record in self.records), key=len)
        starts = Spread.of(self.per_seed("start"))
        later = [
            Spread.of(decades(r.first[k], r.last[k]) for r in self.records)
            for k in range(len(steps))
        ]
        return (0, *steps), [starts, *later]

    def losses(self) -> tuple[tuple[int, ...], list[Spread | None]]:
        """Return the training loss over the steps that all runs recorded."""
        steps = min((record.steps for record in self.records), key=len)
        return steps, [_known([r.train_loss[k] for r in self.records]) for k in range(len(steps))]

    @property
    def learned(self) -> int:
        """Number of runs whose loss fell clearly below that of the best constant prediction."""
        return sum(map(learned, self.records))


def learned(record: GradientRecord) -> bool:
    """Say whether the last recorded loss is below 90% of the best constant prediction's."""
    last = record.train_loss[-1] if record.train_loss else None
    return record.finite and last is not None and last < _LEARNED * record.chance_loss


def decades(first: float | None, last: float | None) -> float:
    """Return log10 of first / last; no gradient counts as the farthest vanishing.

    A gradient that is not finite counts as the farthest explosion.
    """
    if first is None or last is None:
        return FARTHEST
    if first == 0 or last == 0:
        return -FARTHEST
    return max(-FARTHEST, min(FARTHEST, math.log10(first / last)))


def networks_of(records: Sequence[GradientRecord]) -> tuple[Network, ...]:
    """Sort the records into networks, in the order of the plan."""
    by = grouped(records, lambda r: (r.config.activation, r.config.hidden, r.config.batch_norm))
    return tuple(map(Network, by.values()))


def pairs_of(networks: Sequence[Network]) -> tuple[tuple[Network, Network], ...]:
    """Return the networks with batch norm, each beside the one without."""
    return tuple(
        (a, b)
        for a in networks
        for b in networks
        if a.setting("") == b.setting("") and a.batch_norm and not b.batch_norm
    )


def _known(values: Sequence[float | None]) -> Spread | None:
    finite = [value for value in values if value is not None]
    return Spread.of(finite) if len(finite) == len(values) else None
