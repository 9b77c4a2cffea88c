"""Autograd and ``torch.library`` registration of training-mode batch norm, in one place.

Three forms of the same operation; :func:`normalize_batch` picks one:

* the ordinary path, an ``autograd.Function`` around the chosen kernel provider;
* custom ops ``evenkeel::forward`` and ``evenkeel::backward``, when torch compiles, exports, or
  watches operations through a dispatch mode;
* a composite of plain torch operations, where torch has to differentiate through the formula:
  functorch transforms, forward-mode AD, jit tracing, and double backward.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from evenkeel.kernels import Moments, Norm, select
from evenkeel.kernels._view import canonical, shaped
from evenkeel.nn import _composite
from evenkeel.nn._statistics import count_on
from evenkeel.nn._torch_state import (
    dispatch_mode_active,
    forward_ad_active,
    is_batched,
    jit_tracing,
    ordinary,
    transforms_active,
    unwrap_if_dead,
)
from evenkeel.spec import IDENTITY, Activation

if TYPE_CHECKING:
    from evenkeel.kernels import Provider

_PLAIN: Final = (Tensor, torch.nn.Parameter)
#: For the mask and the settings.
_NO_GRADIENTS: Final = (None, None, None)
#: For eps, and name and parameter of the activation.
_NO_OP_GRADIENTS: Final = (None, *_NO_GRADIENTS)


def normalize_batch(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: Activation,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Moments]:
    """Normalize with the statistics of the batch, eq. (1) to (5), and return them.

    Args:
        x: ``(N, C, *S)``, floating.
        weight: gamma ``(C,)`` or None.
        bias: beta ``(C,)`` or None.
        eps: added to the biased variance under the root.
        activation: applied last.
        residual: like ``x``; added before the activation.
        mask: bool ``(N, *S)``, True = keep.

    Returns:
        y like ``x``, and the moments, which carry no gradient.
    """
    if ordinary() and type(x) in _PLAIN:
        provider = select(x)
        x, weight, bias, residual = _alive(x), _alive(weight), _alive(bias), _alive(residual)
        with torch.no_grad():
            y, moments = provider.forward(x, weight, bias, eps, activation, residual, mask)
        settings, made = (eps, activation, provider), (y, moments[1:])
        return record_train(x, weight, bias, residual, mask, settings, made), moments
    if torch.compiler.is_compiling():
        return _through_custom_op(x, weight, bias, eps, activation, residual, mask)
    if transforms_active() or forward_ad_active() or jit_tracing():
        return _composite.normalize_batch(x, weight, bias, eps, activation, residual, mask)
    if dispatch_mode_active():
        return _through_custom_op(x, weight, bias, eps, activation, residual, mask)
    return _composite.normalize_batch(x, weight, bias, eps, activation, residual, mask)


def _alive(tensor: Any) -> Any:
    """A wrapper that has outlived its transform is replaced by what it wraps."""
    return None if tensor is None else unwrap_if_dead(tensor)


def _through_custom_op(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: Activation,
    residual: Tensor | None,
    mask: Tensor | None,
) -> tuple[Tensor, Moments]:
    y, *moments = torch.ops.evenkeel.forward(
        x, weight, bias, residual, mask, eps, activation.name, activation.parameter
    )
    return y, Moments(*moments)


class _Train(torch.autograd.Function):
    """The ordinary path: the provider that ran the forward pass runs the backward pass.

    It has no ``setup_context``: functorch never comes here, and torch inspects the signature of
    such a function at every call, which took 6 % of training a small network.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        mask: Tensor | None,
        settings: tuple[float, Activation, Provider],
        made: tuple[Tensor, tuple[Tensor | None, ...]],
    ) -> Tensor:
        """Record what has been made: y, and mean, mean_lo and var. They are no tensors to autograd.

        Three numbers per channel: hooks that move saved tensors can leave them. The normalized
        input is not saved.
        """
        y, ctx.statistics = made
        ctx.settings = settings
        _, activation, _ = settings
        ctx.from_output = residual is not None and _has_its_derivative_in_y(activation)
        if ctx.from_output:
            residual = None if activation.name == "identity" else y
        ctx.save_for_backward(x, weight, bias, residual, mask)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        """Gradients of x, weight, bias and residual, eq. (9) and (10)."""
        dy = gradients[0]
        x, weight, bias, kept, mask = ctx.saved_tensors
        eps, activation, provider = ctx.settings
        if torch.is_grad_enabled() or is_batched(dy):
            needed = ctx.needs_input_grad[:4]
            if ctx.from_output:
                dy = dy if kept is None else dy * _derivative(kept, activation)
                kept, activation = torch.zeros_like(x).requires_grad_(), IDENTITY
            inputs = (x, weight, bias, kept)
            return *_differentiable(dy, inputs, needed, mask, eps, activation), *_NO_GRADIENTS
        mean, mean_lo, var = ctx.statistics
        norm = Norm(mean, mean_lo, var, weight, bias, eps, activation)
        if ctx.from_output:
            dresidual = _before_activation(dy, kept, norm, mask, provider)
            norm = norm._replace(activation=IDENTITY)
            dx, sums, _ = provider.backward(dresidual, x, norm, None, mask)
        else:
            dx, sums, dresidual = provider.backward(dy, x, norm, kept, mask)
        dz, dz_xhat = sums
        # A conversion to the same type takes a microsecond.
        if weight is not None and weight.dtype is not dz_xhat.dtype:
            dz_xhat = dz_xhat.to(weight.dtype)
        if bias is not None and bias.dtype is not dz.dtype:
            dz = dz.to(bias.dtype)
        return (
            dx,
            None if weight is None else dz_xhat,
            None if bias is None else dz,
            dresidual,
            *_NO_GRADIENTS,
        )


