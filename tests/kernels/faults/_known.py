"""Planted faults by the suite's own authors: the classics that every port makes once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from evenkeel.kernels import Moments, Norm, Sums

from ._blind import Fault

if TYPE_CHECKING:
    from torch import Tensor


class Known(Fault):
    """Base of the faults below."""


def _bent(moments: Moments, **changes: object) -> Moments:
    return moments._replace(**changes)


class BesselForgottenInReverse(Known):
    """Normalizes with the unbiased variance."""

    harm = "output too small by 1/(2n): visible for small batches"

    def moments(self, x: Tensor, mask: Tensor | None = None) -> Moments:
        moments = super().moments(x, mask)
        count = int(moments.count)
        return _bent(moments, var=moments.var * (count / max(count - 1, 1)))


class EpsOutsideTheRoot(Known):
    """Divides by sqrt(var) + eps."""

    harm = "a channel of small variance is blown up"

    def _scale(self, norm: Norm) -> Norm:
        var = norm.var.double()
        return norm._replace(var=((var.sqrt() + norm.eps).square() - norm.eps).to(norm.var.dtype))

    def normalize(self, x, norm, residual=None, mask=None):
        return super().normalize(x, self._scale(norm), residual, mask)


class MeanLowDropped(Known):
    """Carries the mean as one float."""

    harm = "3 to 6 digits lost at a large mean"

    def moments(self, x: Tensor, mask: Tensor | None = None) -> Moments:
        moments = super().moments(x, mask)
        return _bent(moments, mean_lo=torch.zeros_like(moments.mean_lo))


class MeanOfDyMissing(Known):
    """The mean term of dx is left out where it is small."""

    harm = "dx is off whenever dy does not average to 0"

    def backward_input(self, dy, x, norm, sums, count, residual=None, mask=None):
        if sums is not None and bool((sums.dz.abs() < 1.0).all()):
            sums = Sums(torch.zeros_like(sums.dz), sums.dz_xhat)
        return super().backward_input(dy, x, norm, sums, count, residual, mask)


class CountIgnoresTheMask(Known):
    """Reports N S values although a mask kept fewer."""

    harm = "means of gradients too small under a mask"

    def moments(self, x: Tensor, mask: Tensor | None = None) -> Moments:
        return _bent(super().moments(x, mask), count=x.shape[0] * x.shape[2])


class LastChannelOfATile(Known):
    """Where C is one more than a multiple of 16, the last channel gets its neighbour's mean."""

    harm = "one wrong channel at C = 17, 33, 65, ..."

    def moments(self, x: Tensor, mask: Tensor | None = None) -> Moments:
        moments = super().moments(x, mask)
        if x.shape[1] > 16 and x.shape[1] % 16 == 1:
            mean = moments.mean.clone()
            mean[-1] = mean[-2]
            return _bent(moments, mean=mean)
        return moments


class AverageOfVariances(Known):
    """Merges variances by averaging, without the spread of the means."""

    harm = "running variance too small after a distributed step"

    def merge(self, parts):
        merged = super().merge(parts)
        total = max(int(merged.count), 1)
        var = sum(p.var * (int(p.count) / total) for p in parts)
        return _bent(merged, var=torch.as_tensor(var))


class InferenceSubtractsTheMeans(Known):
    """The backward pass of inference treats mean and variance as functions of x."""

    harm = "fine-tuning with frozen statistics gets wrong gradients"

    def backward_input(self, dy, x, norm, sums, count, residual=None, mask=None):
        if sums is None:
            sums, count = self.backward_reduce(dy, x, norm, residual, mask), x.shape[0] * x.shape[2]
        return super().backward_input(dy, x, norm, sums, max(int(count), 1), residual, mask)


class DerivativeWithoutTheResidual(Known):
    """Takes the activation's derivative at norm(x) alone."""

    harm = "wrong gradients in every residual block"

    def backward_reduce(self, dy, x, norm, residual=None, mask=None):
        return super().backward_reduce(dy, x, norm, None, mask)


class DefaultSlope(Known):
    """The backward pass of leaky ReLU uses the default slope."""

    harm = "wrong gradient for any other slope"

    def backward_reduce(self, dy, x, norm, residual=None, mask=None):
        if norm.activation.name == "leaky_relu":
            norm = norm._replace(activation=type(norm.activation)("leaky_relu", 0.01))
        return super().backward_reduce(dy, x, norm, residual, mask)


class EmptyBatchIsNan(Known):
    """0 / 0 for a batch without values."""

    harm = "one empty batch makes the statistics NaN"

    def moments(self, x: Tensor, mask: Tensor | None = None) -> Moments:
        moments = super().moments(x, mask)
        if int(moments.count) == 0:
            return _bent(moments, mean=moments.mean + float("nan"))
        return moments


class VarianceFloor(Known):
    """Clamps the variance from below, as if rounding could make it negative."""

    harm = "constant channels get a variance, tiny ones the wrong one"

    def moments(self, x: Tensor, mask: Tensor | None = None) -> Moments:
        moments = super().moments(x, mask)
        return _bent(moments, var=moments.var.clamp(min=1e-10))


class MomentsOfTheOutput(Known):
    """In place, the moments are taken once more when x holds the output already."""

    harm = "running statistics of an in-place layer drift to 0 and 1"

    def forward(self, x, *rest, out=None):
        y, moments = super().forward(x, *rest, out=out)
        mask = rest[5] if len(rest) > 5 else None
        return y, moments if out is None else self.moments(out, mask)


class DefaultSlopeUndone(Known):
    """A leaky ReLU is undone with the default slope."""

    harm = "wrong gradients of an in-place layer with any other slope"

    def _backward_undone(self, dy, y, norm, mask):
        if norm.activation.name == "leaky_relu":
            norm = norm._replace(activation=type(norm.activation)("leaky_relu", 0.01))
        return super()._backward_undone(dy, y, norm, mask)


KNOWN_FAULTS: tuple[type[Fault], ...] = tuple(Known.__subclasses__())
