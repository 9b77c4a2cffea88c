"""The floor: as many bytes as the case cannot save, moved by a copy into fresh memory."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from evenkeel.bench._peers._tensors import tensors_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from evenkeel.bench._cases import Case


def prepare(case: Case, variant: str) -> Callable[[], float]:
    """One copy of a tensor; returns its time, scaled to the compulsory bytes of the case."""
    del variant
    x = tensors_of(case).x.detach()
    share = case.compulsory_bytes / (2 * case.size)

    def copy() -> float:
        start = time.perf_counter()
        y = torch.empty_like(x)
        y.copy_(x)
        del y
        return (time.perf_counter() - start) * share

    return copy
