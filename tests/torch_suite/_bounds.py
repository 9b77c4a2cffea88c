"""How far a result may be from the exact one: promise 1, k u times the scale of the result.

u is the unit roundoff of the accumulation dtype (float64, else float32), k = 16; a result in a
16-bit dtype is rounded once more. The exact values are those of torch's operator in float64,
which rounds, too: for float64 both sides have the bound, hence twice.

torch's own operator, which is ours in inference, folds into x alpha + beta, whose terms set
its scale, and rounds mean, inv_std and what it makes from them (four factors at most in a
term) to the sample's dtype before it uses them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ._samples import HALF

if TYPE_CHECKING:
    from ._samples import Call

K = 16


class Bounds(NamedTuple):
    """One bound per result; they broadcast against the results."""

    y: Tensor
    dx: Tensor
    dweight: Tensor
    dbias: Tensor
    mean: Tensor
    inv_std: Tensor
    running_mean: Tensor
    running_var: Tensor


def bounds(call: Call, dy: Tensor, *, torchs: bool = False) -> Bounds:
    """The bounds of a call, ours or those of torch's own operator."""
    torchs = torchs or not call.training
    u = torch.finfo(torch.float64 if call.x.dtype == torch.float64 else torch.float32).eps / 2
    unit = K * u * (2 if call.x.dtype == torch.float64 else 1)
    if torchs and call.x.dtype in HALF:
        unit += 4 * torch.finfo(call.x.dtype).eps / 2
    x, dy = call.x.detach().double(), dy.double()
    dims = [d for d in range(x.dim()) if d != 1]
    mean, var = _statistics(call, x, dims)
    inv_std = (var + call.eps).rsqrt()
    gamma, beta = (_channels(t, x, default) for t, default in ((call.weight, 1), (call.bias, 0)))
    xhat = (x - mean) * inv_std
    spread = _largest(xhat, dims)
    if torchs:
        spread = (_largest(x, dims) + mean.abs()) * inv_std
    rest = dy.mean(dims, keepdim=True).abs()
    rest = rest + spread * (dy * xhat).mean(dims, keepdim=True).abs()
    slope = gamma.abs() * inv_std * (_largest(dy, dims) + (rest if call.training else 0))
    kept, added = abs(1 - call.momentum), abs(call.momentum)
    old_mean, old_var = (_channels(t, x, 0) for t in (call.mean, call.var))
    return Bounds(
        unit * (gamma.abs() * spread + beta.abs()),
        unit * slope,
        unit * (dy.abs() * (spread if torchs else xhat.abs())).sum(dims),
        unit * dy.abs().sum(dims),
        unit * _largest(x, dims).flatten(),
        unit * inv_std.flatten(),
        unit * (kept * old_mean.abs() + added * _largest(x, dims)).flatten(),
        unit * (kept * old_var.abs() + added * 2 * var).flatten(),  # 2 >= n / (n - 1)
    )


def output_rounding(dtype: torch.dtype, exact: Tensor) -> Tensor:
    """What rounding once to a 16-bit dtype may add; subnormal results have a fixed spacing."""
    if dtype not in HALF:
        return torch.zeros_like(exact)
    info = torch.finfo(dtype)
    return (info.eps / 2 * exact.abs()).clamp(min=info.smallest_normal * info.eps / 2)


def within(name: str, got: Tensor, exact: Tensor, bound: Tensor | float, times: int = 1) -> None:
    """Assert |got - exact| <= bound, plus the output rounding ``times`` over."""
    assert got.shape == exact.shape, name
    exact = exact.detach().double()
    room = bound + times * output_rounding(got.dtype, exact)
    error = (got.detach().double() - exact).abs()
    bad = ~(error <= room)  # NaN is bad
    assert not bad.any(), f"{name}: error {error[bad]}, allowed {room.expand_as(error)[bad]}"


def _statistics(call: Call, x: Tensor, dims: list[int]) -> tuple[Tensor, Tensor]:
    if call.training:
        var, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
        return mean, var
    return _channels(call.mean, x, 0), _channels(call.var, x, 1)


def _channels(values: Tensor | None, x: Tensor, default: float) -> Tensor:
    if values is None:
        values = torch.full((x.shape[1],), default)
    return values.detach().double().reshape(1, -1, *(1 for _ in range(x.dim() - 2)))


def _largest(value: Tensor, dims: list[int]) -> Tensor:
    return value.abs().amax(dims, keepdim=True)
