"""What torch is doing right now: the questions that have no public answer, in one place.

But for the first and the last, none may be asked while ``torch.compiler.is_compiling()``: the
answer would be frozen into the graph.
"""
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false
# ruff: noqa: SLF001

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import is_fake
from torch.autograd import forward_ad

if TYPE_CHECKING:
    from types import FrameType

    from torch import Tensor


def ordinary() -> bool:
    """Whether torch simply computes: nothing compiles, transforms, traces or watches operations.

    One question instead of five, for the path on which microseconds count.
    """
    return not (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._is_tracing()
        or forward_ad._current_level >= 0
    )


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


def checkpointing() -> bool:
    """Whether this is the first of two forward passes that torch.utils.checkpoint makes.

    It is known by its hook, which may have others above it.
    """
    autograd: Any = torch._C._autograd  # pyright: ignore[reportAttributeAccessIssue] - no stub
    top = autograd._top_saved_tensors_default_hooks(True)
    if top is None:
        return False
    if getattr(top[0], "__module__", "") == "torch.utils.checkpoint":
        return True
    autograd._pop_saved_tensors_default_hooks()
    try:
        return checkpointing()
    finally:
        autograd._push_saved_tensors_default_hooks(*top)


def owns_dense_memory(x: Tensor) -> bool:
    """Whether writing into x changes x alone: no view, no inference tensor, no gaps or overlaps."""
    if x._is_view() or x.is_inference() or x._is_zerotensor():
        return False
    return x.is_contiguous() or torch.empty_like(x, device="meta").stride() == x.stride()


def path_from_caller(layer: torch.nn.Module) -> str | None:
    """Name of a layer in the outermost module that is being called right now.

    A module does not know its own name; the frames that lead to it do. Slow, for messages only.
    """
    root: torch.nn.Module | None = None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        root = owner if isinstance(owner, torch.nn.Module) else root
        frame = frame.f_back
    named = () if root is None else root.named_modules()
    return next((name for name, module in named if module is layer), None)


def has_no_values(tensor: Tensor) -> bool:
    """Whether a tensor is meta or fake, so that no number can be read from it."""
    return tensor.is_meta or is_fake(tensor)


def is_batched(dy: Tensor) -> bool:
    """Whether vmap runs over a backward pass (``is_grads_batched``, ``vectorize=True``)."""
    functorch: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue] - no stub
    return functorch.is_legacy_batchedtensor(dy) or functorch.is_batchedtensor(dy)


#: What a wrapper holds that has outlived its functorch transform, or the tensor itself.
unwrap_if_dead: Any = torch._C._functorch.unwrap_if_dead  # pyright: ignore[reportAttributeAccessIssue] - no stub


def jit_tracing() -> bool:
    """Whether ``torch.jit.trace`` records; the one question that may be asked while compiling."""
    return torch.jit.is_tracing()
