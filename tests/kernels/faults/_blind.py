"""Planted faults: one realistic mistake each, invisible to a tolerance of 1e-3 on easy input.

Easy input is a float32 training step without mask and residual: x ~ N(0, 1) of shape
(32, 4, 64), weight near 1, bias near 0, eps 1e-5, dy ~ N(0, 1), parts of equal size to merge.
There every result is within 1e-3 (gradients of parameters: relative to the largest).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from evenkeel.spec import Activation

from ._exact import ExactProvider, accumulator, widen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from evenkeel.kernels._contract import Moments, Norm, Sums


class Fault(ExactProvider):
    """A provider with one mistake; ``harm`` says where it shows. EpsFloor -> fault-eps-floor."""

    harm: str

    def __init_subclass__(cls) -> None:
        cls.name = "fault" + re.sub("[A-Z]", lambda capital: f"-{capital[0].lower()}", cls.__name__)


class OnePassVariance(Fault):
    """E[x^2] - E[x]^2, clamped at 0: Flax's fast variance and many hand-written kernels."""

    harm = "float32 with |mean|/std above 1000: the variance is noise or 0"

    def _var(self, x: Tensor, high: Tensor, low: Tensor, mask: Tensor | None, count: int) -> Tensor:
        narrow, n = x.detach().to(accumulator(x)), max(count, 1)
        mean, square = self._total(narrow, mask) / n, self._total(narrow * narrow, mask) / n
        return widen((square - mean * mean).clamp(min=0))


class ShiftByFirstValue(Fault):
    """One pass about the first value of the channel: the textbook cure for the fault above."""

    harm = "the first of n values is an outlier: the variance is off by up to n * 2**-24 of itself"

    def _var(self, x: Tensor, high: Tensor, low: Tensor, mask: Tensor | None, count: int) -> Tensor:
        if mask is not None or count == 0:
            return super()._var(x, high, low, mask, count)
        narrow = x.detach().to(accumulator(x))
        shifted = narrow - narrow[:1, :, :1]
        mean = self._total(shifted, None) / count
        return widen((self._total(shifted * shifted, None) / count - mean * mean).clamp(min=0))


class BackwardDropsMeanLow(Fault):
    """The forward pass subtracts both parts of the mean, the sum for gamma only the first."""

    harm = "float32 with mean/std 1e6: the gradient of weight is off by mean_lo/std times sum(dy)"

    def _weight_sum(self, dz: Tensor, x: Tensor, norm: Norm, mask: Tensor | None) -> Tensor:
        return super()._weight_sum(dz, x, norm._replace(mean_lo=norm.mean_lo * 0), mask)


class FoldedScaleShift(Fault):
    """x * scale + shift with the mean folded into the shift: aten, ONNX Runtime, Keras on TF."""

    harm = "float32 with a large |mean|/std: two large numbers cancel after rounding"

    def _z(self, x: Tensor, norm: Norm, residual: Tensor | None) -> Tensor:
        origin = torch.zeros_like(x[:1, :, :1])
        shift = super()._z(origin, norm, None)
        scale = super()._z(origin + 1, norm, None) - shift
        kind = accumulator(x)
        z = widen(x.detach().to(kind) * scale.to(kind) + shift.to(kind))
        return z if residual is None else z + widen(residual)


class ApproximateRsqrt(Fault):
    """The 14-bit reciprocal root of AVX-512 (vrsqrt14ps), without the Newton step after it."""

    harm = "every float32 output is off by up to 6e-5 of itself, a thousand times the rounding"

    def _inv_std(self, norm: Norm) -> Tensor:
        exact = super()._inv_std(norm)
        if norm.var.dtype == torch.float64:
            return exact
        mantissa, exponent = torch.frexp(exact)
        return torch.ldexp((mantissa * 2**14).round() / 2**14, exponent)


class EpsInFloat32(Fault):
    """eps passes through a C float (or an ONNX attribute) on its way to a float64 kernel."""

    harm = "float64 with variance near eps: 8 correct digits instead of 16; gradcheck is blind"

    def _inv_std(self, norm: Norm) -> Tensor:
        return super()._inv_std(norm._replace(eps=float(np.float32(norm.eps))))


