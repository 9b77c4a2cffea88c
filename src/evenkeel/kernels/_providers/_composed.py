"""The two fused verbs as the composition of the five, for providers with nothing better."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812 - torch's own convention

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
        *,
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
        *,
        undo: bool = False,
    ) -> tuple[Tensor, Sums, Tensor | None]:
        """`backward_reduce`, then `backward_input`."""
        if undo:
            return self._backward_undone(dy, x, norm, mask)
        sums = self.backward_reduce(dy, x, norm, residual, mask)
        count = x.shape[0] * x.shape[2] if mask is None else int(mask.sum())
        dx, dresidual = self.backward_input(dy, x, norm, sums, count, residual, mask)
        return dx, sums, dresidual

    def _backward_undone(
        self, dy: Tensor, y: Tensor, norm: Norm, mask: Tensor | None
    ) -> tuple[Tensor, Sums, Tensor | None]:
        """`backward` at z for x, with dz for dy, both in the accumulation dtype."""
        dz, z, plain = dy, y, norm._replace(activation=IDENTITY)
        if norm.activation.name != "identity":
            slope, acc = norm.activation.parameter, norm.mean.dtype
            dz, z = dy.to(acc), y.to(acc)
            dz = torch.ops.aten.leaky_relu_backward(dz, z, slope, self_is_result=False)
            z = F.leaky_relu(z, 1 / slope)
        dx, sums, _ = self.backward(dz, z, plain, None, mask)
        return dx.to(y.dtype), sums, None
