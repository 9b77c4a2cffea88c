"""Which batch norms of a model can be adopted, and what speaks against the others."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy

from evenkeel.dialects import torch as dialect
from evenkeel.tools._adopt._classes import is_torch_norm

if TYPE_CHECKING:
    from collections.abc import Iterator


def batch_norms(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every batch norm with its path; those inside of TorchScript too."""
    for name, module in model.named_modules():
        scripted = isinstance(module, torch.jit.ScriptModule)
        if dialect.is_batch_norm(module) or (scripted and "BatchNorm" in module.original_name):
            yield name, module


def reason_against(layer: nn.Module) -> str:
    """Why a batch norm that is not evenkeel's stays what it is; empty if it can be adopted."""
    if isinstance(layer, torch.jit.ScriptModule):
        return "compiled by torch.jit.script"
    return _reason_by_state(layer) or _reason_by_class(layer)


def _reason_by_state(layer: nn.Module) -> str:
    tensors = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
    if hasattr(layer, "parametrizations"):
        return "parametrized: its weight is computed at every call"
    if getattr(layer, "_is_fsdp_managed_module", False) or any(map(_is_subclass, tensors)):
        return "its tensors are managed by FSDP or another tensor subclass"
    if "forward" in vars(layer):
        return "somebody has put another forward() into it"
    return ""


def _reason_by_class(layer: nn.Module) -> str:
    if is_torch_norm(layer) or _is_of_timm(layer):
        return ""
    if isinstance(layer, LazyModuleMixin):
        return "lazy: it has seen no data yet"
    if isinstance(layer, nn.SyncBatchNorm):
        return "synchronized over processes"
    if "Frozen" in type(layer).__name__:
        return "frozen: its statistics are constants"
    return f"{type(layer).__module__}.{type(layer).__qualname__} may do more than batch norm"


def _is_of_timm(layer: nn.Module) -> bool:
    timm = sys.modules.get("timm.layers")
    return timm is not None and type(layer) is timm.BatchNormAct2d


def _is_subclass(tensor: torch.Tensor) -> bool:
    return not is_lazy(tensor) and type(tensor) not in (torch.Tensor, nn.Parameter)
