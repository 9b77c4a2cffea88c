"""The networks, the training sets and the runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from evenkeel.study._plan import RunConfig

if TYPE_CHECKING:
    from evenkeel.study._plan import Scale

NAME: Final = "regularization"
#: Share of units that dropout drops.
DROPOUT: Final = 0.2
Network: TypeAlias = Literal["plain", "batch norm", "dropout", "both"]
#: Batch norm or not, and the share of units dropped, by name of the network.
NETWORKS: Final[dict[Network, tuple[bool, float]]] = {
    "plain": (False, 0.0),
    "batch norm": (True, 0.0),
    "dropout": (False, DROPOUT),
    "both": (True, DROPOUT),
}
_HIDDEN: Final = (128, 64)


@dataclass(frozen=True, slots=True)
class Grid:
    """What the full study and a quick look differ in.

    Args:
        steps: of every run, by size of the training set.
        batch_sizes: of every training set.
        rates: learning rates of every network.
    """

    steps: dict[int, int]
    batch_sizes: tuple[int, ...]
    rates: tuple[float, ...]


FULL: Final = Grid(steps={100: 100, 300: 150, 1000: 200}, batch_sizes=(16, 64), rates=(0.1, 0.3))
QUICK: Final = Grid(steps={100: 60, 300: 80}, batch_sizes=(16,), rates=(0.3,))


def plan(scale: Scale) -> tuple[RunConfig, ...]:
    """Every training set, batch size, network, rate and seed."""
    grid = QUICK if scale.quick else FULL
    return tuple(
        RunConfig(
            section=NAME,
            seed=seed,
            hidden=_HIDDEN,
            batch_norm=batch_norm,
            dropout=dropout,
            samples=samples,
            batch_size=batch_size,
            rate=rate,
            epochs=steps,  # as many as it takes: max_steps ends the run
            max_steps=steps,
        )
        for samples, steps in grid.steps.items()
        for batch_size in grid.batch_sizes
        for batch_norm, dropout in NETWORKS.values()
        for rate in grid.rates
        for seed in scale.seeds
    )


def network_of(config: RunConfig) -> Network:
    """Return the name of the network of a run."""
    made_of = (config.batch_norm, config.dropout)
    return next(name for name, parts in NETWORKS.items() if parts == made_of)
