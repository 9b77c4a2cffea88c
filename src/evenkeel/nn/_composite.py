"""Batch norm in plain torch operations: slower, and differentiable in every way.

The training form runs under functorch transforms, forward-mode AD, jit tracing and double
backward, where torch has to look inside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from evenkeel.kernels import Moments
from evenkeel.kernels._providers._aten import activate

if TYPE_CHECKING:
    from torch import Tensor

    from evenkeel.spec import Activation


def spread(parameter: Tensor, x: Tensor) -> Tensor:
    """View ``(C,)`` so that it broadcasts along the channels of ``x``."""
    return parameter.reshape(1, -1, *(1 for _ in range(x.dim() - 2)))


def normalize_batch(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: Activation,
    residual: Tensor | None,
    mask: Tensor | None,
) -> tuple[Tensor, Moments]:
    """Eq. (1) to (5) on ``(N, C, *S)``; centring twice stands for the pair of the contract."""
    acc = torch.float64 if x.dtype == torch.float64 else torch.float32
    dims = [d for d in range(x.dim()) if d != 1]
    values = x.to(acc)
    if mask is None:
        keep, count = None, _size(x, dims)
        divisor: int | Tensor = max(count, 1)
    else:
        keep = mask.unsqueeze(1)
        values = values.where(keep, 0.0)
        count = keep.sum()
        divisor = count.clamp(min=1)
    mean = values.sum(dims, keepdim=True) / divisor
    centred = _kept(values - mean, keep)
    rest = centred.sum(dims, keepdim=True) / divisor
    centred = _kept(centred - rest, keep)
    var = centred.square().sum(dims, keepdim=True) / divisor
    z = centred * (var + eps).rsqrt()
    if weight is not None:
        z = z * spread(weight.to(acc), x)
    if bias is not None:
        z = z + spread(bias.to(acc), x)
    if residual is not None:
        z = z + residual.to(acc)
    y = _kept(activate(z, activation), keep).to(x.dtype)
    statistics = (t.detach().flatten() for t in (mean, rest, var))
    return y, Moments(count, *statistics)


def normalize_running(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: Activation,
    residual: Tensor | None,
    mask: Tensor | None,
) -> Tensor:
    """Inference, eq. (3) and (5), as aten's batch norm, which every exporter knows.

    aten wants parameters and statistics of one dtype; 16-bit parameters beside float32
    statistics are widened.
    """
    weight, bias = (
        p if p is None or p.dtype == mean.dtype else p.to(mean.dtype) for p in (weight, bias)
    )
    y = F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)
    y = activate(y if residual is None else y + residual, activation)
    return y if mask is None else y.where(mask.unsqueeze(1), 0.0)


def _size(x: Tensor, dims: list[int]) -> int:
    size = 1
    for dim in dims:
        size *= x.shape[dim]
    return size


def _kept(value: Tensor, keep: Tensor | None) -> Tensor:
    return value if keep is None else value.where(keep, 0.0)