class EpsFloor(Fault):
    """eps is raised to 1e-5 in silence, as wrappers of cuDNN do (CUDNN_BN_MIN_EPSILON)."""

    harm = "eps below 1e-5 and a channel of small variance: its output shrinks many times"

    def _inv_std(self, norm: Norm) -> Tensor:
        return super()._inv_std(norm._replace(eps=max(norm.eps, 1e-5)))


class BesselInBackward(Fault):
    """The two means of the backward pass divide by n - 1, the divisor of the stored variance."""

    harm = "few values per channel: dx does not sum to 0; at n = 2 both means are doubled"

    def _mean_sums(self, sums: Sums, count: int | Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return super()._mean_sums(sums, int(count) - 1, x)


class LocalCountInBackward(Fault):
    """The backward means use this rank's N * S and not the count handed in (early apex)."""

    harm = "synchronized layers, and any masked batch: the two sums are divided by a wrong count"

    def _mean_sums(self, sums: Sums, count: int | Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return super()._mean_sums(sums, x.shape[0] * x.shape[2], x)


class PartialSumsInInputType(Fault):
    """Sums of each row are stored in the 16-bit input type before they are added up."""

    harm = "16-bit input: the mean has 8 or 11 bits, overflows in float16; float32 is untouched"

    def _mean(self, x: Tensor, mask: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
        high, low = super()._mean(x, mask, count)
        if x.element_size() > 2:
            return high, low
        rows = self._clear(widen(x), mask).sum(2).to(x.dtype)
        return widen(rows).sum(0) / max(count, 1), torch.zeros_like(low)


class SquareInInputType(Fault):
    """The squares of the centred values are formed in the 16-bit input type."""

    harm = "float16 with deviations above 256 (inf) or below 2e-4 (0); bfloat16 loses 16 bits"

    def _var(self, x: Tensor, high: Tensor, low: Tensor, mask: Tensor | None, count: int) -> Tensor:
        if x.element_size() > 2:
            return super()._var(x, high, low, mask, count)
        centred = (widen(x) - high[:, None] - low[:, None]).to(x.dtype)
        return self._total(widen(centred * centred), mask) / max(count, 1)


class XhatInInputType(Fault):
    """xhat is cast to the input type before scale and shift, as under autocast."""

    harm = "16-bit input where bias or residual cancels xhat: the error is that of the larger term"

    def _xhat(self, x: Tensor, norm: Norm) -> Tensor:
        return widen(super()._xhat(x, norm).to(x.dtype))


class MergeOfRawMoments(Fault):
    """Parts are merged through E[x^2] in float32, as all-reduce of (sum, sum of squares) does."""

    harm = "synchronized layers with a large |mean|/std: each rank is exact, the union is not"

    def _combine(self, parts: list[Moments], total: int) -> tuple[Tensor, Tensor, Tensor]:
        high, low, _ = super()._combine(parts, total)
        shares = [int(part.count) / total for part in parts]
        squares = [part.var + part.mean * part.mean for part in parts]
        mean = torch.stack([w * p.mean for w, p in zip(shares, parts, strict=True)]).sum(0)
        square = torch.stack([w * s for w, s in zip(shares, squares, strict=True)]).sum(0)
        return high, low, widen((square - mean * mean).clamp(min=0))


class MergeByDegreesOfFreedom(Fault):
    """Variances inside the parts are weighted by n - 1, the pooled variance of statistics."""

    harm = "parts of very unequal or tiny size: a part of one value loses its weight"

    def _combine(self, parts: list[Moments], total: int) -> tuple[Tensor, Tensor, Tensor]:
        high, low, var = super()._combine(parts, total)
        freedom = max(total - len(parts), 1)
        for part in parts:
            n = int(part.count)
            var = var + ((n - 1) / freedom - n / total) * widen(part.var)
        return high, low, var


class MergeOfLeadingEmpties(Fault):
    """A running merge computes n_b / (n_a + n_b), which is 0/0 where the first two are empty."""

    harm = "two ranks without data in front: NaN statistics on every rank"

    def merge(self, parts: Sequence[Moments]) -> Moments:
        merged = super().merge(parts)
        if len(parts) < 2 or any(int(part.count) for part in parts[:2]):
            return merged
        lost = torch.full_like(merged.mean, float("nan"))
        return merged._replace(mean=lost, mean_lo=lost.clone(), var=lost.clone())


class MergeCountInInt32(Fault):
    """The counts of the parts are added up in 32 bits, as int in C invites."""

    harm = "statistics over a data set of 2**31 values per channel: the count turns negative"

    def merge(self, parts: Sequence[Moments]) -> Moments:
        merged = super().merge(parts)
        return merged._replace(count=(int(merged.count) + 2**31) % 2**32 - 2**31)


class MaskByProduct(Fault):
    """Masked values are multiplied by 0 instead of being left out (Keras 2, many losses)."""

    harm = "padding that holds NaN or Inf: 0 * NaN reaches statistics, output and gradient"

    def _clear(self, values: Tensor, mask: Tensor | None) -> Tensor:
        return values if mask is None else values * mask[:, None, :]


class UnmaskedResidualGradient(Fault):
    """dx is masked, the gradient of the residual is not: the residual was added later."""

    harm = "mask and residual together: padding sends gradient into the skip connection"

    def _dresidual(self, dy: Tensor, dz: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        return super()._dresidual(dy, dz, x, None)


class VarianceByFmax(Fault):
    """max(var, 0) through C's fmax, which answers 0 for NaN."""

    harm = "a NaN in the batch: variance 0, which looks healthy and enters the running variance"

    def _var(self, x: Tensor, high: Tensor, low: Tensor, mask: Tensor | None, count: int) -> Tensor:
        return torch.fmax(super()._var(x, high, low, mask, count), torch.zeros_like(high))


class ReluByFmax(Fault):
    """relu through C's fmax, or through z > 0 ? z : 0; both answer 0 for NaN."""

    harm = "a NaN in the batch is gone behind relu and relu6: training goes on with zeros"

    def _activate(self, z: Tensor, activation: Activation) -> Tensor:
        y = super()._activate(z, activation)
        return y.nan_to_num(nan=0.0) if activation.name in {"relu", "relu6"} else y


class SumsByMatrixProduct(Fault):
    """Channels are summed by a product with a 0/1 selection matrix on the matrix units."""

    harm = "a NaN in one channel: 0 * NaN spoils all channels of the tile"

    def _total(self, values: Tensor, mask: Tensor | None) -> Tensor:
        sums = super()._total(values, mask)
        selection = torch.eye(len(sums), dtype=sums.dtype, device=sums.device)
        return (selection * sums).sum(1)


class GeluByTanh(Fault):
    """gelu in the forward pass is the tanh approximation, its derivative is the exact one."""

    harm = "gelu: outputs off by up to 5e-4 near |z| = 2, and a gradient that does not match"

    def _activate(self, z: Tensor, activation: Activation) -> Tensor:
        if activation.name == "gelu":
            return F.gelu(z, approximate="tanh")
        return super()._activate(z, activation)


class Relu6NeverSaturates(Fault):
    """The derivative of relu6 is that of relu: the upper kink is forgotten."""

    harm = "relu6 with z above 6 (large weight, bias or residual): gradient where there is none"

    def _slope(self, z: Tensor, activation: Activation) -> Tensor:
        return super()._slope(z, Activation("relu") if activation.name == "relu6" else activation)


class SiluByExponential(Fault):
    """silu as z e^z / (1 + e^z) in float32."""

    harm = "silu with z above 88: inf / inf is NaN; float64 has 7 digits everywhere"

    def _activate(self, z: Tensor, activation: Activation) -> Tensor:
        if activation.name != "silu":
            return super()._activate(z, activation)
        power = z.to(torch.float32).exp()
        return z * widen(power / (1 + power))


class GradientReadWithInputStrides(Fault):
    """dy is read with the strides of x, as a kernel does that takes one set of strides."""

    harm = "x channels-last and dy contiguous, or the reverse: elements are paired at random"

    def _gradient(self, dy: Tensor, x: Tensor) -> Tensor:
        last = sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True))
        room = dy.untyped_storage().nbytes() // dy.element_size() - dy.storage_offset()
        fits = dy.numel() > 0 and last < room
        return widen(dy.detach().as_strided(x.shape, x.stride()) if fits else dy)


class StridesLost(Fault):
    """Results are contiguous, whatever the strides of the input."""

    harm = "channels-last networks: numbers right, a hidden transpose before every convolution"

    def _store(self, values: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        return super()._store(values, x, mask).contiguous()


class LastPixelSkipped(Fault):
    """The scalar tail after blocks of 16 stops one short: a tail of one is skipped."""

    harm = "S = 49 (7 x 7 maps) and others with S % 16 == 1: the gradient of weight lacks a pixel"

    def _weight_sum(self, dz: Tensor, x: Tensor, norm: Norm, mask: Tensor | None) -> Tensor:
        if x.shape[2] > 16 and x.shape[2] % 16 == 1:
            dz, x, mask = dz[..., :-1], x[..., :-1], None if mask is None else mask[:, :-1]
        return super()._weight_sum(dz, x, norm, mask)


class RowsBeyondGridLimit(Fault):
    """One block per row, and the grid ends at 65535: later rows are never written."""

    harm = "N above 65535, such as points or tokens in BatchNorm1d: the last outputs are 0"

    def _store(self, values: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        stored = super()._store(values, x, mask)
        stored[65535:] = 0
        return stored


class LoneChannelOfTile(Fault):
    """A tile of 64 channels that holds a single one reads the parameters of its neighbour."""

    harm = "C = 65, 129 and so on: the last channel is scaled with the weight of the one before"

    def _z(self, x: Tensor, norm: Norm, residual: Tensor | None) -> Tensor:
        if norm.weight is not None and x.shape[1] > 64 and x.shape[1] % 64 == 1:
            weight = norm.weight.detach()
            norm = norm._replace(weight=torch.cat([weight[:-1], weight[-2:-1]]))
        return super()._z(x, norm, residual)


class BiasNeedsWeight(Fault):
    """One flag, ``affine = weight is not None``, decides about scale and shift together."""

    harm = "a layer with bias and without scale (Keras scale=False): the bias is never added"

    def _z(self, x: Tensor, norm: Norm, residual: Tensor | None) -> Tensor:
        affine = norm.weight is not None
        return super()._z(x, norm if affine else norm._replace(bias=None), residual)


class ZeroWeightNeverLearns(Fault):
    """xhat is recovered from the output as (z - bias) / weight, guarded at 0 (in-place ABN)."""

    harm = "weight 0, the usual start of the last layer of a residual branch: it stays 0 for good"

    def _weight_sum(self, dz: Tensor, x: Tensor, norm: Norm, mask: Tensor | None) -> Tensor:
        total = super()._weight_sum(dz, x, norm, mask)
        return total if norm.weight is None else total.masked_fill(norm.weight == 0, 0)


class ResidualOverwritten(Fault):
    """The sum z is formed in the memory of the residual."""

    harm = "output right, but the skip connection's tensor is spoilt for everybody else"

    def normalize(
        self, x: Tensor, norm: Norm, residual: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        y = super().normalize(x, norm, residual, mask)
        if residual is not None and residual.is_contiguous():
            residual.detach().copy_(self._z(x, norm, residual))
        return y


class ResidualGradientIsAlias(Fault):
    """Without activation the gradient of the residual is dy, and dy itself is handed back."""

    harm = "numbers right until somebody adds to one of the two gradients in place"

    def _dresidual(self, dy: Tensor, dz: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        plain = mask is None and torch.equal(widen(dy), dz)
        return dy if plain else super()._dresidual(dy, dz, x, mask)


BLIND_FAULTS: tuple[type[ExactProvider], ...] = tuple(Fault.__subclasses__())
