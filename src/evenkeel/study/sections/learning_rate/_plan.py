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
#: Learning rates of each optimizer: five decades, two per decade; the same for all networks.
RATES: Final[dict[Optimizer, tuple[float, ...]]] = {
    "sgd": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
    "adam": (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0),
}


def plan(scale: Scale) -> tuple[RunConfig, ...]:
    """Every network, optimizer, rate and seed, with batch norm and without.

    The deeper network, and every network in a quick look, takes one rate per decade.
    """
    return tuple(
        RunConfig(
            section=NAME,
            hidden=hidden,
            batch_norm=batch_norm,
            optimizer=optimizer,
            rate=rate,
            seed=seed,
            epochs=4 if scale.quick else 10,
            target=TARGET,
        )
        for hidden in NETWORKS.values()
        for optimizer, rates in RATES.items()
        for batch_norm in (True, False)
        for rate in (rates[::2] if scale.quick or len(hidden) > 3 else rates)
        for seed in scale.seeds
    )


def network_name(config: RunConfig) -> str:
    """Return the name of the network of a run."""
    return next(name for name, hidden in NETWORKS.items() if hidden == config.hidden)
