"""A kernel provider that is right and slow: the base that planted faults are derived from.

Everything is computed in float64 and rounded once at the end. Each step is a small method,
so that one mistake is a subclass with one method overridden.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from evenkeel.kernels._contract import Moments, Norm, Sums
from evenkeel.kernels._providers._composed import Composed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from evenkeel.kernels._contract import Problem
    from evenkeel.spec import Activation

REDUCED = (0, 2)


def widen(values: Tensor) -> Tensor:
    """``values`` in float64, outside any autograd graph."""
    return values.detach().to(torch.float64)


def accumulator(x: Tensor) -> torch.dtype:
    """The accumulation dtype of the contract."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


class ExactProvider(Composed):
    """The seven verbs in plain torch operations on float64."""

    name: str = "exact"

    def reasons_against(self, problem: Problem) -> list[str]:
        return []

    def moments(self, x: Tensor, mask: Tensor | None = None) -> Moments:
        count = self._count(x, mask)
        high, low = self._mean(x, mask, count)
        var = self._var(x, high, low, mask, count)
        return self._pack(count, high, low, var, accumulator(x))

    def merge(self, parts: Sequence[Moments]) -> Moments:
        kept = [part for part in parts if int(part.count) > 0]
        if not kept:
            zero = torch.zeros_like(parts[0].mean)
            return Moments(0, zero, zero.clone(), zero.clone())
        total = sum(int(part.count) for part in kept)
        high, low, var = self._combine(kept, total)
        return self._pack(total, high, low, var, kept[0].mean.dtype)

    def normalize(
        self, x: Tensor, norm: Norm, residual: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        z = self._z(x, norm, residual)
        return self._store(self._activate(z, norm.activation), x, mask)

    def backward_reduce(
        self,
        dy: Tensor,
        x: Tensor,
        norm: Norm,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Sums:
        dz = self._dz(dy, x, norm, residual)
        dz_xhat = self._weight_sum(dz, x, norm, mask)
        return Sums(self._total(dz, mask).to(accumulator(x)), dz_xhat.to(accumulator(x)))

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
        dz = self._dz(dy, x, norm, residual)
        core = dz
        if sums is not None:
            mean_dz, mean_dz_xhat = self._mean_sums(sums, count, x)
            core = dz - mean_dz - self._xhat(x, norm) * mean_dz_xhat
        scale = self._inv_std(norm)[:, None]
        if norm.weight is not None:
            scale = scale * widen(norm.weight)[:, None]
        dx = self._store(core * scale, x, mask)
        return dx, None if residual is None else self._dresidual(dy, dz, x, mask)

    def _count(self, x: Tensor, mask: Tensor | None) -> int:
        return x.shape[0] * x.shape[2] if mask is None else int(mask.sum())

    def _clear(self, values: Tensor, mask: Tensor | None) -> Tensor:
        # where, not a product: 0 * NaN is NaN.
        zero = torch.zeros((), dtype=values.dtype, device=values.device)
        return values if mask is None else torch.where(mask[:, None, :], values, zero)

    def _total(self, values: Tensor, mask: Tensor | None) -> Tensor:
        return self._clear(values, mask).sum(REDUCED)

    def _mean(self, x: Tensor, mask: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
        wide, n = widen(x), max(count, 1)
        high = self._total(wide, mask) / n
        return high, self._total(wide - high[:, None], mask) / n

    def _var(self, x: Tensor, high: Tensor, low: Tensor, mask: Tensor | None, count: int) -> Tensor:
        centred = widen(x) - high[:, None] - low[:, None]
        return self._total(centred * centred, mask) / max(count, 1)

    def _pack(
        self, count: int, high: Tensor, low: Tensor, var: Tensor, kind: torch.dtype
    ) -> Moments:
        # Knuth's two-sum: total + rest is high + low exactly, whichever is larger.
        total = high + low
        part = total - high
        rest = (high - (total - part)) + (low - part)
        mean = total.to(kind)
        return Moments(count, mean, (total - widen(mean) + rest).to(kind), var.to(kind))

    def _combine(self, parts: list[Moments], total: int) -> tuple[Tensor, Tensor, Tensor]:
        anchor = max(parts, key=lambda part: int(part.count))
        high, low = widen(anchor.mean), widen(anchor.mean_lo)
        shares = [int(part.count) / total for part in parts]
        offsets = [(widen(part.mean) - high) + (widen(part.mean_lo) - low) for part in parts]
        shift = torch.stack([w * d for w, d in zip(shares, offsets, strict=True)]).sum(0)
        var = torch.zeros_like(high)
        for w, d, part in zip(shares, offsets, parts, strict=True):
            var += w * (widen(part.var) + (d - shift) ** 2)
        return high, low + shift, var

    def _inv_std(self, norm: Norm) -> Tensor:
        return (widen(norm.var) + norm.eps).rsqrt()

    def _xhat(self, x: Tensor, norm: Norm) -> Tensor:
        centred = widen(x) - widen(norm.mean)[:, None] - widen(norm.mean_lo)[:, None]
        return centred * self._inv_std(norm)[:, None]

    def _z(self, x: Tensor, norm: Norm, residual: Tensor | None) -> Tensor:
        z = self._xhat(x, norm)
        if norm.weight is not None:
            z = z * widen(norm.weight)[:, None]
        if norm.bias is not None:
            z = z + widen(norm.bias)[:, None]
        return z if residual is None else z + widen(residual)

    def _activate(self, z: Tensor, activation: Activation) -> Tensor:
        if activation.name == "identity":
            return z
        if activation.name in {"leaky_relu", "elu"}:
            return getattr(F, activation.name)(z, activation.parameter)
        return getattr(F, activation.name)(z)

    def _slope(self, z: Tensor, activation: Activation) -> Tensor:
        one, zero = torch.ones_like(z), torch.zeros_like(z)
        match activation.name:
            case "relu":
                slope = torch.where(z > 0, one, zero)
            case "leaky_relu":
                slope = torch.where(z > 0, one, one * activation.parameter)
            case "relu6":
                slope = torch.where((z > 0) & (z < 6), one, zero)
            case "silu":
                slope = torch.sigmoid(z) * (1 + z * torch.sigmoid(-z))
            case "gelu":
                density = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
                slope = torch.erfc(-z / math.sqrt(2)) / 2 + z * density
            case "hardswish":
                slope = torch.where(z <= -3, zero, torch.where(z >= 3, one, z / 3 + 0.5))
            case "elu":
                slope = torch.where(z > 0, one, activation.parameter * z.exp())
            case _:
                return one
        return torch.where(z.isnan(), z, slope)

    def _gradient(self, dy: Tensor, x: Tensor) -> Tensor:
        return widen(dy)

    def _dz(self, dy: Tensor, x: Tensor, norm: Norm, residual: Tensor | None) -> Tensor:
        return self._gradient(dy, x) * self._slope(self._z(x, norm, residual), norm.activation)

    def _weight_sum(self, dz: Tensor, x: Tensor, norm: Norm, mask: Tensor | None) -> Tensor:
        return self._total(dz * self._xhat(x, norm), mask)

    def _mean_sums(self, sums: Sums, count: int | Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        n = max(int(count), 1)
        return widen(sums.dz)[:, None] / n, widen(sums.dz_xhat)[:, None] / n

    def _dresidual(self, dy: Tensor, dz: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        return self._store(dz, x, mask)

    def _store(self, values: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        return torch.empty_like(x).copy_(self._clear(values, mask))
