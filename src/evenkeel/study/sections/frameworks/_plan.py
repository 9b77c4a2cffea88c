"""The frameworks, how the settings get from one to the other, and the runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from evenkeel.spec import Momentum, Spec
from evenkeel.study._plan import RunConfig

if TYPE_CHECKING:
    from evenkeel.study._plan import Scale

#: Where a network is trained. Keras runs on the backend that is set, on JAX if none is.
Framework: TypeAlias = Literal["torch", "keras", "flax"]
#: ``own``: the network stays where its settings come from; ``translated``: they keep their
#: meaning; ``copied``: eps and momentum are the same numbers in the other framework's own layer.
Settings: TypeAlias = Literal["own", "translated", "copied"]

NAME: Final = "frameworks"
RATE: Final = 0.1
#: Recorded steps up to this one count as early: the running averages still hold their start.
EARLY: Final = 100
#: The defaults of the framework that a network comes from.
ORIGINS: Final[dict[Framework, Spec]] = {
    "torch": Spec(1, eps=1e-5, momentum=Momentum(0.1, "new"), variance="unbiased"),
    "keras": Spec(1, eps=1e-3, momentum=Momentum(0.99, "old"), variance="biased"),
}
#: Written names of the frameworks.
TITLES: Final[dict[Framework, str]] = {"torch": "PyTorch", "keras": "Keras", "flax": "Flax"}


@dataclass(frozen=True, slots=True)
class Arm:
    """Where the settings come from, where the network is trained, and how they got there."""

    origin: Framework
    framework: Framework
    settings: Settings

    @property
    def key(self) -> str:
        """Name in measures."""
        return f"{self.origin}-to-{self.framework}-{self.settings}"

    @property
    def title(self) -> str:
        """Name in legends and tables."""
        if self.settings == "own":
            return f"{TITLES[self.framework]}, where it comes from"
        return f"{TITLES[self.framework]}, {self.settings}"


#: Keras and Flax share their convention, so between them copying is translating.
ARMS: Final = (
    Arm("torch", "torch", "own"),
    Arm("torch", "keras", "translated"),
    Arm("torch", "keras", "copied"),
    Arm("torch", "flax", "translated"),
    Arm("torch", "flax", "copied"),
    Arm("keras", "keras", "own"),
    Arm("keras", "torch", "translated"),
    Arm("keras", "torch", "copied"),
    Arm("keras", "flax", "translated"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameworkConfig(RunConfig):
    """One run, with the arm that it belongs to."""

    origin: Framework
    framework: Framework
    settings: Settings

    @property
    def arm(self) -> Arm:
        """The arm of the run."""
        return Arm(self.origin, self.framework, self.settings)


def plan(scale: Scale) -> tuple[FrameworkConfig, ...]:
    """Every arm and seed."""
    return tuple(
        FrameworkConfig(
            section=NAME,
            seed=seed,
            rate=RATE,
            hidden=(64, 32),
            batch_size=32,
            epochs=10_000,
            max_steps=60 if scale.quick else 500,
            origin=arm.origin,
            framework=arm.framework,
            settings=arm.settings,
        )
        for arm in ARMS
        for seed in scale.seeds
    )
