"""What torch is doing right now: the questions that have no public answer, in one place.

But for the last, none may be asked while ``torch.compiler.is_compiling()``: the answer would
be frozen into the graph.
"""
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false
# ruff: noqa: SLF001

from __future__ import annotations

import torch
from torch.autograd import forward_ad


def transforms_active() -> bool:
    """Whether a functorch transform (grad, vmap, jvp, ...) is being evaluated."""
    return torch._C._are_functorch_transforms_active()


def dispatch_mode_active() -> bool:
    """Whether a mode (fake tensors, make_fx, counters) watches every operation."""
    return torch._C._len_torch_dispatch_stack() > 0


def forward_ad_active() -> bool:
    """Whether tensors may carry a tangent."""
    return forward_ad._current_level >= 0


def backward_running() -> bool:
    """Whether this thread is inside a backward pass: a forward pass now is a recomputation."""
    return torch._C._current_graph_task_id() != -1


def jit_tracing() -> bool:
    """Whether ``torch.jit.trace`` records; the one question that may be asked while compiling."""
    return torch.jit.is_tracing()
