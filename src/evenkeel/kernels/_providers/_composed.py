"""The two fused verbs as the composition of the five, for providers with nothing better."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evenkeel.kernels._contract import Moments, Norm, Provider, Sums
from evenkeel.spec import IDENTITY, Activation

if TYPE_CHECKING:
    from torch import Tensor


class Composed(Provider):
    """`forward` and `backward` for a class that has the other five verbs."""

    def forward(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        activation: Activation = IDENTITY,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
        out: Tensor | None = None,
    ) -> tuple[Tensor, Moments]:
        """`moments`, then `normalize`."""
        moments = self.moments(x, mask)
        norm = Norm(*moments[1:], weight, bias, eps, activation)
        y = self.normalize(x, norm, residual, mask)
        return (y if out is None else out.copy_(y)), moments

    def backward(
        self,
        dy: Tensor,
        x: Tensor,
        norm: Norm,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Sums, Tensor | None]:
        """`backward_reduce`, then `backward_input`."""
        sums = self.backward_reduce(dy, x, norm, residual, mask)
        count = x.shape[0] * x.shape[2] if mask is None else int(mask.sum())
        dx, dresidual = self.backward_input(dy, x, norm, sums, count, residual, mask)
        return dx, sums, dresidual
