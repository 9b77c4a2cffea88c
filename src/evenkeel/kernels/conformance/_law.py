"""What the law says of one case, and how far from it a provider may be.

The bounds are those of ``docs/numerics.md``, with the unit roundoff u of the accumulation dtype
(2^-24, or 2^-53 for float64) and k = 16. They depend on the inputs of the case only, never on
what any implementation was seen to reach.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from evenkeel import reference
from evenkeel.kernels._contract import Norm
from evenkeel.kernels._providers._reference import (
    arguments_in,
    bools,
    exact,
    moments_out,
    origin_of,
    shifted,
)
from evenkeel.spec import IDENTITY

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from evenkeel.kernels.conformance._cases import Case, Inputs

K: Final = 16.0
#: Activations with a kink: the derivative jumps where z is within the bound of one of these.
KINKS: Final = {
    "relu": (0.0,),
    "leaky_relu": (0.0,),
    "relu6": (0.0, 6.0),
    "hardswish": (-3.0, 3.0),
    "elu": (0.0,),  # none where alpha is 1
}
#: Curved activations: their derivative changes by at most this times the change of z.
CURVATURE: Final = {"silu": 0.5, "gelu": 1.0, "hardswish": 1 / 3, "elu": 1.0}


@dataclass(frozen=True)
class Law:
    """Results and bounds of one case, as NumPy arrays."""

    inputs: Inputs

    @cached_property
    def x(self) -> NDArray[Any]:
        """Input relative to :attr:`origin`, in float64, or longdouble for a float64 case."""
        return shifted(exact(self.inputs.x), self.origin)

    @cached_property
    def origin(self) -> NDArray[Any]:
        """What x and every mean are measured from; the formulas do not depend on it."""
        return origin_of(exact(self.inputs.x), self.inputs.mask)

    @cached_property
    def mask(self) -> NDArray[np.bool_] | None:
        """Mask as array."""
        return bools(self.inputs.mask)

    @cached_property
    def acc(self) -> torch.dtype:
        """Accumulation dtype."""
        return torch.float64 if self.inputs.x.dtype == torch.float64 else torch.float32

    @cached_property
    def u(self) -> float:
        """Unit roundoff of the accumulation dtype."""
        return torch.finfo(self.acc).eps / 2

    @cached_property
    def moments(self) -> reference.Moments:
        """Eq. (1) and (2)."""
        return reference.moments(self.x, self.mask)

    @cached_property
    def dy(self) -> NDArray[Any]:
        """Upstream gradient, 0 where z is so near a kink that the derivative is undecided."""
        return exact(self.dy_tensor)

    @cached_property
    def dy_tensor(self) -> Tensor:
        """The same as the provider gets it."""
        i = self.inputs
        exact_z = i.weight is not None and not i.weight.any()  # judges the kink's own convention
        kinks = () if exact_z else KINKS.get(i.activation.name, ())
        dy = i.dy
        for kink in kinks:
            near = np.abs(self._z - kink) <= 4 * K * self.u * self._z_scale[None, :, None]
            dy = dy.masked_fill(torch.from_numpy(near), 0.0)
        return dy

    @cached_property
    def inv_std(self) -> NDArray[Any]:
        """Eq. (3)."""
        return 1 / np.sqrt(self.moments.var + self.inputs.eps)

    @cached_property
    def gamma(self) -> NDArray[Any]:
        """Weight, or ones."""
        weight = self.inputs.weight
        return np.ones_like(self.moments.var) if weight is None else exact(weight)

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """Everything but x and dy, as :mod:`evenkeel.reference` takes it."""
        return {
            **arguments_in(self.norm, self.inputs.residual, self.inputs.mask),
            "mean": self.moments.mean,  # not rounded to the contract's pair
            "var": self.moments.var,
        }

    @cached_property
    def norm(self) -> Norm:
        """The true mean and variance, rounded as the contract carries them."""
        i = self.inputs
        pair = moments_out(self.moments, self.origin, i.x)
        return Norm(*pair[1:], i.weight, i.bias, i.eps, i.activation)

    @cached_property
    def y(self) -> NDArray[Any]:
        """Output, eq. (5)."""
        return reference.normalize(self.x, **self.arguments)

    @cached_property
    def sums(self) -> reference.Sums:
        """Eq. (9)."""
        return reference.backward_reduce(self.dy, self.x, **self.arguments)

    @cached_property
    def training_gradients(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Eq. (10), and the gradient of the residual."""
        count = self.moments.count
        return reference.backward_input(
            self.dy, self.x, sums=self.sums, count=count, **self.arguments
        )

    @cached_property
    def inference_gradients(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Eq. (11), and the gradient of the residual."""
        return reference.backward_input(self.dy, self.x, **self.arguments)

    # The sizes on which the bounds rest; each per channel unless said otherwise.

    @cached_property
    def _xhat(self) -> NDArray[Any]:
        xhat = reference.standardize(self.x, self.moments.mean, self.moments.var, self.inputs.eps)
        return self._kept(xhat)

    @cached_property
    def _z(self) -> NDArray[Any]:
        arguments: dict[str, Any] = {**self.arguments, "activation": IDENTITY}
        return reference.normalize(self.x, **arguments)

    @cached_property
    def _z_scale(self) -> NDArray[Any]:
        bias, residual = self.inputs.bias, self.inputs.residual
        scale = np.abs(self.gamma) * self._xhat_error / self.u / K
        if bias is not None:
            scale = scale + np.abs(exact(bias))
        return scale if residual is None else scale + _largest(self._kept(exact(residual)))

    @cached_property
    def _xhat_error(self) -> NDArray[Any]:
        """K u max|xhat|, and what the pair (mean, mean_lo) cannot hold of the mean."""
        return K * self.u * _largest(self._xhat) + self._pair_error * self.inv_std

    @cached_property
    def _pair_error(self) -> NDArray[Any]:
        return 4 * self.u**2 * np.abs(self.origin)

    @cached_property
    def _dz_factor(self) -> NDArray[Any]:
        """How much larger than u|dy| the error of dz may be, from the error of z."""
        curvature = CURVATURE.get(self.inputs.activation.name)
        if curvature is None:
            return np.ones_like(self.moments.var)
        return 1 + curvature * self._z_scale

    def _kept(self, value: NDArray[Any]) -> NDArray[Any]:
        return value if self.mask is None else np.where(self.mask[:, None, :], value, 0.0)

    # The bounds.

    @cached_property
    def mean_bound(self) -> NDArray[Any]:
        """Of mean + mean_lo."""
        return K * self.u * np.sqrt(self.moments.var) + self._pair_error

    @cached_property
    def var_bound(self) -> NDArray[Any]:
        """Of the biased variance: relative to the variance itself."""
        return K * self.u * self.moments.var

    @cached_property
    def y_bound(self) -> NDArray[Any]:
        """Of the output, (N, C, S): accumulation error, and the rounding of the output."""
        scale = K * self.u * self._z_scale[None, :, None]
        return scale + self._rounding(self.y)

    @cached_property
    def dz_sum_bound(self) -> NDArray[Any]:
        """Of d beta: k u sum|dy|."""
        return K * self.u * _total(np.abs(self._kept(self.dy))) * self._dz_factor

    @cached_property
    def dz_xhat_sum_bound(self) -> NDArray[Any]:
        """Of d gamma: k u sum|dy xhat|, and the error of the pair."""
        dy = np.abs(self._kept(self.dy))
        terms = K * self.u * _total(dy * np.abs(self._xhat)) * self._dz_factor
        return terms + _total(dy) * self._pair_error * self.inv_std

    @cached_property
    def training_dx_bound(self) -> NDArray[Any]:
        """Of dx in training, (N, C, S), as promise 1 states it."""
        size = _largest(self._kept(self.dy))
        if self.moments.count:
            mean_dz, mean_dz_xhat = (np.abs(s) / self.moments.count for s in self.sums)
            size = size + mean_dz + _largest(self._xhat) * mean_dz_xhat
        return self._dx_bound(size) + self._rounding(self.training_gradients[0])

    @cached_property
    def inference_dx_bound(self) -> NDArray[Any]:
        """Of dx where mean and variance are constants, (N, C, S)."""
        size = _largest(self._kept(self.dy))
        return self._dx_bound(size) + self._rounding(self.inference_gradients[0])

    def _dx_bound(self, size: NDArray[Any]) -> NDArray[Any]:
        slope = np.abs(self.gamma) * self.inv_std
        return (K * self.u * slope * size * self._dz_factor)[None, :, None]

    @cached_property
    def dresidual_bound(self) -> NDArray[Any]:
        """Of the gradient of the residual, (N, C, S)."""
        size = K * self.u * np.abs(self._kept(self.dy)) * self._dz_factor[None, :, None]
        return size + self._rounding(self.training_gradients[1])

    def _rounding(self, value: NDArray[Any]) -> NDArray[Any]:
        """Half a unit in the last place of the output dtype, and its smallest number."""
        dtype = torch.finfo(self.inputs.x.dtype)
        return np.abs(value) * (dtype.eps / 2) + dtype.smallest_normal * dtype.eps


def _largest(value: NDArray[Any]) -> NDArray[Any]:
    return np.abs(value).max(axis=(0, 2), initial=0.0)


def _total(value: NDArray[Any]) -> NDArray[Any]:
    return value.sum(axis=(0, 2))


@lru_cache(maxsize=2048)
def law_of(case: Case) -> Law:
    """The law of a case, computed once however many providers are held against it."""
    return Law(case.build())
