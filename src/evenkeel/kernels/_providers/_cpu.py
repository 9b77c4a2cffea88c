"""Provider `cpu`: the C++ extension ``evenkeel._cpu`` behind the kernel contract.

This file checks shapes, types and devices and hands over addresses; the extension checks
nothing. Tensors whose address is taken are held in a variable until the kernel has returned.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

# torch comes before the extension: the extension then finds torch's OpenMP runtime by its soname
# instead of loading a second one, whose threads would compete with torch's.
import torch

from evenkeel.errors import DTypeError, ProviderError, ShapeError, explain
from evenkeel.kernels._contract import Moments, Norm, Problem, Sums
from evenkeel.spec import ACTIVATIONS, IDENTITY, Activation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from evenkeel import _cpu as _extension

    _Ints = tuple[int, ...]
    _NormArgument = tuple[_Ints, _Ints, _Ints, _Ints | None, _Ints | None, float, int, float]

_missing = ""
if not TYPE_CHECKING:  # what follows knows the extension by its stub
    try:
        from evenkeel import _cpu as _extension
    except ImportError as error:
        _missing = str(error)

ISA_VARIABLE: Final = "EVENKEEL_ISA"

_TYPES: Final = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}
_SERVED: Final = tuple(str(dtype).removeprefix("torch.") for dtype in _TYPES)
_ACTIVATIONS: Final = {name: code for code, name in enumerate(ACTIVATIONS)}
#: The same for a backward pass from their output.
_UNDONE: Final = {"identity": _ACTIVATIONS["identity"], "leaky_relu": len(ACTIVATIONS)}


class CpuProvider:
    """The seven verbs of the contract in C++, on as many threads as torch uses.

    ``EVENKEEL_ISA`` replaces the instruction set that was chosen from the processor's features.
    Results do not depend on the number of threads. Results of 4 MiB and more ask for huge pages,
    where Linux gives them; ``EVENKEEL_HUGE_PAGES=0`` turns that off.

    Raises:
        ProviderError: ``EVENKEEL_ISA`` names an instruction set that this machine does not have.
    """

    name = "cpu"

    def __init__(self) -> None:
        requested = os.environ.get(ISA_VARIABLE)
        if requested and not _missing and not _extension.select(requested):
            raise ProviderError(
                explain(
                    asked=f"{ISA_VARIABLE}={requested}",
                    got=f"a machine and a build with {', '.join(_extension.isas())}",
                    why="an instruction set that was asked for is never replaced by another",
                    do=f"set {ISA_VARIABLE} to one of these, or unset it for the best one",
                )
            )

    def reasons_against(self, problem: Problem) -> list[str]:
        """Extension not built, device not the CPU, or an element type that it does not know."""
        reasons: list[str] = []
        if _missing:
            reasons.append(
                f"the C++ extension cannot be loaded ({_missing}): install a C++20 compiler, "
                "then pip install --force-reinstall --no-deps evenkeel"
            )
        if problem.device != "cpu":
            reasons.append(f"device {problem.device} is not cpu")
        if problem.dtype not in _SERVED:
            reasons.append(f"dtype {problem.dtype} is none of {', '.join(_SERVED)}")
        return reasons

    def moments(self, x: Tensor, mask: Tensor | None = None) -> Moments:
        """Mean and variance in float64, blocks merged in a fixed order, eq. (1), (2) and (4)."""
        code = _type(x)
        moments = _new_moments(x, mask)
        _extension.moments(
            code, x.shape, _view(x), _mask(mask, x), _addresses(*moments[1:]), _threads()
        )
        return moments

    def merge(self, parts: Sequence[Moments]) -> Moments:
        """Moments of the union, eq. (4), in float64, relative to the mean of the largest part."""
        counts = [int(part.count) for part in parts]
        total = sum(counts)
        present = [(part, n) for part, n in zip(parts, counts, strict=True) if n > 0]
        if len(present) <= 1:
            part = present[0][0] if present else parts[0]
            return Moments(total, *(t.clone() for t in part[1:]))
        origin = max(present, key=lambda pair: pair[1])[0]
        shares = torch.tensor([n / total for _, n in present], dtype=torch.float64)[:, None]
        shift = torch.stack([_distance(part, origin) for part, _ in present])
        var = torch.stack([part.var.double() for part, _ in present])
        mean_shift = (shares * shift).sum(0)
        merged = (shares * (var + (shift - mean_shift).square())).sum(0)
        return Moments(total, *_shifted_mean(origin, mean_shift), merged.to(origin.var.dtype))

    def normalize(
        self, x: Tensor, norm: Norm, residual: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Output of eq. (3) and (5), computed in float32, or in float64 for float64."""
        code = _type(x)
        y = torch.empty_like(x)
        residual = _maybe_like(residual, x, "residual")
        _extension.normalize(
            code,
            x.shape,
            _view(x),
            _view(y),
            _norm(norm, x),
            _maybe_view(residual),
            _mask(mask, x),
            _threads(),
        )
        return y

    def backward_reduce(
        self,
        dy: Tensor,
        x: Tensor,
        norm: Norm,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Sums:
        """Sums of dz and dz xhat, eq. (9): a few terms in float32, the rest in float64."""
        code = _type(x)
        sums = _new_sums(x)
        dy, residual = _like(dy, x, "dy"), _maybe_like(residual, x, "residual")
        _extension.backward_reduce(
            code,
            x.shape,
            _view(dy),
            _view(x),
            _norm(norm, x),
            _maybe_view(residual),
            _mask(mask, x),
            _addresses(*sums),
            _threads(),
        )
        return sums

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
        code = _type(x)
        dx = torch.empty_like(x)
        dresidual = None if residual is None else torch.empty_like(x)
        dy, residual = _like(dy, x, "dy"), _maybe_like(residual, x, "residual")
        _extension.backward_input(
            code,
            x.shape,
            _view(dy),
            _view(x),
            _norm(norm, x),
            None if sums is None else [_channels(s, x, "sums") for s in sums],
            int(count),
            _maybe_view(residual),
            _mask(mask, x),
            _view(dx),
            _maybe_view(dresidual),
            _threads(),
        )
        return dx, dresidual

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
        """`moments` and `normalize` with a channel's values in cache between the passes.

        Each pass reads an element before it writes that element, and a channel's moments are
        complete before its first output: y may take the memory of x.
        """
        code = _type(x)
        moments = _new_moments(x, mask)
        y = torch.empty_like(x) if out is None else out
        residual = _maybe_like(residual, x, "residual")
        norm = Norm(*moments[1:], weight, bias, eps, activation)
        _extension.forward(
            code,
            x.shape,
            _view(x),
            _view(y),
            _norm(norm, x),
            _maybe_view(residual),
            _mask(mask, x),
            _threads(),
        )
        return y, moments

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
        """`backward_reduce` and `backward_input`, with the values in cache between the passes."""
        code = _type(x)
        sums = _new_sums(x)
        dx = torch.empty_like(x)
        dresidual = None if residual is None else torch.empty_like(x)
        dy, residual = _like(dy, x, "dy"), _maybe_like(residual, x, "residual")
        _extension.backward(
            code,
            x.shape,
            _view(dy),
            _view(x),
            _norm(norm, x, _UNDONE if undo else _ACTIVATIONS),
            _count(x, mask),
            _maybe_view(residual),
            _mask(mask, x),
            _addresses(*sums),
            _view(dx),
            _maybe_view(dresidual),
            _threads(),
        )
        return dx, sums, dresidual


def _threads() -> int:
    return torch.get_num_threads()


def _type(x: Tensor) -> int:
    """Code of the element type; each verb asks it first, and refuses an impossible x here."""
    if x.dtype in _TYPES and x.is_cpu and x.dim() == 3 and not x.is_neg():
        return _TYPES[x.dtype]
    error = ShapeError if x.dtype in _TYPES else DTypeError
    raise error(
        explain(
            asked="a batch-norm kernel on the CPU",
            got=f"x of dtype {x.dtype} and shape {tuple(x.shape)} on {x.device}",
            why=f"the kernels take (N, C, S) on the CPU, of {', '.join(_SERVED)}",
            do="convert x (a lazy negation by x.resolve_neg()), or choose another provider",
        )
    )


def _view(x: Tensor) -> _Ints:
    return (x.data_ptr(), *x.stride())


def _maybe_view(x: Tensor | None) -> _Ints | None:
    return None if x is None else _view(x)


def _addresses(*tensors: Tensor) -> _Ints:
    return tuple(t.data_ptr() for t in tensors)


def _mask(mask: Tensor | None, x: Tensor) -> _Ints | None:
    if mask is None:
        return None
    if mask.dtype != torch.bool or mask.shape != (x.shape[0], x.shape[2]) or not mask.is_cpu:
        raise ShapeError(
            explain(
                asked="a mask for x",
                got=f"{mask.dtype} {tuple(mask.shape)} on {mask.device}, x {tuple(x.shape)}",
                why="a mask has one bool per (N, S) position, True = keep",
                do="pass a bool tensor of shape (N, S) on the CPU",
            )
        )
    return _view(mask)


def _channels(values: Tensor, x: Tensor, name: str) -> _Ints:
    """Address, type and stride of one number per channel."""
    known = values.dtype in _TYPES and values.is_cpu and not values.is_neg()
    if not known or values.shape != (x.shape[1],):
        raise ShapeError(
            explain(
                asked=f"{name} for x of shape {tuple(x.shape)}",
                got=f"{values.dtype} {tuple(values.shape)} on {values.device}",
                why="there is one floating-point number per channel",
                do=f"pass {name} of shape ({x.shape[1]},) on the CPU",
            )
        )
    return (values.data_ptr(), _TYPES[values.dtype], values.stride(0))


def _norm(norm: Norm, x: Tensor, codes: dict[str, int] = _ACTIVATIONS) -> _NormArgument:
    return (
        _channels(norm.mean, x, "mean"),
        _channels(norm.mean_lo, x, "mean_lo"),
        _channels(norm.var, x, "var"),
        None if norm.weight is None else _channels(norm.weight, x, "weight"),
        None if norm.bias is None else _channels(norm.bias, x, "bias"),
        norm.eps,
        codes[norm.activation.name],
        norm.activation.parameter,
    )


def _like(value: Tensor, x: Tensor, name: str) -> Tensor:
    """``value`` in the memory layout of x, so that all inner loops run over adjacent elements."""
    if _same_layout(value, x):
        return value
    if value.shape != x.shape or value.dtype != x.dtype or not value.is_cpu:
        raise ShapeError(
            explain(
                asked=f"{name} for x of shape {tuple(x.shape)} and {x.dtype}",
                got=f"{value.dtype} {tuple(value.shape)} on {value.device}",
                why=f"{name} belongs to x element by element",
                do=f"pass {name} of the shape, dtype and device of x",
            )
        )
    dense = torch.empty_like(x)
    as_is = value.stride() == dense.stride() and not value.is_neg()
    return value if as_is else dense.copy_(value)


def _maybe_like(value: Tensor | None, x: Tensor, name: str) -> Tensor | None:
    return None if value is None else _like(value, x, name)


def _same_layout(value: Tensor, x: Tensor) -> bool:
    same = value.shape == x.shape and value.stride() == x.stride()
    return same and value.dtype == x.dtype and value.is_cpu and not value.is_neg()


def _count(x: Tensor, mask: Tensor | None) -> int:
    return x.shape[0] * x.shape[2] if mask is None else int(mask.sum())


def _per_channel(x: Tensor) -> Tensor:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return torch.empty(x.shape[1], dtype=dtype)


def _new_moments(x: Tensor, mask: Tensor | None) -> Moments:
    return Moments(_count(x, mask), _per_channel(x), _per_channel(x), _per_channel(x))


def _new_sums(x: Tensor) -> Sums:
    return Sums(_per_channel(x), _per_channel(x))


def _distance(part: Moments, origin: Moments) -> Tensor:
    """Mean of ``part`` minus that of ``origin``, in float64, high and low parts apart."""
    high = part.mean.double() - origin.mean.double()
    return high + (part.mean_lo.double() - origin.mean_lo.double())


def _shifted_mean(origin: Moments, shift: Tensor) -> tuple[Tensor, Tensor]:
    """``origin.mean + shift`` as the nearest number of the accumulation dtype, and the rest."""
    high, low = origin.mean.double(), origin.mean_lo.double() + shift
    mean = (high + low).to(origin.mean.dtype)
    return mean, ((high - mean.double()) + low).to(mean.dtype)
