"""The canonical view of a torch tensor."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def canonical(x: Tensor) -> Tensor:
    """View ``(N, C, *S)`` as ``(N, C, S)``; copies only where the strides of S do not collapse.

    Such a copy, of a crop for instance, keeps channels last where they were last.
    """
    if x.dim() == 2:
        return x.unsqueeze(-1)
    if x.dim() == 3:
        return x
    if x.stride(1) == 1 and x.shape[1] > 1 and not _collapses(x):
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    return x.flatten(2)


def shaped(value: Tensor, x: Tensor) -> Tensor:
    """A new result ``(N, C, S)`` in the shape of ``x``, as no view.

    Autograd lets nobody write into a view that a custom function returned, as
    ``ReLU(inplace=True)`` after the layer would; nor does it add to a gradient in place while a
    view holds on to what it was made from.
    """
    if value.shape == x.shape:
        return value
    if not value.numel():
        return torch.empty_like(x)  # whose strides a view would lose
    return torch.ops.aten._unsafe_view.default(value, x.shape)  # noqa: SLF001 - torch's own use


def _collapses(x: Tensor) -> bool:
    """Whether one stride can walk all spatial positions in order."""
    spatial = [(n, s) for n, s in zip(x.shape[2:], x.stride()[2:], strict=True) if n != 1]
    return all(s == n2 * s2 for (_, s), (n2, s2) in itertools.pairwise(spatial))
