"""The starts of gamma and beta, what is learned, the learning rates and the runs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from evenkeel.study._plan import Optimizer, RunConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evenkeel.study._plan import Scale

NAME: Final = "scale-and-shift"
#: All parameters; all but gamma and beta; gamma and beta alone.
Learned: TypeAlias = Literal["all", "others", "affine"]
#: Initial gamma and beta.
Start: TypeAlias = tuple[float, float]

USUAL: Final[Start] = (1.0, 0.0)
#: The starts that are compared with the usual one.
STARTS: Final[tuple[Start, ...]] = (
    (0.0, 0.0),
    (0.1, 0.0),
    (10.0, 0.0),
    (1.0, -1.0),
    (1.0, 1.0),
    (0.0, 1.0),
)
#: Learning rates of each optimizer, the same for every start and for all that is learned.
RATES: Final[dict[Optimizer, tuple[float, ...]]] = {"sgd": (0.1, 0.5), "adam": (0.001, 0.005)}
_EARLY: Final = (5, 10, 20, 30, 45, 60)
#: Recorded steps over whose mean the accuracy "at the end" is taken.
LATE: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleConfig(RunConfig):
    """A run with a start of gamma and beta, and with the choice of what is learned."""

    learned: Learned = "all"


def plan(scale: Scale) -> tuple[ScaleConfig, ...]:
    """Every optimizer, rate, start and seed; a quick look takes the larger rate, fewer starts."""
    return tuple(
        ScaleConfig(
            section=NAME,
            seed=seed,
            optimizer=optimizer,
            rate=rate,
            gamma=gamma,
            beta=beta,
            learned=learned,
            epochs=1000,
            max_steps=50 if scale.quick else 70,
        )
        for optimizer, rates in RATES.items()
        for learned, (gamma, beta) in _arms(quick=scale.quick)
        for rate in (rates[-1:] if scale.quick else rates)
        for seed in scale.seeds
    )


def _arms(*, quick: bool) -> Iterator[tuple[Learned, Start]]:
    """What is learned and from where; the usual start, all learned, comes first."""
    yield "all", USUAL
    yield "others", USUAL
    if not quick:
        yield "affine", USUAL
    yield from product(("all",), STARTS[:-2] if quick else STARTS)


def recorded_steps(total: int) -> tuple[int, ...]:
    """Return the steps at which a run is recorded, from 0 to ``total``."""
    late = {round(share * total) for share in (0.9, 0.95, 1)}
    return tuple(sorted({0, *late, *(step for step in _EARLY if step < min(late))}))


def checked_steps(total: int) -> tuple[int, ...]:
    """Return the steps at which gradients and updates are held against the formulas."""
    thirds = {1, total, *(total * part // 3 for part in (1, 2))}
    return tuple(sorted(step for step in thirds if 1 <= step <= total))
