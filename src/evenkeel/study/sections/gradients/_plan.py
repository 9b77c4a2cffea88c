"""The networks and the runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from evenkeel.study._plan import RunConfig

if TYPE_CHECKING:
    from evenkeel.study._plan import Activation, Scale

NAME: Final = "gradients"
#: Units in every hidden layer.
WIDTH: Final = 64
#: The activations by the name of their configuration, as the report writes them.
ACTIVATIONS: Final[dict[Activation, str]] = {"sigmoid": "sigmoid", "tanh": "tanh", "relu": "ReLU"}
#: Numbers of hidden layers.
DEPTHS: Final = (5, 10, 20, 40)
QUICK_DEPTHS: Final = (5, 20)
#: SGD's learning rate, the same for all networks.
RATE: Final = 0.1
#: Optimizer steps of a run.
STEPS: Final = 30
QUICK_STEPS: Final = 14
#: Batches over which the gradient at the start is averaged.
START_BATCHES: Final = 4


def plan(scale: Scale) -> tuple[RunConfig, ...]:
    """Every activation, depth and seed, with batch norm and without."""
    return tuple(
        RunConfig(
            section=NAME,
            hidden=(WIDTH,) * depth,
            activation=activation,
            batch_norm=batch_norm,
            rate=RATE,
            seed=seed,
            max_steps=QUICK_STEPS if scale.quick else STEPS,
        )
        for activation in ACTIVATIONS
        for depth in (QUICK_DEPTHS if scale.quick else DEPTHS)
        for batch_norm in (True, False)
        for seed in scale.seeds
    )
