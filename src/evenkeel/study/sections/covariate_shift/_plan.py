"""The networks, the learning rates and the runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from evenkeel.study._plan import RunConfig

if TYPE_CHECKING:
    from evenkeel.study._plan import Scale

NAME: Final = "covariate-shift"
#: SGD's learning rates; the same for both networks.
RATES: Final = (0.03, 0.1, 0.3, 1.0, 3.0)
QUICK_RATES: Final = (0.1, 1.0)
#: The rate at which all networks are compared first.
COMMON: Final = 0.1
#: Drift is measured from so many steps ago.
LAG: Final = 5
#: Step sizes along the gradient at which the loss is looked at: half to four times COMMON.
SIZES: Final = (0.05, 0.1, 0.2, 0.4)
#: Most samples of the fixed probe batch.
PROBE: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftConfig(RunConfig):
    """A run of this section.

    Args:
        noise: after each batch-norm layer, multiply and shift every unit by random numbers that
            are drawn anew at every step.
    """

    noise: bool = False


def plan(scale: Scale) -> tuple[ShiftConfig, ...]:
    """Both networks at every rate, and the noisy one at the common rate."""
    rates = QUICK_RATES if scale.quick else RATES
    arms = [(norm, False, rate) for norm in (True, False) for rate in rates]
    return tuple(
        ShiftConfig(
            section=NAME,
            batch_norm=batch_norm,
            noise=noise,
            rate=rate,
            seed=seed,
            epochs=2 if scale.quick else 8,
        )
        for batch_norm, noise, rate in [*arms, (True, True, COMMON)]
        for seed in scale.seeds
    )
