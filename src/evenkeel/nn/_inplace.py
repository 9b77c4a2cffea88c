"""The in-place mode: y takes the memory of x, and the backward pass finds xhat again in y.

What stays saved is y, which the next layer saves anyway, and a few numbers for each channel
(Rota Bulò, Porzi and Kontschieder: In-place activated BatchNorm, CVPR 2018, arXiv:1712.02616).
What that costs in accuracy, and where it must be refused, is derived in docs/numerics.md,
section 10.
"""

from __future__ import annotations

from functools import lru_cache
from math import sqrt
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from evenkeel.errors import InputError, TransformError, explain
from evenkeel.kernels import Moments, Norm, select
from evenkeel.kernels._view import canonical, shaped
from evenkeel.nn._torch_state import (
    backward_running,
    checkpointing,
    dispatch_mode_active,
    forward_ad_active,
    is_batched,
    jit_tracing,
    owns_dense_memory,
    transforms_active,
)
from evenkeel.spec import IDENTITY, Activation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evenkeel.kernels import Provider
    from evenkeel.nn._checks import Name

_INVERTIBLE: Final = ("identity", "leaky_relu", "elu")
_PLAIN: Final = (Tensor, torch.nn.Parameter)
#: For mask, eps, activation, provider and layer.
_NO_GRADIENTS: Final = (None, None, None, None, None)


def check_invertible(activation: Activation, layer: Name) -> None:
    """Raise InputError unless z can be computed from activation(z)."""
    parameter = activation.parameter
    if activation.name == "identity" or (activation.name in _INVERTIBLE and 0 < parameter < 2**60):
        return
    raise InputError(
        explain(
            asked=f"{layer()}: inplace=True",
            got=f"activation {activation.name!r}"
            + (f" with parameter {parameter:g}" if activation.name in _INVERTIBLE else ""),
            why="the backward pass has to recover the activation's input from its output, which "
            f"works for {', '.join(_INVERTIBLE)}, with a positive slope or alpha",
            do='use one of these, such as ("leaky_relu", 0.01) in the place of "relu", or '
            "inplace=False",
        )
    )


def check_no_residual(residual: Tensor | None, layer: Name) -> None:
    """Raise InputError where a residual would have to be saved beside the output."""
    if residual is not None:
        raise InputError(
            explain(
                asked=f"{layer()}: inplace=True with a residual",
                got=f"a residual of shape {tuple(residual.shape)}",
                why="the sum cannot be taken apart without the residual; saving that would cost "
                "the memory that the in-place mode is there to save",
                do="use inplace=False here, or add the residual outside of the layer",
            )
        )


def is_possible(x: Tensor, *parameters: Tensor | None) -> bool:
    """Whether x may be overwritten, and anything is saved by it.

    Not where torch traces, transforms or will repeat the forward pass with the same x, and not
    where x is a view or has gaps. Without a graph nothing is saved for the backward pass.
    """
    if torch.compiler.is_compiling() or jit_tracing() or transforms_active():
        return False
    if forward_ad_active() or dispatch_mode_active() or type(x) not in _PLAIN:
        return False
    learns = any(t is not None and t.requires_grad for t in (x, *parameters))
    if not (learns and torch.is_grad_enabled()) or backward_running() or checkpointing():
        return False
    return owns_dense_memory(x)


def normalize_batch(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: Activation,
    mask: Tensor | None,
    layer: Name,
) -> tuple[Tensor, Moments]:
    """Eq. (1) to (5) into the memory of ``x``, where :func:`is_possible`.

    Raises:
        InputError: x is a leaf that requires grad, or a weight is too close to zero; nothing has
            been written then.
    """
    check_invertible(activation, layer)
    if x.is_leaf and x.requires_grad:
        raise InputError(_leaf(x, layer))
    _check_scale(x.dtype, weight, bias, activation, layer)
    y, *moments = _Train.apply(x, weight, bias, mask, eps, activation, select(x), layer)
    return y, Moments(*moments)


@lru_cache
def _limits(dtype: torch.dtype, activation: Activation) -> tuple[float, float]:
    """Least |gamma|, as a multiple of |beta| and as such, that leaves half of the digits of y."""
    acc, finfo = torch.finfo(_accumulation(dtype)), torch.finfo(dtype)
    root = sqrt(finfo.eps / 2)
    slope = min(activation.parameter, 1.0) if activation.name == "leaky_relu" else 1.0
    # Below the normal numbers y is rounded absolutely; gamma^2 has to be a normal number.
    return root, max(root * finfo.tiny / slope, 2 * sqrt(acc.tiny))


def _check_scale(
    dtype: torch.dtype,
    weight: Tensor | None,
    bias: Tensor | None,
    activation: Activation,
    layer: Name,
) -> None:
    """Raise InputError where a weight is too close to zero to divide by."""
    if weight is None:
        if bias is None:
            return
        weight = torch.ones_like(bias)
    root, floor = _limits(dtype, activation)
    weight = weight.detach().to(_accumulation(dtype))
    margin = weight.abs()
    if bias is not None:
        margin = torch.sub(margin, bias.detach().abs(), alpha=root)
    if float(margin.min()) >= floor:
        return
    bad = (~(margin >= floor)).nonzero().flatten().tolist()
    worst = bad[0]
    offset = 0.0 if bias is None else float(bias.detach()[worst])
    raise InputError(
        explain(
            asked=f"{layer()}: inplace=True, a backward pass from the output alone",
            got=f"weight {float(weight[worst]):.3g} beside bias {offset:.3g} in channel {worst}"
            + (f", and {len(bad) - 1} more channels like it" if len(bad) > 1 else ""),
            why=f"dividing by a weight below {root * abs(offset) + floor:.3g} there loses more "
            f"than half of the digits of a {str(dtype).removeprefix('torch.')} output "
            "(docs/numerics.md, section 10)",
            do="set layer.inplace = False; x and the statistics are as they were",
        )
    )


