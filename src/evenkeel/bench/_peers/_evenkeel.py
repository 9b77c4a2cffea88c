"""Our fused layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evenkeel import nn
from evenkeel.bench._peers._tensors import stepper

if TYPE_CHECKING:
    from collections.abc import Callable

    from evenkeel.bench._cases import Case


def prepare(case: Case, variant: str) -> Callable[[], None]:
    """One step of the case."""
    del variant
    ranks: Any = {2: nn.BatchNormAct1d, 3: nn.BatchNormAct1d}
    ranks |= {4: nn.BatchNormAct2d, 5: nn.BatchNormAct3d}
    return stepper(case, ranks[len(case.shape)](case.shape[1], activation=case.activation))
