"""Which provider serves, and why.

Choice is a pure function of the problem and the request. An explicit request
(``EVENKEEL_KERNELS`` or :func:`use`) never falls back; automatic choice takes the first
provider of :data:`AUTOMATIC` that has nothing against the problem.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import textwrap
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final, cast

from evenkeel.errors import InputError, ProviderError
from evenkeel.errors import explain as explain_error
from evenkeel.kernels._contract import FLOATS, Problem

if TYPE_CHECKING:
    from types import TracebackType

    from torch import Tensor

    from evenkeel.kernels._contract import Provider

#: Order of automatic choice.
AUTOMATIC: Final = ("cpu", "aten")
#: All names, in the order in which they are explained.
NAMES: Final = (*AUTOMATIC, "reference")
ENVIRONMENT: Final = "EVENKEEL_KERNELS"

_CLASSES: Final = {"cpu": "CpuProvider", "aten": "AtenProvider", "reference": "ReferenceProvider"}

_requested: str | None = os.environ.get(ENVIRONMENT) or None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One provider beside the problem: chosen or not, and what speaks against it."""

    name: str
    chosen: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Every provider with its reasons; prints as a table, ``to_dict()`` gives the records."""

    problem: Problem
    requested: str | None
    rows: tuple[Candidate, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same records as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        shape = "x".join(map(str, self.problem.shape)) or "any shape"
        asked = f"requested: {self.requested}" if self.requested else "automatic choice"
        lines = [f"{self.problem.device} {self.problem.dtype} {shape}, {asked}"]
        for row in self.rows:
            default = "can serve" if row.name in AUTOMATIC else "can serve, only when asked for"
            reason = "; ".join(row.reasons) or ("serves" if row.chosen else default)
            head = f"  {'->' if row.chosen else '  '} {row.name:<10} "
            lines += textwrap.wrap(reason, 79, initial_indent=head, subsequent_indent=" " * 16)
        return "\n".join(lines)


class use:  # noqa: N801 - reads as a verb: `with kernels.use("aten"):`
    """Request one provider by name, for good or for the length of a ``with`` block.

    The request holds for the whole process. ``use(None)`` returns to automatic choice. In eager
    mode a backward pass runs on the provider that ran its forward pass.

    Raises:
        ProviderError: the name is unknown, or the provider cannot be loaded.

    Example:
        >>> from evenkeel import kernels
        >>> with kernels.use("reference"):
        ...     pass  # layers called here compute in float64
    """

    def __init__(self, name: str | None) -> None:
        if name is not None:
            load(name)
        self._before = _requested
        _request(name)

    def __enter__(self) -> None:
        """The request was made by the call itself."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _request(self._before)


def providers() -> tuple[str, ...]:
    """Names of all providers, available here or not."""
    return NAMES


def load(name: str) -> Provider:
    """The provider called ``name``.

    Raises:
        ProviderError: no such provider, or what it needs is not installed.
    """
    _require_known(name)
    missing = _missing(name)
    if missing:
        raise _refusal(name, missing)
    return _instance(name)


def choose(problem: Problem, requested: str | None) -> Provider:
    """The provider for ``problem``; a pure function of its two arguments.

    Raises:
        ProviderError: the requested provider, or every automatic one, has reasons against it.
    """
    if requested is not None:
        provider = load(requested)
        reasons = provider.reasons_against(problem)
        if reasons:
            raise _refusal(requested, tuple(reasons), problem)
        return provider
    for name in AUTOMATIC:
        if not _reasons(name, problem):
            return _instance(name)
    every = tuple(f"{name}: {'; '.join(_reasons(name, problem))}" for name in AUTOMATIC)
    raise _refusal("automatic", every, problem)


def select(x: Tensor) -> Provider:
    """The provider for a tensor under the present request; remembered per device and dtype."""
    return _remembered(x.device.type, x.dtype, _requested)


