"""What a rewritten block calls: a batch norm together with what follows it.

Whether one kernel may do all of it is asked at every call, because a model changes: a hook is
registered, an activation is replaced, a layer is converted. Where the answer is no, the modules
run one after the other, as the block's own code has them.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import torch
from torch import Tensor, nn

from evenkeel import nn as ours
from evenkeel.kernels._providers._aten import activate
from evenkeel.spec import IDENTITY, Activation

if TYPE_CHECKING:
    from collections.abc import Callable

#: An activation module, or name and parameter of one that was called as a function.
Then: TypeAlias = "nn.Module | tuple[str, float] | None"

PLAIN: Final = (ours.BatchNorm1d, ours.BatchNorm2d, ours.BatchNorm3d)

_MODULES: Final[dict[type, Callable[[Any], Activation | None]]] = {
    nn.ReLU: lambda _: Activation("relu"),
    nn.ReLU6: lambda _: Activation("relu6"),
    nn.LeakyReLU: lambda m: Activation("leaky_relu", m.negative_slope),
    nn.SiLU: lambda _: Activation("silu"),
    nn.GELU: lambda m: Activation("gelu") if m.approximate == "none" else None,
    nn.Hardswish: lambda _: Activation("hardswish"),
}


def followed(
    layer: nn.Module,
    x: Tensor,
    then: Then = None,
    residual: Tensor | None = None,
    in_place: bool = False,  # noqa: FBT001, FBT002 - generated code passes it by position
) -> Tensor:
    """then(layer(x) + residual), in one pass where nobody could tell the difference.

    Args:
        layer: a batch-norm layer.
        x: its input.
        then: the activation.
        residual: what is added.
        in_place: whether it was added by ``+=``, which keeps the dtype.
    """
    how = IDENTITY if then is None else activation_of(then)
    if how is not None and _takes(layer, x, residual):
        return layer(x, residual=residual, activation=how)
    z = layer(x)
    if residual is not None:
        z = (operator.iadd if in_place else operator.add)(z, residual)
    if isinstance(then, nn.Module):
        return then(z)
    return z if how is None else activate(z, how)


def activation_of(then: nn.Module | tuple[str, float]) -> Activation | None:
    """The activation that a kernel knows by name, or None."""
    if isinstance(then, tuple):
        return Activation(*then)
    known = _MODULES.get(type(then))
    return None if known is None or is_watched(then) else known(then)


def is_watched(module: nn.Module) -> bool:
    """Whether somebody would notice that a module is not called, or is called for more."""
    hooks = (
        module._forward_hooks,  # noqa: SLF001 - torch has no public question
        module._forward_pre_hooks,  # noqa: SLF001 - likewise
        module._backward_hooks,  # noqa: SLF001 - likewise
        module._backward_pre_hooks,  # noqa: SLF001 - likewise
    )
    return any(hooks) or "forward" in vars(module)


def _takes(layer: nn.Module, x: Tensor, residual: Tensor | None) -> bool:
    if not isinstance(layer, PLAIN) or is_watched(layer):
        return False
    if residual is None:
        return True
    alike = isinstance(residual, torch.Tensor) and residual.shape == x.shape  # pyright: ignore[reportUnnecessaryIsInstance] - a model's code adds what it likes
    return alike and residual.dtype == x.dtype
