"""What a run of the section leaves behind."""

from __future__ import annotations

from dataclasses import dataclass

from evenkeel.study._records import Values  # noqa: TC001 - read from JSON by its types
from evenkeel.study.sections.frameworks._plan import (
    FrameworkConfig,  # noqa: TC001 - read from JSON by its types
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameworkRecord:
    """One training; each list belongs to ``steps``.

    Args:
        config: of the run.
        steps: at which the network was tested.
        test_accuracy: in inference mode.
        test_loss: mean cross entropy in inference mode; None where it is not finite.
        losses: training loss of each of the first steps, before its update.
        finite: every loss was finite.
    """

    config: FrameworkConfig
    steps: tuple[int, ...]
    test_accuracy: tuple[float, ...]
    test_loss: Values
    losses: Values
    finite: bool
