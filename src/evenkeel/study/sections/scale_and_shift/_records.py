"""What a run of the section leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from evenkeel.study._records import Values  # noqa: TC001 - read from JSON by its types
from evenkeel.study.sections.scale_and_shift._plan import (
    ScaleConfig,  # noqa: TC001 - read from JSON by its types
)

Parameter: TypeAlias = Literal["gamma", "beta"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """gamma or beta of one layer at each recorded step: over the channels, and single ones.

    ``size`` is the root mean square over the channels, ``low`` and ``high`` are the 10 % and
    90 % quantiles; ``channels`` maps the number of a channel to its values.
    """

    layer: str
    parameter: Parameter
    mean: Values
    size: Values
    min: Values
    low: Values
    median: Values
    high: Values
    max: Values
    channels: dict[str, Values]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One step's gradients and updates of gamma or beta of all layers against the formulas.

    ``gradient`` and ``update`` are the largest errors over the channels, in units of their
    bounds, None if not finite; ``outside`` counts the gradients and updates beyond their bounds,
    of ``channels`` gradients and as many updates.
    """

    step: int
    parameter: Parameter
    gradient: float | None
    update: float | None
    channels: int
    outside: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleRecord:
    """The measurements of one run; ``steps`` belongs to every list as long as it.

    ``train_loss`` is the mean over the batches since the previous recorded step, None at step 0
    and where it is not finite. ``checks`` is empty where gamma and beta are not learned.
    """

    config: ScaleConfig
    steps: tuple[int, ...]
    test_accuracy: tuple[float, ...]
    train_loss: Values
    finite: bool
    trajectories: tuple[Trajectory, ...]
    checks: tuple[Check, ...]