def _has_its_derivative_in_y(activation: Activation) -> bool:
    """Whether y says all that the backward pass needs to know of z; nothing, for the identity.

    Then y is saved and not the residual: what follows the layer saves y as well, as a rule, while
    a residual may be kept alive for this alone. Torch's own ReLU saves y, too.
    """
    if activation.name == "leaky_relu":
        return activation.parameter > 0
    return activation.name in {"identity", "relu", "relu6"}


def _derivative(y: Tensor, activation: Activation) -> Tensor:
    """Eq. (13) at an output of such an activation."""
    one = torch.ones_like(y)
    if activation.name == "leaky_relu":
        return torch.where(y > 0, one, activation.parameter)
    inside = y > 0 if activation.name == "relu" else (y > 0) & (y < 6)
    return one * inside


def _before_activation(
    dy: Tensor, y: Tensor | None, norm: Norm, mask: Tensor | None, provider: Provider
) -> Tensor:
    """Gradient dz, eq. (9): that of an input of mean 0 and variance 1, which is y."""
    if y is None:
        return dy if mask is None else dy.where(mask.unsqueeze(1), 0.0)
    zero = norm.mean.new_zeros(y.shape[1])
    plain = Norm(zero, zero, torch.ones_like(zero), None, None, 0.0, norm.activation)
    kept = None if mask is None else mask.reshape(mask.shape[0], -1)
    views = canonical(dy), canonical(y)
    dz, _ = provider.backward_input(*views, plain, None, 0, None, kept)
    return shaped(dz, y)


#: Torch's own ``Function.apply`` would first unwrap all arguments, in slower Python.
record_train: Any = super(torch.autograd.Function, _Train).apply  # pyright: ignore[reportAttributeAccessIssue] - no stub


def _differentiable(
    dy: Tensor,
    tensors: tuple[Tensor, Tensor | None, Tensor | None, Tensor | None],
    needed: tuple[bool, ...],
    mask: Tensor | None,
    eps: float,
    activation: Activation,
) -> list[Tensor | None]:
    """The same gradients by torch's formula: with a graph (``create_graph=True``), or batched."""
    x, weight, bias, residual = tensors
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        y, _ = _composite.normalize_batch(x, weight, bias, eps, activation, residual, mask)
    wanted = [t for t, need in zip(tensors, needed, strict=True) if need and t is not None]
    found = iter(torch.autograd.grad(y, wanted, dy, create_graph=graph))
    return [
        next(found) if need and t is not None else None
        for t, need in zip(tensors, needed, strict=True)
    ]


@torch.library.custom_op("evenkeel::forward", mutates_args=())
def _forward_op(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mask: Tensor | None,
    eps: float,
    activation: str,
    parameter: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    how = Activation(activation, parameter)
    y, moments = select(x).forward(x, weight, bias, eps, how, residual, mask)
    count = count_on(moments, x.device)
    return y, count, moments.mean, moments.mean_lo, moments.var


@_forward_op.register_fake
def _(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mask: Tensor | None,
    eps: float,
    activation: str,
    parameter: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    count = x.new_empty((), dtype=torch.int64)
    return _like(x), count, _per_channel(x), _per_channel(x), _per_channel(x)


@torch.library.custom_op("evenkeel::backward", mutates_args=())
def _backward_op(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mask: Tensor | None,
    mean: Tensor,
    mean_lo: Tensor,
    var: Tensor,
    eps: float,
    activation: str,
    parameter: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    norm = Norm(mean, mean_lo, var, weight, bias, eps, Activation(activation, parameter))
    dx, sums, dresidual = select(x).backward(dy, x, norm, residual, mask)
    return dx, sums.dz_xhat, sums.dz, x.new_empty(0) if dresidual is None else dresidual


@_backward_op.register_fake
def _(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mask: Tensor | None,
    mean: Tensor,
    mean_lo: Tensor,
    var: Tensor,
    eps: float,
    activation: str,
    parameter: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dresidual = x.new_empty(0) if residual is None else _like(x)
    return _like(x), _per_channel(x), _per_channel(x), dresidual


def _op_setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    *tensors, eps, activation, parameter = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*tensors, *output[2:])
    ctx.settings = eps, activation, parameter


def _op_backward(ctx: Any, dy: Tensor, *unused: object) -> tuple[Any, ...]:
    tensors = ctx.saved_tensors
    weight, bias, residual = tensors[1:4]
    dx, dweight, dbias, dresidual = torch.ops.evenkeel.backward(dy, *tensors, *ctx.settings)
    return (
        dx,
        None if weight is None else dweight.to(weight.dtype),
        None if bias is None else dbias.to(bias.dtype),
        None if residual is None else dresidual,
        *_NO_OP_GRADIENTS,
    )


_forward_op.register_autograd(_op_backward, setup_context=_op_setup_context)


def _like(x: Tensor) -> Tensor:
    return torch.empty_like(canonical(x)).view(x.shape)


def _per_channel(x: Tensor) -> Tensor:
    acc = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty(x.shape[1], dtype=acc)