class _Train(torch.autograd.Function):
    """One provider runs both passes; x is overwritten with y."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mask: Tensor | None,
        eps: float,
        activation: Activation,
        provider: Provider,
        layer: Name,
    ) -> tuple[Tensor, int | Tensor, Tensor, Tensor, Tensor]:
        """Output, which is x, then count, mean, mean_lo and var."""
        ctx.settings = eps, activation, provider, layer
        own = canonical(x)
        moments, kept = _overwrite(own, weight, bias, eps, activation, _positions(mask), provider)
        if own.data_ptr() != x.data_ptr():  # a copy: the strides of x do not collapse
            x.copy_(own.view(x.shape))
        ctx.mark_dirty(x)
        ctx.mark_non_differentiable(*moments[1:])
        ctx.save_for_backward(x, weight, bias, mask, moments.var, *kept)
        return x, moments.count, moments.mean, moments.mean_lo, moments.var

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        """Gradients of x, weight and bias, eq. (9) and (10), with xhat = (z - bias) / weight."""
        eps, activation, provider, layer = ctx.settings
        if torch.is_grad_enabled() or is_batched(gradients[0]):
            raise TransformError(_only_once(layer))
        y, weight, bias, mask, var, *kept = ctx.saved_tensors
        dy, z = canonical(gradients[0]), canonical(y)
        if kept:
            dy, z = _before_elu(dy, z, activation.parameter, *kept)
            activation = IDENTITY
        zero = torch.zeros_like(var)
        gamma = torch.ones_like(var) if weight is None else weight.to(var.dtype)
        beta = zero if bias is None else bias.to(var.dtype)
        # A batch of mean beta and variance gamma^2: its xhat is ours but for the sign of gamma,
        # and its dx is gamma inv_std (...), eq. (10), with this weight.
        scale = gamma * (var + eps).rsqrt() * gamma.abs()
        norm = Norm(beta, zero, gamma.square(), scale, None, 0.0, activation)
        dx, sums, _ = provider.backward(dy, z, norm, None, _positions(mask), undo=True)
        return (
            shaped(dx.to(y.dtype), y),
            None if weight is None else (sums.dz_xhat * gamma.sign()).to(weight.dtype),
            None if bias is None else sums.dz.to(bias.dtype),
            *_NO_GRADIENTS,
        )


def _overwrite(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: Activation,
    mask: Tensor | None,
    provider: Provider,
) -> tuple[Moments, Sequence[Tensor]]:
    """Write y into x ``(N, C, S)``; returns the moments, and what y alone cannot give back."""
    if activation.name != "elu":
        _, moments = provider.forward(x, weight, bias, eps, activation, None, mask, out=x)
        return moments, ()
    y, moments = provider.forward(x, weight, bias, eps, activation, None, mask)
    norm = Norm(*moments[1:], weight, bias, eps, activation)
    kept = _saturated(x, y, norm)
    x.copy_(y)
    return moments, kept


def _saturated(x: Tensor, y: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """Places in ``x.flatten()``, and z there, where y is so near -alpha that z is lost in it."""
    acc = norm.var.dtype
    ones = torch.ones_like(norm.var)
    gamma = ones if norm.weight is None else norm.weight.to(acc)
    size, root = gamma.abs(), sqrt(torch.finfo(x.dtype).eps / 2)
    floor = -norm.activation.parameter * size / (size + root)
    places = (y < floor[:, None]).flatten().nonzero().flatten()
    where = torch.unravel_index(places, x.shape)
    channel = where[1]
    centred = x[where].to(acc) - norm.mean[channel] - norm.mean_lo[channel]
    z = centred * (gamma * (norm.var + norm.eps).rsqrt())[channel]
    if norm.bias is not None:
        z = z + norm.bias.to(acc)[channel]
    return places.to(torch.int32) if x.numel() < 2**31 else places, z


def _before_elu(
    dy: Tensor, y: Tensor, alpha: float, places: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradient dz and value z at the argument of elu, in the accumulation dtype."""
    dy, y = dy.to(kept.dtype), y.to(kept.dtype)
    z = y.div(alpha).log1p_()
    torch.where(y > 0, y, z, out=z)
    z[torch.unravel_index(places, z.shape)] = kept
    return torch.ops.aten.elu_backward(dy, alpha, 1.0, 1.0, is_result=False, self_or_result=z), z


def _accumulation(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _positions(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.reshape(mask.shape[0], -1)


def _leaf(x: Tensor, layer: Name) -> str:
    return explain(
        asked=f"{layer()}: inplace=True, to overwrite the input",
        got=f"a leaf of shape {tuple(x.shape)} that requires grad",
        why="its value would be gone, and autograd lets nobody overwrite a leaf",
        do="pass the result of an operation, such as x.clone(), or use inplace=False",
    )


def _only_once(layer: Name) -> str:
    return explain(
        asked=f"{layer()}: a backward pass with create_graph=True, or a batch of backward passes",
        got="an in-place layer, whose input is gone",
        why="a second derivative needs the input, and the first kept the output alone",
        do="use inplace=False",
    )
