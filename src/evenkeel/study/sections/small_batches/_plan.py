"""The batch sizes, the ways to take the statistics, and the runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from evenkeel.study._plan import RunConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evenkeel.study._plan import Scale

NAME: Final = "small-batches"
#: What batch norm normalizes with in training: the batch, groups of it, or constants.
Statistics: TypeAlias = Literal["batch", "groups", "frozen"]
#: Batch size at which the learning rates of the grid hold as they are.
REFERENCE: Final = 64
#: Batch size of the runs with groups inside the batch.
LARGE: Final = 256
#: Share of a run after which frozen statistics are fixed.
WARM_UP: Final = 0.25
_HIDDEN: Final = (128, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(RunConfig):
    """A run of this section.

    Args:
        statistics: what batch norm normalizes with in training; "frozen" is "batch" until
            ``WARM_UP``.
        group: samples that share their statistics; None unless ``statistics`` is "groups".
    """

    statistics: Statistics = "batch"
    group: int | None = None


@dataclass(frozen=True, slots=True)
class Grid:
    """What the full study and a quick look differ in.

    Args:
        sizes: batch sizes, with batch norm and without.
        frozen: batch sizes with frozen statistics.
        groups: sizes of the groups inside a batch of ``LARGE``.
        rates: learning rates at a batch size of ``REFERENCE``.
        samples: that every run sees, passes counted, unless ``steps`` is more.
        steps: that every run makes at least.
    """

    sizes: tuple[int, ...]
    frozen: tuple[int, ...]
    groups: tuple[int, ...]
    rates: tuple[float, ...]
    samples: int
    steps: int


FULL: Final = Grid(
    sizes=(2, 4, 8, 16, 32, 64, 128, 256),
    frozen=(2, 4, 8),
    groups=(2, 4, 16, 64),
    rates=(0.1, 0.3),
    samples=1024,
    steps=64,
)
QUICK: Final = Grid(
    sizes=(2, 8, 64, 256),
    frozen=(2,),
    groups=(2, 16),
    rates=(0.3,),
    samples=384,
    steps=40,
)


def plan(scale: Scale) -> tuple[Config, ...]:
    """Every batch size, kind of statistics, rate and seed."""
    grid = QUICK if scale.quick else FULL
    return tuple(
        Config(
            section=NAME,
            seed=seed,
            hidden=_HIDDEN,
            batch_norm=batch_norm,
            statistics=statistics,
            group=group,
            batch_size=size,
            rate=rate_at(size, rate),
            epochs=grid.samples,  # as many as it takes: max_steps ends the run
            max_steps=max(grid.steps, grid.samples // size),
        )
        for batch_norm, statistics, group, size in _arms(grid)
        for rate in grid.rates
        for seed in scale.seeds
    )


def rate_at(batch_size: int, rate: float) -> float:
    """Scale a learning rate with the square root of the batch size, to three digits."""
    return float(f"{rate * math.sqrt(batch_size / REFERENCE):.3g}")


def _arms(grid: Grid) -> Iterator[tuple[bool, Statistics, int | None, int]]:
    for size in grid.sizes:
        yield False, "batch", None, size
        yield True, "batch", None, size
    for size in grid.frozen:
        yield True, "frozen", None, size
    for group in grid.groups:
        yield True, "groups", group, LARGE
