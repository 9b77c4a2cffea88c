"""The ordinary training step in as few Python calls as it can be.

Where tensors are small, a layer takes the time of the Python between its call and the kernel. Here
is the one case that training loops are made of; whatever is out of the ordinary, and every
refusal, is left to the general path in `_base`, which gives the same numbers.
"""
# pyright: reportPrivateUsage=false
# ruff: noqa: SLF001

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Parameter

from evenkeel.kernels import select
from evenkeel.nn._statistics import Running, commit
from evenkeel.nn._strict import is_strict
from evenkeel.nn._torch_state import ordinary, unwrap_if_dead
from evenkeel.nn.ops import apply_train

if TYPE_CHECKING:
    from evenkeel.kernels import Moments
    from evenkeel.nn._base import NormCore
    from evenkeel.spec import Activation


def train_step(
    layer: NormCore, x: Tensor, residual: Tensor | None, activation: Activation
) -> Tensor | None:
    """Normalize a float32 batch on the CPU and let it enter the running statistics.

    Returns:
        y; or None where anything is out of the ordinary, and then nothing has changed.
    """
    parameters, buffers = layer._parameters, layer._buffers
    weight, bias = parameters.get("weight"), parameters.get("bias")
    mean, var = buffers.get("running_mean"), buffers.get("running_var")
    if mean is None or var is None or not _is_ordinary(layer, x, (weight, bias, mean), residual):
        return None
    provider = select(x)
    found: list[Moments] = []
    settings = layer.eps, activation, provider
    y = apply_train(unwrap_if_dead(x), weight, bias, residual, None, settings, found)
    if torch._C._current_graph_task_id() != -1:  # a recomputation
        return y
    moments, batches = found[0], buffers["num_batches_tracked"]
    count: Any = moments.count
    correction = 1.0 if layer.variance == "biased" else count / (count - 1)
    how = moments, layer.momentum, correction
    only_finite = layer.nonfinite != "propagate" and not is_strict()
    if not provider.update_running(mean, var, batches, *how, only_finite=only_finite):
        running = Running(mean, var, batches, layer._skipped)
        if commit(running, moments, layer._rule(), layer._label):
            layer._reported = 1
    return y


def _is_ordinary(
    layer: NormCore, x: Tensor, own: tuple[Tensor | None, ...], residual: Tensor | None
) -> bool:
    weight, bias, mean = own
    if (
        not ordinary()
        or type(x) is not Tensor
        or type(weight) is not Parameter
        or type(bias) is not Parameter
        or mean is None
        or not x.is_cpu
        or not (x.dtype is weight.dtype is bias.dtype is mean.dtype is torch.float32)
        or not layer.eps > 0
        or x.dim() not in layer._ranks
    ):
        return False
    channels = x.shape[1]
    if not channels == weight.shape[0] == mean.shape[0] or x.numel() <= channels:
        return False
    if residual is None:
        return True
    # A residual that is no plain tensor may be a wrapper that has outlived its transform.
    same = type(residual) is Tensor and unwrap_if_dead(residual) is residual
    return same and residual.shape == x.shape and residual.dtype is x.dtype
