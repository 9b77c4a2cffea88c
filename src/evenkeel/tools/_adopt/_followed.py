"""What a rewritten block calls: a batch norm together with what follows it.

Whether one kernel may do all of it is asked at every call, because a model changes: a hook is
registered, an activation is replaced, a layer is converted. Where the answer is no, the modules
run one after the other, as the block's own code has them.
"""

from __future__ import annotations

import operator
from typing import Any, Final

import torch
from torch import Tensor, nn

from evenkeel import nn as ours
from evenkeel.kernels._providers._aten import activate
from evenkeel.nn._torch_state import jit_tracing
from evenkeel.spec import IDENTITY
from evenkeel.tools._adopt._activations import activation_of, is_watched
from evenkeel.tools._adopt._timm import NormAct

PLAIN: Final = (ours.BatchNorm1d, ours.BatchNorm2d, ours.BatchNorm3d)


def followed(
    layer: nn.Module,
    x: Tensor,
    then: nn.Module | tuple[str, float] | None = None,
    residual: Tensor | None = None,
    keep: bool = False,  # noqa: FBT001, FBT002 - generated code passes it by position
) -> Tensor:
    """then(layer(x) + residual), in one pass where nobody could tell the difference.

    Args:
        layer: a batch-norm layer.
        x: its input.
        then: an activation module, or name and parameter of one that was called as a function.
        residual: what is added.
        keep: whether it was added by ``+=``, which keeps the dtype.
    """
    how = IDENTITY if then is None else activation_of(then)
    if how is not None and takes_more(layer) and _fits(residual, x):
        return layer(x, residual=residual, activation=how)
    z = layer(x)
    if residual is not None:
        z = (operator.iadd if keep else operator.add)(z, residual)
    if isinstance(then, nn.Module):
        return then(z)
    return z if how is None else activate(z, how)


def in_place(operation: str, one: Any, other: Any) -> Any:  # noqa: ANN401 - numbers, too
    """``one += other`` and its like, which in generated code would rebind the name of a number."""
    return getattr(operator, operation)(one, other)


def takes_more(layer: nn.Module) -> bool:
    """Whether a layer can compute what follows it, and nobody watches its own output."""
    if isinstance(layer, NormAct):
        return layer.activation_inside() == IDENTITY and not is_watched(layer)
    return isinstance(layer, PLAIN) and not is_watched(layer)


def _fits(residual: Tensor | None, x: Tensor) -> bool:
    """Whether an addition neither broadcasts nor changes the dtype."""
    if residual is None:
        return True
    if jit_tracing() or not isinstance(residual, torch.Tensor):  # pyright: ignore[reportUnnecessaryIsInstance] - a model's code adds what it likes
        return False
    return residual.shape == x.shape and residual.dtype == x.dtype
