"""Provider `reference`: the float64 law behind the tensors' door, slow and never automatic.

Float64 tensors are computed in `numpy.longdouble`, and everything relative to the rounded mean
of each channel (the formulas do not change when x and the mean move together): neither format
could hold a mean to 1e-15 standard deviations where mean/std is 1e6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from evenkeel import reference
from evenkeel.kernels._contract import FLOATS, Moments, Norm, Problem, Sums
from evenkeel.kernels._providers._composed import Composed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import NDArray
    from torch import Tensor


class ReferenceProvider(Composed):
    """The verbs of the contract, answered by :mod:`evenkeel.reference`."""

    name = "reference"

    def reasons_against(self, problem: Problem) -> list[str]:
        """It serves everything that can be copied to the CPU."""
        if problem.dtype not in FLOATS:
            return [f"dtype {problem.dtype} is none of {', '.join(FLOATS)}"]
        return ["a meta tensor has no values"] if problem.device == "meta" else []

    def moments(self, x: Tensor, mask: Tensor | None = None) -> Moments:
        """Eq. (1) and (2)."""
        values = exact(x)
        origin = origin_of(values, mask)
        return moments_out(reference.moments(shifted(values, origin), bools(mask)), origin, x)

    def merge(self, parts: Sequence[Moments]) -> Moments:
        """Eq. (4)."""
        origin = exact(parts[0].mean)
        merged = reference.merge([moments_in(p, origin) for p in parts])
        return moments_out(merged, origin, parts[0].mean)

    def normalize(
        self, x: Tensor, norm: Norm, residual: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Eq. (3) and (5)."""
        values = shifted(exact(x), exact(norm.mean))
        return _like(reference.normalize(values, **arguments_in(norm, residual, mask)), x)

    def backward_reduce(
        self,
        dy: Tensor,
        x: Tensor,
        norm: Norm,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Sums:
        """Eq. (9)."""
        values = shifted(exact(x), exact(norm.mean))
        arguments = arguments_in(norm, residual, mask)
        sums = reference.backward_reduce(exact(dy), values, **arguments)
        return sums_out(sums, norm.mean)

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
        """Eq. (10) and (11)."""
        dx, dresidual = reference.backward_input(
            exact(dy),
            shifted(exact(x), exact(norm.mean)),
            sums=None if sums is None else reference.Sums(*(exact(s) for s in sums)),
            count=int(count),
            **arguments_in(norm, residual, mask),
        )
        return _like(dx, x), None if residual is None else _like(dresidual, x)


def exact(tensor: Tensor) -> NDArray[Any]:
    """Tensor as float64 array, a float64 tensor as longdouble."""
    array = tensor.detach().cpu().double().resolve_neg().numpy()
    return array.astype(np.longdouble) if tensor.dtype == torch.float64 else array


def bools(mask: Tensor | None) -> NDArray[np.bool_] | None:
    """Mask as array."""
    return None if mask is None else mask.detach().cpu().numpy()


def origin_of(x: NDArray[Any], mask: Tensor | None) -> NDArray[Any]:
    """The mean of each channel rounded to float64, 0 where it is not finite."""
    mean = reference.moments(x, bools(mask)).mean.astype(np.float64)
    return np.where(np.isfinite(mean), mean, 0.0).astype(x.dtype)


def shifted(x: NDArray[Any], origin: NDArray[Any]) -> NDArray[Any]:
    """The input relative to ``origin``."""
    return x - origin[None, :, None]


def moments_in(moments: Moments, origin: NDArray[Any]) -> reference.Moments:
    """Moments of the contract as moments of the law, the mean relative to ``origin``."""
    offset = (exact(moments.mean) - origin) + exact(moments.mean_lo)
    return reference.Moments(int(moments.count), offset, exact(moments.var))


def moments_out(moments: reference.Moments, origin: NDArray[Any], like: Tensor) -> Moments:
    """Moments of the law, with the mean relative to ``origin``, in the contract's form."""
    acc = torch.float64 if like.dtype == torch.float64 else torch.float32
    mean = _tensor(origin + moments.mean, acc, like)
    rest = (origin - exact(mean)) + moments.mean
    return Moments(moments.count, mean, _tensor(rest, acc, like), _tensor(moments.var, acc, like))


def sums_out(sums: reference.Sums, like: Tensor) -> Sums:
    """Sums of the law in the contract's form."""
    return Sums(*(_tensor(s, like.dtype, like) for s in sums))


def arguments_in(norm: Norm, residual: Tensor | None, mask: Tensor | None) -> dict[str, Any]:
    """Everything but x and dy as the law takes it, the mean relative to ``norm.mean``."""
    return {
        "mean": exact(norm.mean_lo),
        "var": exact(norm.var),
        "weight": None if norm.weight is None else exact(norm.weight),
        "bias": None if norm.bias is None else exact(norm.bias),
        "eps": norm.eps,
        "residual": None if residual is None else exact(residual),
        "activation": norm.activation,
        "mask": bools(mask),
    }


def _tensor(array: NDArray[Any], dtype: torch.dtype, like: Tensor) -> Tensor:
    values = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64))
    return values.to(dtype).to(like.device)


def _like(array: NDArray[Any], x: Tensor) -> Tensor:
    return torch.empty_like(x).copy_(_tensor(array, torch.float64, x))
