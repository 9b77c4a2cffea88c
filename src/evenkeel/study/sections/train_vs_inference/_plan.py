"""The batch sizes, the momenta and the runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from evenkeel.study._plan import RunConfig

if TYPE_CHECKING:
    from evenkeel.study._plan import Scale

NAME: Final = "train-vs-inference"
#: Samples per batch, in training and where test batches are normalized with their own statistics.
SIZES: Final = (2, 8, 32, 128)
#: Momenta of the running averages; they weigh the new batch, as in torch. torch's default is 0.1.
MOMENTA: Final = (0.01, 0.1, 0.5, 1.0)
DEFAULT: Final = 0.1
#: Learning rate of all runs.
RATE: Final = 0.1
#: Up to this step it is "early"; so many of the last recorded steps are "the end".
EARLY: Final = 20
_FIRST: Final = (1, 2, 3, 5, 7, 10, 14, 20, 30, 45, 65, 100, 150, 220, 320, 450)
_LATE_SHARES: Final = (0.8, 0.85, 0.9, 0.95, 1.0)
LATE: Final = len(_LATE_SHARES)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeConfig(RunConfig):
    """One training, and the momenta of the running averages that are kept of it."""

    momenta: tuple[float, ...] = MOMENTA


def plan(scale: Scale) -> tuple[ModeConfig, ...]:
    """Every batch size and seed; with a momentum of 1 a layer holds the last batch's statistics."""
    return tuple(
        ModeConfig(
            section=NAME,
            seed=seed,
            rate=RATE,
            batch_size=size,
            momentum=1.0,
            epochs=10_000,
            max_steps=80 if scale.quick else 500,
        )
        for size in SIZES
        for seed in scale.seeds
    )


def recorded_steps(total: int) -> tuple[int, ...]:
    """Return the steps at which accuracy is measured: the first ones, ever fewer, and the last."""
    late = {max(1, round(share * total)) for share in _LATE_SHARES}
    return tuple(sorted({*late, *(step for step in _FIRST if step < min(late))}))
