"""Provider `aten`: plain torch operations on any device, the broad fallback.

`torch.native_batch_norm` is not exact enough: it rounds the mean to float32 and folds it into
an offset. Here the data is centred on the rounded mean first, and the statistics are taken of
what remains (docs/numerics.md, section 2). That costs passes over memory, which a fallback may.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from evenkeel.kernels._contract import FLOATS, Moments, Norm, Problem, Sums
from evenkeel.kernels._providers._composed import Composed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from evenkeel.spec import Activation

_NO_FLOAT64: Final = ("mps",)  # devices that cannot accumulate in float64
_DIMS: Final = (0, 2)

#: z -> activation(z), with the definitions of eq. (12).
_ACTIVATE: Final[dict[str, Callable[[Tensor, float], Tensor]]] = {
    "identity": lambda z, _: z,
    "relu": lambda z, _: F.relu(z),
    "leaky_relu": F.leaky_relu,
    "relu6": lambda z, _: F.relu6(z),
    "silu": lambda z, _: F.silu(z),
    "gelu": lambda z, _: F.gelu(z),
    "hardswish": lambda z, _: F.hardswish(z),
    "elu": F.elu,
}


def activate(z: Tensor, activation: Activation) -> Tensor:
    """Apply an activation, eq. (12); differentiable as torch differentiates it, eq. (13)."""
    return _ACTIVATE[activation.name](z, activation.parameter)


class AtenProvider(Composed):
    """The verbs of the contract in plain torch operations."""

    name = "aten"

    def reasons_against(self, problem: Problem) -> list[str]:
        """Only the element type can speak against it."""
        if problem.dtype in FLOATS:
            return []
        return [f"dtype {problem.dtype} is none of {', '.join(FLOATS)}"]

    def moments(self, x: Tensor, mask: Tensor | None = None) -> Moments:
        """Centre on the rounded mean, then take mean and variance of what remains, eq. (1), (2)."""
        wide, keep = _wide(x), _spread(mask)
        count: int | Tensor = x.shape[0] * x.shape[2] if mask is None else mask.sum()
        divisor = _at_least_one(count)
        values = x.to(_acc(x))
        mean = (_kept(values, keep).sum(_DIMS, dtype=wide) / divisor).to(values.dtype)
        centred = _kept(values - mean[:, None], keep)
        rest = centred.sum(_DIMS, dtype=wide) / divisor
        squares = _kept(centred.to(wide) - rest[:, None], keep).square()
        var = (squares.sum(_DIMS) / divisor).to(values.dtype)
        return Moments(count, *_two_sum(mean, rest.to(values.dtype)), var)

    def merge(self, parts: Sequence[Moments]) -> Moments:
        """Moments of the union, eq. (4), relative to the first mean so that nothing cancels."""
        first = parts[0]
        wide = _wide(first.mean)
        counts = torch.stack([torch.as_tensor(p.count, device=first.mean.device) for p in parts])
        total = counts.sum()
        share = (counts.to(wide) / total.clamp(min=1))[:, None]
        origin = torch.stack([p.mean for p in parts])[counts.argmax()]
        shift = torch.stack([(p.mean - origin).to(wide) + p.mean_lo for p in parts])
        var = torch.stack([p.var.to(wide) for p in parts])
        present = (counts > 0)[:, None]
        shift, var = _kept(shift, present), _kept(var, present)
        rest = (share * shift).sum(0)
        merged = (share * (var + (shift - rest).square())).sum(0)
        acc = first.mean.dtype
        return Moments(total, *_two_sum(origin, rest.to(acc)), merged.to(acc))

    def normalize(
        self, x: Tensor, norm: Norm, residual: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Output of eq. (3) and (5)."""
        z = _preactivation(_xhat(x, norm), norm, residual)
        return _like(x, _kept(activate(z, norm.activation), _spread(mask)))

    def backward_reduce(
        self,
        dy: Tensor,
        x: Tensor,
        norm: Norm,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Sums:
        """Sums of dz and dz xhat, eq. (9), accumulated in float64 where the device has it."""
        xhat = _xhat(x, norm)
        dz = _dz(dy, xhat, norm, residual, mask)
        return _sums(dz, _kept(xhat, _spread(mask)))

    def backward_input(
        self,
        dy: Tensor,
        x: Tensor,
        norm: Norm,
        sums: Sums | None,
        count: int | Tensor,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Gradient of x, eq. (10) or (11), and of the residual."""
        xhat = _xhat(x, norm)
        dz = _dz(dy, xhat, norm, residual, mask)
        return _input_gradients(dz, xhat, x, norm, sums, count, residual, mask)

    def _backward(
        self, dy: Tensor, x: Tensor, norm: Norm, residual: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Sums, Tensor | None]:
        """`backward_reduce`, then `backward_input`, on one xhat and one dz."""
        xhat = _xhat(x, norm)
        dz = _dz(dy, xhat, norm, residual, mask)
        sums = _sums(dz, _kept(xhat, _spread(mask)))
        count = x.shape[0] * x.shape[2] if mask is None else mask.sum()
        dx, dresidual = _input_gradients(dz, xhat, x, norm, sums, count, residual, mask)
        return dx, sums, dresidual


def _acc(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _wide(x: Tensor) -> torch.dtype:
    return torch.float32 if x.device.type in _NO_FLOAT64 else torch.float64


def _two_sum(high: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
    """Renormalize high + low so that the first part is the rounded sum (Dekker 1971)."""
    total = high + low
    return total, low - (total - high)


def _at_least_one(count: int | Tensor) -> int | Tensor:
    return max(count, 1) if isinstance(count, int) else count.clamp(min=1)


def _spread(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask[:, None, :]


def _kept(value: Tensor, keep: Tensor | None) -> Tensor:
    """Zero where not kept, by selection: a product would let NaN through."""
    return value if keep is None else torch.where(keep, value, value.new_zeros(()))


def _inv_std(norm: Norm) -> Tensor:
    return (norm.var.to(_wide(norm.var)) + norm.eps).rsqrt().to(norm.var.dtype)


def _xhat(x: Tensor, norm: Norm) -> Tensor:
    """Eq. (3); the two parts of the mean are subtracted one after the other."""
    centred = x.to(norm.mean.dtype) - norm.mean[:, None] - norm.mean_lo[:, None]
    return centred * _inv_std(norm)[:, None]


def _preactivation(xhat: Tensor, norm: Norm, residual: Tensor | None) -> Tensor:
    z = xhat
    if norm.weight is not None:
        z = z * norm.weight.to(z.dtype)[:, None]
    if norm.bias is not None:
        z = z + norm.bias.to(z.dtype)[:, None]
    return z if residual is None else z + residual.to(z.dtype)


def _dz(
    dy: Tensor, xhat: Tensor, norm: Norm, residual: Tensor | None, mask: Tensor | None
) -> Tensor:
    """Gradient before the activation: torch's own derivative of eq. (12), zero where masked."""
    dz = dy.to(xhat.dtype)
    if norm.activation.name != "identity":
        with torch.enable_grad():
            z = _preactivation(xhat, norm, residual).detach().requires_grad_()
            (dz,) = torch.autograd.grad(activate(z, norm.activation), z, dz)
    return _kept(dz, _spread(mask))


def _sums(dz: Tensor, xhat: Tensor) -> Sums:
    wide = _wide(dz)
    both = dz.sum(_DIMS, dtype=wide), (dz * xhat).sum(_DIMS, dtype=wide)
    return Sums(*(s.to(dz.dtype) for s in both))


def _input_gradients(
    dz: Tensor,
    xhat: Tensor,
    x: Tensor,
    norm: Norm,
    sums: Sums | None,
    count: int | Tensor,
    residual: Tensor | None,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    dresidual = None if residual is None else _like(x, dz.clone())  # never an alias of dy
    scale = _inv_std(norm)
    if norm.weight is not None:
        scale = scale * norm.weight.to(scale.dtype)
    dx = dz
    if sums is not None:
        divisor = _at_least_one(count)
        dx = dz - (sums.dz / divisor)[:, None] - xhat * (sums.dz_xhat / divisor)[:, None]
    return _like(x, _kept(dx * scale[:, None], _spread(mask))), dresidual


def _like(x: Tensor, value: Tensor) -> Tensor:
    """`value` in the dtype and strides of `torch.empty_like(x)`."""
    value = value.to(x.dtype)
    strides = torch.empty_like(x, device="meta").stride()
    if value.stride() == strides:
        return value
    return torch.empty_strided(x.shape, strides, dtype=x.dtype, device=x.device).copy_(value)
