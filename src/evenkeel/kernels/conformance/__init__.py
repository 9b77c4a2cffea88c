"""Hold a batch norm against the law: every verb, layout, rank, dtype and hard input.

:func:`check` judges a kernel provider (the eight verbs of the contract); :func:`check_function`
judges any differentiable ``f(x, weight, bias, eps) -> y`` in training mode, such as another
framework's batch norm. Both use the bounds of ``docs/numerics.md``.

Example:
    >>> import evenkeel as ek
    >>> from evenkeel.kernels import conformance
    >>> report = conformance.check(ek.kernels.load("aten"), conformance.cases(("float32",)))
    >>> report.passed
    True
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from evenkeel.kernels.conformance._cases import DTYPES, Case, Inputs, cases
from evenkeel.kernels.conformance._check import Failure, check_case
from evenkeel.kernels.conformance._function import check_function
from evenkeel.kernels.conformance._law import Law

if TYPE_CHECKING:
    from collections.abc import Iterable

    from evenkeel.kernels._contract import Provider

__all__ = [
    "DTYPES",
    "Case",
    "Failure",
    "Inputs",
    "Law",
    "Report",
    "cases",
    "check",
    "check_case",
    "check_function",
]


@dataclass(frozen=True, slots=True)
class Report:
    """Outcome of the suite: how many cases ran, and every failure."""

    provider: str
    cases: int
    failures: tuple[Failure, ...]

    @property
    def passed(self) -> bool:
        """Whether cases ran and none failed."""
        return self.cases > 0 and not self.failures

    def __str__(self) -> str:
        failed = len({failure.case for failure in self.failures})
        head = f"{self.provider}: {self.cases - failed} of {self.cases} cases within the bounds"
        return "\n".join([head, *(f"  {failure}" for failure in self.failures[:20])])


def check(provider: Provider, over: Iterable[Case] | None = None) -> Report:
    """Run the whole suite, or the given cases, on one provider.

    Args:
        provider: an implementation of :class:`evenkeel.kernels.Provider`.
        over: cases to run; all cases in all dtypes by default.
    """
    chosen = list(cases() if over is None else over)
    failures = [failure for case in chosen for failure in check_case(provider, case)]
    return Report(provider.name, len(chosen), tuple(failures))
