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

from evenkeel.kernels import Moments, select
from evenkeel.nn._statistics import Running, commit
from evenkeel.nn._strict import is_strict
from evenkeel.nn._torch_state import ordinary, unwrap_if_dead
from evenkeel.nn.ops import record_train

if TYPE_CHECKING:
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
    if mean is None or var is None or not _is_ordinary(layer, x, (weight, bias), residual):
        return None
    provider: Any = select(x)
    if provider.name != "cpu":
        return None
    recomputation = torch._C._current_graph_task_id() != -1
    batches = buffers["num_batches_tracked"]
    running = None if recomputation else (mean, var, batches)
    only_finite = layer.nonfinite != "propagate" and not is_strict()
    rule = layer.variance == "biased", layer.momentum, only_finite
    x = unwrap_if_dead(x)
    found = provider.train(x, weight, bias, layer.eps, activation, residual, running, rule)
    if found is None:
        return None
    y, statistics, entered = found
    if torch.is_grad_enabled():
        settings = layer.eps, activation, provider
        made = y, (statistics, None, None)
        y = record_train(x, weight, bias, residual, None, settings, made)
    if not entered:
        moments = Moments(x.numel() // x.shape[1], *statistics.chunk(3))
        held = Running(mean, var, batches, layer._skipped)
        if commit(held, moments, layer._rule(), layer._label):
            layer._reported = 1
    return y


def _is_ordinary(
    layer: NormCore, x: Tensor, own: tuple[Tensor | None, ...], residual: Tensor | None
) -> bool:
    """Whether torch and the tensors are as in most training steps; the kernel asks for the rest."""
    if type(x) is not Tensor or type(own[0]) is not Parameter or type(own[1]) is not Parameter:
        return False
    served = x.is_cpu and x.dtype is torch.float32 and x.dim() in layer._ranks and layer.eps > 0
    if not (served and ordinary()):
        return False
    # A residual that is no plain tensor may be a wrapper that has outlived its transform.
    return residual is None or (type(residual) is Tensor and unwrap_if_dead(residual) is residual)
