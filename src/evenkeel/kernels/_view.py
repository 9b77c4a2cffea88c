"""The canonical view of a torch tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def canonical(x: Tensor) -> Tensor:
    """View ``(N, C, *S)`` as ``(N, C, S)``; copies only where the strides of S do not collapse."""
    if x.dim() == 2:
        return x.unsqueeze(-1)
    return x if x.dim() == 3 else x.flatten(2)
