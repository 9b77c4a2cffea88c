"""What a layer refuses, with the built-in exception that torch raises for the same mistake."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import torch

from evenkeel.errors import ChannelError, DTypeError, InputError, ShapeError, explain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

#: Who refuses; asked only when something is refused.
Name = Callable[[], str]

_FLOATS: Final = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_HALF: Final = (torch.bfloat16, torch.float16)
_LAYOUT: Final = {2: "(N, C)", 3: "(N, C, L)", 4: "(N, C, H, W)", 5: "(N, C, D, H, W)"}


def check_rank(x: Tensor, ranks: tuple[int, ...], layer: Name) -> None:
    """Raise ShapeError (a ValueError) unless the number of dimensions is one of ``ranks``."""
    check_tensor(x, "input", layer)
    if x.dim() in ranks:
        return
    expected = " or ".join(f"{rank}D" for rank in ranks)
    fitting = {2: "1d", 3: "1d", 4: "2d", 5: "3d"}.get(x.dim())
    hint = f"use the {fitting} layer, or reshape" if fitting else "reshape"
    raise ShapeError(
        explain(
            asked=f"{layer()}: expected {expected} input, {' or '.join(_LAYOUT[r] for r in ranks)}",
            got=f"{x.dim()}D input of shape {tuple(x.shape)}",
            why="the second dimension must be the channels, all others but the first are spatial",
            do=f"{hint} to {' or '.join(_LAYOUT[r] for r in ranks)}; a single sample needs "
            "x.unsqueeze(0)",
        )
    )


def check_dtype(x: Tensor, parameters: Sequence[Tensor | None], layer: Name) -> None:
    """Raise DTypeError (a NotImplementedError, TypeError and RuntimeError) on a bad mix."""
    if x.dtype not in _FLOATS:
        raise DTypeError(
            explain(
                asked=f"{layer()}: batch normalization of a real floating tensor",
                got=f"dtype {x.dtype}, shape {tuple(x.shape)}",
                why="mean and variance of a channel are real numbers",
                do="convert with x.float(); a complex input needs its parts as channels "
                "(torch.view_as_real)",
            )
        )
    for parameter in parameters:
        if parameter is None or parameter.dtype == x.dtype:
            continue
        if x.dtype in _HALF and parameter.dtype == torch.float32:
            continue
        raise DTypeError(
            explain(
                asked=f"{layer()}: input and parameters of matching dtype",
                got=f"input {x.dtype}, parameters {parameter.dtype}",
                why="they must be equal, or a 16-bit input with float32 parameters",
                do=f"convert the input with x.to({parameter.dtype}) or the layer with "
                f".to({x.dtype})",
            )
        )


def check_channels(x: Tensor, tensors: Sequence[Tensor | None], layer: Name) -> None:
    """Raise ChannelError (a RuntimeError) unless each tensor has one value per channel."""
    for tensor in tensors:
        if tensor is not None and tensor.shape[0] != x.shape[1]:
            raise ChannelError(
                explain(
                    asked=f"{layer()}: input with {tensor.shape[0]} channels",
                    got=f"{x.shape[1]} channels, in shape {tuple(x.shape)}",
                    why="each channel has its own statistics, weight and bias, on dimension 1",
                    do=f"build the layer with {x.shape[1]} channels; for channels-last data "
                    "permute first, such as x.movedim(-1, 1)",
                )
            )


def check_eps(eps: float, layer: Name) -> None:
    """Raise InputError (a ValueError) unless eps is positive, as torch does in training."""
    if eps > 0:
        return
    raise InputError(
        explain(
            asked=f"{layer()}: eps must be positive during training",
            got=f"eps={eps}",
            why="a channel of equal values has variance 0, and would be divided by 0",
            do="pass a positive eps, such as the default 1e-5; in evaluation mode 0 is allowed",
        )
    )


def check_enough_values(x: Tensor, layer: Name) -> None:
    """Raise ShapeError (a ValueError) where a training batch has one value per channel."""
    if x.numel() == x.shape[1]:
        raise ShapeError(
            explain(
                asked=f"{layer()}: Expected more than 1 value per channel when training",
                got=f"input size {tuple(x.shape)}, one value per channel",
                why="the variance of one value is 0, and its unbiased estimate is undefined",
                do="use a larger batch (drop_last=True drops a last batch of one), or .eval() "
                "to normalize with the running statistics",
            )
        )


def check_residual(x: Tensor, residual: Tensor | None, layer: Name) -> None:
    """Raise ShapeError or DTypeError unless the residual is like the input."""
    if residual is None:
        return
    check_tensor(residual, "residual", layer)
    if residual.shape != x.shape:
        raise ShapeError(
            explain(
                asked=f"{layer()}: a residual of the input's shape {tuple(x.shape)}",
                got=f"shape {tuple(residual.shape)}",
                why="the residual is added element by element, without broadcasting",
                do="expand or project the residual first",
            )
        )
    if residual.dtype != x.dtype:
        raise DTypeError(
            explain(
                asked=f"{layer()}: a residual of the input's dtype {x.dtype}",
                got=f"dtype {residual.dtype}",
                why="a silent conversion would change the result",
                do=f"pass residual.to({x.dtype})",
            )
        )


def check_mask(x: Tensor, mask: Tensor | None, layer: Name) -> None:
    """Raise DTypeError or ShapeError unless the mask is bool ``(N, *S)``."""
    if mask is None:
        return
    check_tensor(mask, "mask", layer)
    if mask.dtype != torch.bool:
        raise DTypeError(
            explain(
                asked=f"{layer()}: a bool mask, True = keep",
                got=f"dtype {mask.dtype}",
                why="a mask of numbers could mean weights, or 0 = keep, or 1 = keep",
                do="pass mask.bool() (True = keep), or ~mask where True means padding",
            )
        )
    expected = (x.shape[0], *x.shape[2:])
    if tuple(mask.shape) != expected:
        raise ShapeError(
            explain(
                asked=f"{layer()}: a mask of shape {expected}, (N, *S), for input {tuple(x.shape)}",
                got=f"shape {tuple(mask.shape)}",
                why="the mask says which positions count, the same for every channel",
                do="drop the channel dimension of the mask, or expand it to that shape",
            )
        )


def check_tensor(value: object, name: str, layer: Name) -> None:
    """Raise DTypeError (a TypeError) unless ``value`` is a tensor."""
    if not isinstance(value, torch.Tensor):
        raise DTypeError(
            explain(
                asked=f"{layer()}: {name} as a torch tensor",
                got=type(value).__name__,
                why="a layer works on tensors only",
                do=f"pass torch.as_tensor({name})",
            )
        )


def check_choice(name: str, value: Any, allowed: tuple[str, ...], layer: Name) -> None:
    """Raise InputError unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise InputError(
            explain(
                asked=f"{layer()}: {name}={value!r}",
                got="a value that is not known",
                why=f"{name} is one of {', '.join(map(repr, allowed))}",
                do=f"pass one of these; {allowed[0]!r} is the default",
            )
        )
