"""evenkeel's pure `batch_norm` under the signatures of torch's four batch-norm operators."""

from __future__ import annotations

import torch
from torch import Tensor

from evenkeel.nn.functional import batch_norm


def functional(
    input: Tensor,  # noqa: A002 - torch's name
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm`: the new statistics are written back in place."""
    y, mean, var = batch_norm(
        input, running_mean, running_var, weight, bias, training, momentum, eps
    )
    if training:
        for old, new in ((running_mean, mean), (running_var, var)):
            if old is not None and new is not None:
                old.copy_(new)
    return y


def native(
    input: Tensor,  # noqa: A002 - torch's name
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """`torch.native_batch_norm`: the statistics of the batch come back as well."""
    y = functional(input, running_mean, running_var, weight, bias, training, momentum, eps)
    if not training:
        return y, input.new_empty(0), input.new_empty(0)
    return y, *_saved(input, eps)


def legit(
    input: Tensor,  # noqa: A002 - torch's name
    weight: Tensor | None,
    bias: Tensor | None,
    *rest: object,
) -> tuple[Tensor, Tensor, Tensor]:
    """`torch._native_batch_norm_legit`, and its overload without running statistics."""
    statistics, settings = (rest[:2], rest[2:]) if len(rest) == 5 else ((None, None), rest)
    return native(input, weight, bias, *statistics, *settings)


def with_update(
    input: Tensor,  # noqa: A002 - torch's name
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`torch.ops.aten._batch_norm_with_update`: training mode, with an empty reserve."""
    reserve = torch.empty(0, dtype=torch.uint8)
    return *native(input, weight, bias, running_mean, running_var, True, momentum, eps), reserve


def _saved(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and inverse standard deviation of the batch: momentum 1 replaces 0 and 0 by them."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    zeros = torch.zeros(x.shape[1], dtype=dtype)
    _, mean, var = batch_norm(
        x.detach(), zeros, zeros, training=True, momentum=1.0, variance="biased"
    )
    assert mean is not None
    assert var is not None
    return mean.to(x.dtype), (var + eps).rsqrt().to(x.dtype)


OURS = {
    "nn.functional.batch_norm": functional,
    "native_batch_norm": native,
    "_native_batch_norm_legit": legit,
    "_batch_norm_with_update": with_update,
}
