"""The networks, the learning rates and the runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from evenkeel.study._plan import RunConfig

if TYPE_CHECKING:
    from evenkeel.study._plan import Optimizer, Scale

NAME: Final = "learning-rate"
#: Test accuracy that "reached" means in this section.
TARGET: Final = 0.9
#: Widths of the hidden layers by name of the network.
NETWORKS: Final[dict[str, tuple[int, ...]]] = {
    "3 layers": (256, 128, 64),
    "8 layers": (64,) * 8,
}
#: Learning rates of each optimizer over five decades, the same for all networks: one per decade,
#: and one between where training changes from too slow to too fast.
RATES: Final[dict[Optimizer, tuple[float, ...]]] = {
    "sgd": (0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0),
    "adam": (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 1.0),
}


def plan(scale: Scale) -> tuple[RunConfig, ...]:
    """Every network, optimizer, rate and seed, with batch norm and without.

    The deeper network takes one rate per decade. A quick look does without it, and takes one rate
    per decade for the other.
    """
    return tuple(
        RunConfig(
            section=NAME,
            hidden=hidden,
            batch_norm=batch_norm,
            optimizer=optimizer,
            rate=rate,
            seed=seed,
            epochs=3 if scale.quick else 6,
            target=TARGET,
        )
        for hidden in list(NETWORKS.values())[: 1 if scale.quick else None]
        for optimizer, rates in RATES.items()
        for batch_norm in (True, False)
        for rate in (_coarse(rates) if scale.quick or len(hidden) > 3 else rates)
        for seed in scale.seeds
    )


def _coarse(rates: tuple[float, ...]) -> tuple[float, ...]:
    """Return the powers of ten."""
    return tuple(rate for rate in rates if f"{rate:e}".startswith("1.0"))


def network_name(config: RunConfig) -> str:
    """Return the name of the network of a run."""
    return next(name for name, hidden in NETWORKS.items() if hidden == config.hidden)
