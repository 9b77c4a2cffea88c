"""Provider `cpu`: the C++ extension ``evenkeel._cpu`` behind the kernel contract.

The extension reads tensors where they lie and makes the results. What it cannot read it names;
:func:`_call` then copies what a copy can help, and :func:`_refusal` explains the rest.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, cast

# torch comes before the extension: the extension then finds torch's OpenMP runtime by its soname
# instead of loading a second one, whose threads would compete with torch's.
import torch
from torch.autograd.graph import increment_version

from evenkeel.errors import DTypeError, ProviderError, ShapeError, explain
from evenkeel.kernels._contract import FLOATS, Moments, Norm, Problem, Sums
from evenkeel.kernels._providers._composed import update_running
from evenkeel.kernels._view import canonical
from evenkeel.spec import ACTIVATIONS, IDENTITY, Activation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from evenkeel import _cpu as _extension

_missing = ""
if not TYPE_CHECKING:  # what follows knows the extension by its stub
    try:
        from evenkeel import _cpu as _extension

        # Torch offers it since 2.10; without it the extension asks each tensor for attributes.
        _extension.use_exchange(getattr(torch.Tensor, "__dlpack_c_exchange_api__", None))
    except ImportError as error:
        _missing = str(error)

ISA_VARIABLE: Final = "EVENKEEL_ISA"

_ACTIVATIONS: Final = {name: code for code, name in enumerate(ACTIVATIONS)}
#: The same for a backward pass from their output.
_UNDONE: Final = {"identity": _ACTIVATIONS["identity"], "leaky_relu": len(ACTIVATIONS)}
#: What the extension's verbs take, in order; then whether copies were made, and the threads.
_ENDING: Final = ("activation", "parameter", "residual", "mask")
_AS_IT_IS, _COPIED = False, True
_ARGUMENTS: Final = {
    "moments": ("x", "mask"),
    "normalize": ("x", "norm", *_ENDING),
    "backward_reduce": ("dy", "x", "norm", *_ENDING),
    "backward_input": ("dy", "x", "norm", *_ENDING, "dz", "dz_xhat", "count"),
    "forward": ("x", "weight", "bias", "eps", *_ENDING, "out"),
    "backward": ("dy", "x", "norm", *_ENDING, "count"),
}


class CpuProvider:
    """The eight verbs of the contract in C++, on as many threads as torch uses.

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
        if problem.dtype not in FLOATS:
            reasons.append(f"dtype {problem.dtype} is none of {', '.join(FLOATS)}")
        return reasons

    def moments(self, x: Tensor, mask: Tensor | None = None) -> Moments:
        """Mean and variance in float64, blocks merged in a fixed order, eq. (1), (2) and (4)."""
        return Moments(_count(x, mask), *_call("moments", x, mask))

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
        return _call("normalize", x, norm, *_how(norm.activation), residual, mask)[0]

    def backward_reduce(
        self,
        dy: Tensor,
        x: Tensor,
        norm: Norm,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Sums:
        """Sums of dz and dz xhat, eq. (9): a few terms in float32, the rest in float64."""
        others = *_how(norm.activation), residual, mask
        return Sums(*_call("backward_reduce", dy, x, norm, *others))

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
        others = *_how(norm.activation), residual, mask
        given = (None, None) if sums is None else sums
        dx, dresidual = _call("backward_input", dy, x, norm, *others, *given, int(count))
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
        how = _ACTIVATIONS[activation.name], activation.parameter
        given = x, weight, bias, eps, *how, residual, mask, out
        try:  # written out for small tensors, where another call counts
            found: Any = _extension.forward(*given, _AS_IT_IS, torch.get_num_threads())
        except ValueError:
            found = _call_with_copies("forward", given)
        y, mean, mean_lo, var = found
        return y, Moments(_count(x, mask), mean, mean_lo, var)

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
        codes = _UNDONE if undo else _ACTIVATIONS
        how = codes[norm.activation.name], norm.activation.parameter
        given = dy, x, norm, *how, residual, mask, None if mask is None else _count(x, mask)
        try:
            found: Any = _extension.backward(*given, _AS_IT_IS, torch.get_num_threads())
        except ValueError:
            found = _call_with_copies("backward", given)
        dx, dresidual, dz, dz_xhat = found
        return dx, Sums(dz, dz_xhat), dresidual

    def train(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        activation: Activation,
        residual: Tensor | None,
        running: tuple[Tensor, Tensor, Tensor | None] | None,
        rule: tuple[bool, float | None, bool],
    ) -> tuple[Tensor, Tensor, bool] | None:
        """`forward` and `update_running` in one call, for small tensors of float32.

        ``running`` is mean, variance and number of batches, or None to change none; ``rule`` says
        whether the variance is stored biased, the momentum, and whether a batch enters only if it
        is finite.

        Returns:
            y; mean, mean_lo and var one after the other, which `backward` takes as the mean of a
            :class:`Norm` whose mean_lo and var are None; and whether the batch has entered. None
            where the extension does not read some argument, and then nothing has changed.
        """
        how = _ACTIVATIONS[activation.name], activation.parameter
        mean, var, batches = running or (None, None, None)
        given = x, weight, bias, eps, *how, residual, mean, var, batches, *rule
        try:
            found: Any = _extension.train(*given, torch.get_num_threads())
        except ValueError:
            return None
        if mean is not None and var is not None and found[2]:
            _mark_written(mean, var, batches)
        return found

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
        """Eq. (6) or (8) in float64, each number rounded once."""
        old = running_mean, running_var, batches
        new = moments.mean, moments.var
        try:
            entered = _extension.enter(*old, *new, correction, momentum, only_finite)
        except ValueError:  # 16-bit statistics, which torch's own layers may have
            return update_running(*old, moments, momentum, correction, only_finite=only_finite)
        if entered:
            _mark_written(*old)
        return entered


def _call(verb: str, *arguments: object) -> tuple[Any, ...]:
    """Run a verb of the extension on as many threads as torch uses."""
    try:
        return getattr(_extension, verb)(*arguments, _AS_IT_IS, torch.get_num_threads())
    except ValueError:
        return _call_with_copies(verb, arguments)


def _call_with_copies(verb: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same, where values or strides are not as the extension reads them."""
    named = dict(zip(_ARGUMENTS[verb], arguments, strict=True))
    named["x"] = x = _dense(named["x"])
    for name in named.keys() & {"dy", "residual"}:
        named[name] = _like(named[name], x)
    for name in named.keys() & {"weight", "bias", "dz", "dz_xhat"}:
        named[name] = _values(named[name])
    if "norm" in named:
        tensors = {key: _values(getattr(named["norm"], key)) for key in Norm._fields[:5]}
        named["norm"] = named["norm"]._replace(**tensors)
    if named["mask"] is not None:
        named["mask"] = named["mask"].reshape(named["mask"].shape[0], -1)
    try:
        return getattr(_extension, verb)(*named.values(), _COPIED, torch.get_num_threads())
    except ValueError as error:
        named.update(zip(Norm._fields, named.get("norm", ()), strict=False))
        if str(error) not in named:  # torch's own, not the name of an argument
            raise
        raise _refusal(str(error), named[str(error)], x) from None


def _refusal(name: str, value: Tensor, x: Tensor) -> Exception:
    """Why the extension does not take an argument, by its name."""
    do = f"pass {name} of the shape, dtype and device of x"
    why = f"{name} belongs to x element by element"
    if name == "x":
        why = f"the kernels take (N, C, *S) on the CPU, of {', '.join(FLOATS)}"
        do = "convert x, or choose another provider"
    elif name == "mask":
        why = "a mask has one bool per (N, S) position, True = keep"
        do = "pass a bool tensor of shape (N, S) on the CPU"
    elif name not in ("dy", "residual", "out"):
        why = "there is one floating-point number per channel"
        do = f"pass {name} of shape (C,) on the CPU"
    served = str(x.dtype).removeprefix("torch.") in FLOATS
    error = DTypeError if name == "x" and not served else ShapeError
    return error(
        explain(
            asked=f"a batch-norm kernel on the CPU, for x of shape {tuple(x.shape)} and {x.dtype}",
            got=f"{name} of {value.dtype} and shape {tuple(value.shape)} on {value.device}",
            why=why,
            do=do,
        )
    )


def _mark_written(mean: Tensor, var: Tensor, batches: Tensor | None) -> None:
    """Autograd must know, should it have saved them."""
    increment_version((mean, var) if batches is None else (mean, var, batches))


def _how(activation: Activation) -> tuple[int, float]:
    return _ACTIVATIONS[activation.name], activation.parameter


def _values(x: Tensor | None) -> Tensor | None:
    """The values as they lie in memory: addresses know of no lazy negation and no lazy zeros."""
    if x is None:
        return None
    lazy = x.is_neg() or x._is_zerotensor()  # noqa: SLF001 - it has no public question
    return x.clone() if lazy else x


def _dense(x: Tensor) -> Tensor:
    """``x`` with its values in memory and one stride for all of S."""
    x = cast("Tensor", _values(x))
    return canonical(x).view(x.shape) if x.is_cpu and x.dim() > 2 else x


def _like(value: Tensor | None, x: Tensor) -> Tensor | None:
    """``value`` in the memory layout of x, so that all inner loops run over adjacent elements."""
    if value is None or value.shape != x.shape or value.dtype != x.dtype or not value.is_cpu:
        return value  # if it is there, to be refused
    value, dense = cast("Tensor", _values(value)), torch.empty_like(x)
    as_is = value.stride() in (x.stride(), dense.stride())
    return value if as_is else dense.copy_(value)


def _count(x: Tensor, mask: Tensor | None) -> int:
    if mask is not None:
        return int(mask.sum())
    shape = x.shape
    return shape[0] * shape[2:].numel()


def _distance(part: Moments, origin: Moments) -> Tensor:
    """Mean of ``part`` minus that of ``origin``, in float64, high and low parts apart."""
    high = part.mean.double() - origin.mean.double()
    return high + (part.mean_lo.double() - origin.mean_lo.double())


def _shifted_mean(origin: Moments, shift: Tensor) -> tuple[Tensor, Tensor]:
    """``origin.mean + shift`` as the nearest number of the accumulation dtype, and the rest."""
    high, low = origin.mean.double(), origin.mean_lo.double() + shift
    mean = (high + low).to(origin.mean.dtype)
    return mean, ((high - mean.double()) + low).to(mean.dtype)