def explain(
    x: Tensor | None = None,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    shape: tuple[int, ...] = (),
) -> Explanation:
    """Every provider with its reason for or against, for a tensor or a described problem.

    Args:
        x: a tensor ``(N, C, *S)``; its device, dtype and shape replace the other arguments.
        device: device type, such as ``"cpu"`` or ``"cuda"``.
        dtype: element type by torch's name, such as ``"float32"``.
        shape: shape of the input.

    Raises:
        ProviderError: a provider of an unknown name is requested.
        InputError: torch knows no such device type or element type.
    """
    if _requested is not None:
        _require_known(_requested)
    absent: tuple[str, ...] = ()
    if x is not None:
        problem = Problem(x.device.type, str(x.dtype).removeprefix("torch."), tuple(x.shape))
    else:
        problem = _described(device, dtype, shape)
        absent = _absent(problem.device)
    against = {name: (*absent, *_reasons(name, problem)) for name in NAMES}
    candidates = (_requested,) if _requested else AUTOMATIC
    chosen = next((n for n in candidates if not against[n]), None)
    rows = tuple(Candidate(n, n == chosen, tuple(r)) for n, r in against.items())
    return Explanation(problem, _requested, rows)


def _require_known(name: str) -> None:
    if name in _CLASSES:
        return
    raise ProviderError(
        explain_error(
            asked=f"kernel provider {name!r}",
            got=f"a name that is none of {', '.join(NAMES)}",
            why=f"{ENVIRONMENT} and kernels.use() never fall back to another provider",
            do="use one of these names, or unset the request for automatic choice",
        )
    )


def _described(device: str, dtype: str, shape: tuple[int, ...]) -> Problem:
    """The problem in torch's own names; as it was written where torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        return Problem(device, dtype, shape)
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        why, do = str(error).splitlines()[0], "name a device type that torch has, such as cpu, cuda"
        asked, got = f"device {device!r}", "a device that torch does not know"
        raise InputError(explain_error(asked=asked, got=got, why=why, do=do)) from error
    found = getattr(torch, dtype.removeprefix("torch."), None)
    if isinstance(found, torch.dtype):
        return Problem(kind, str(found).removeprefix("torch."), shape)
    raise InputError(
        explain_error(
            asked=f"element type {dtype!r}",
            got="a name that torch does not know",
            why=f"there is no torch.{dtype.removeprefix('torch.')} that is an element type",
            do=f"name one that batch normalization is defined for: {', '.join(FLOATS)}",
        )
    )


def _absent(device: str) -> tuple[str, ...]:
    """Why nothing can serve a described device: torch cannot put a tensor there."""
    if importlib.util.find_spec("torch") is None:
        return ()
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):  # builds without the device assert
        return (f"torch sees no {device} device here",)
    return ()


def _request(name: str | None) -> None:
    global _requested  # noqa: PLW0603 - one request per process, as documented
    _requested = name


@cache
def _remembered(device: str, dtype: object, requested: str | None) -> Provider:
    return choose(Problem(device, str(dtype).removeprefix("torch.")), requested)


@cache
def _missing(name: str) -> tuple[str, ...]:
    """What keeps the provider from being loaded at all."""
    if importlib.util.find_spec("torch") is None:
        return ('torch is not installed: pip install "evenkeel[torch]"',)
    if name == "cpu" and importlib.util.find_spec("evenkeel._cpu") is None:
        cure = "pip install --force-reinstall --no-deps evenkeel"
        return (f"the C++ extension was not built: install a C++20 compiler, then {cure}",)
    return ()


@cache
def _instance(name: str) -> Provider:
    module = importlib.import_module(f"evenkeel.kernels._providers._{name}")
    return cast("Provider", getattr(module, _CLASSES[name])())


def _reasons(name: str, problem: Problem) -> tuple[str, ...]:
    return _missing(name) or tuple(_instance(name).reasons_against(problem))


def _refusal(name: str, reasons: tuple[str, ...], problem: Problem | None = None) -> ProviderError:
    got = "a provider that cannot be loaded"
    if problem is not None:
        got = f"device {problem.device}, dtype {problem.dtype}, shape {problem.shape or 'any'}"
    return ProviderError(
        explain_error(
            asked=f"kernel provider {name!r}",
            got=got,
            why="; ".join(reasons),
            do="choose another provider, or unset the request for automatic choice; "
            "evenkeel.kernels.explain(x) lists them all",
        )
    )
