"""Verbs in terms of others and of plain torch operations, for providers with nothing better."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from evenkeel.kernels._contract import Moments, Norm, Provider, Sums
from evenkeel.kernels._view import canonical, shaped
from evenkeel.spec import IDENTITY, Activation

if TYPE_CHECKING:
    from torch import Tensor


class Composed(Provider):
    """`forward`, `backward` and `update_running` for a class that has the other five verbs."""

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
        view, residual, mask = _canonical(x, residual, mask)
        moments = self.moments(view, mask)
        norm = Norm(*moments[1:], weight, bias, eps, activation)
        y = shaped(self.normalize(view, norm, residual, mask), x)
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
        """`_backward` on the canonical view."""
        view, residual, mask = _canonical(x, residual, mask)
        if undo:
            dx, sums, dresidual = self._backward_undone(canonical(dy), view, norm, mask)
        else:
            dx, sums, dresidual = self._backward(canonical(dy), view, norm, residual, mask)
        return shaped(dx, x), sums, None if dresidual is None else shaped(dresidual, x)

    def _backward(
        self, dy: Tensor, x: Tensor, norm: Norm, residual: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Sums, Tensor | None]:
        """`backward_reduce`, then `backward_input`."""
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
        dx, sums, _ = self._backward(dz, z, plain, None, mask)
        return dx.to(y.dtype), sums, None

    def update_running(
        self,
        running_mean: Tensor,
        running_var: Tensor,
        batches: Tensor | None,
        moments: Moments,
        momentum: float | None,
        correction: float,
        *,
        only_finite: bool,
    ) -> bool:
        """Eq. (6) or (8)."""
        statistics = running_mean, running_var, batches
        return update_running(*statistics, moments, momentum, correction, only_finite=only_finite)


def _canonical(
    x: Tensor, residual: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Input and residual as ``(N, C, S)``, the mask as ``(N, S)``."""
    return (
        canonical(x),
        None if residual is None else canonical(residual),
        None if mask is None else mask.reshape(mask.shape[0], -1),
    )


@torch.no_grad()
def update_running(
    running_mean: Tensor,
    running_var: Tensor,
    batches: Tensor | None,
    moments: Moments,
    momentum: float | None,
    correction: float,
    *,
    only_finite: bool,
) -> bool:
    """The verb `update_running` in torch operations."""
    if only_finite and not _all_finite(moments):
        return False
    if batches is not None:
        batches.add_(1)
        if momentum is None:
            momentum = 1 / int(batches)
    stored = moments.var * correction
    for old, new in ((running_mean, moments.mean), (running_var, stored)):
        if old.dtype == new.dtype:
            old.lerp_(new, momentum or 0.0)
        else:  # rounded once, at the end
            old.add_((new - old) * (momentum or 0.0))
    return True


def _all_finite(moments: Moments) -> bool:
    """Whether no statistic is NaN or Inf: v - v is 0 for every finite v, else NaN.

    One product is asked first, as it is four times cheaper: nothing that is not finite leaves it
    finite, and where finite numbers overflow in it, the slower question decides.
    """
    mean, var = moments.mean, moments.var
    if isfinite(float(torch.dot(mean, var))):
        return True
    return float(((mean - mean) + (var - var)).sum()) == 0.0
