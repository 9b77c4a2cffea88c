"""How numbers are written, in the page and in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from evenkeel.report._model import Cell, Format

#: What stands where there is no value.
MISSING: Final = "\N{EN DASH}"

_WRITERS: Final[dict[str, Callable[[float], str]]] = {
    "number": lambda value: f"{value:.4g}",
    "percent": lambda value: f"{value:.1%}",
    "rate": lambda value: f"{value:g}",
    "count": lambda value: f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}"),
}


def write_cell(value: Cell, form: Format) -> str:
    """Write one value: a dash for None, a string as it is, a number by its format.

    Example:
        >>> write_cell(0.9937, "percent")
        '99.4%'
    """
    if value is None:
        return MISSING
    writer = _WRITERS.get(form)
    if isinstance(value, str) or writer is None:
        return str(value)
    return writer(float(value))


def write_interval(low: float | None, high: float | None, form: Format) -> str:
    """Write ``low to high``, or a dash where one of them is unknown.

    Example:
        >>> write_interval(0.9, 0.95, "percent")
        '90.0% to 95.0%'
    """
    if low is None or high is None:
        return MISSING
    return f"{write_cell(low, form)} to {write_cell(high, form)}"
