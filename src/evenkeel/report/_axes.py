"""Ranges and ticks of axes, chosen so that labels never collide, also on a phone.

Titles of axes are left to the page, which breaks lines where a plot would cut them off.
"""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evenkeel.report._model import Axis

#: d3's way to write what :mod:`evenkeel.report._text` writes elsewhere.
HOVER: Final = {"percent": ".1%", "rate": ".4~g", "count": ",.0f", "number": ".4~g", "text": ""}
#: Empty space at both ends of a logarithmic axis, in decades.
_LOG_MARGIN: Final = 0.12
#: More labels than these touch each other in the narrowest plot.
_MOST_TICKS: Final = 7
#: The same for upright names.
_MOST_LABELS: Final = 24


def axis_layout(axis: Axis, span: tuple[float, float] | None) -> dict[str, Any]:
    """Return plotly's layout of one axis that shows ``span``."""
    drawn: dict[str, Any] = {
        "type": axis.scale,
        "automargin": True,
        "zeroline": False,
        "showspikes": False,
        "ticks": "outside",
        "ticklen": 4,
        "tickangle": 0,
        "nticks": _MOST_TICKS,
        "hoverformat": HOVER[axis.format],
    }
    if axis.format == "percent":
        drawn["tickformat"] = ".0%" if span is None or span[1] - span[0] > 0.05 else ".1%"
    if span is not None:
        drawn["range"] = list(span)
    if axis.labels:
        drawn |= _name_ticks(axis.labels)
    elif span is not None and axis.scale == "log":
        drawn["range"] = [math.log10(value) for value in span]
        drawn |= _log_ticks(*drawn["range"])
    return drawn


def span_of(
    values: Sequence[float], axis: Axis, edges: Sequence[float] = ()
) -> tuple[float, float] | None:
    """Return the range that shows all values, with a little space at the ends.

    The edges of bands widen it, but at most to three times: an interval from two repetitions may
    be so wide that the lines in it would look flat.
    """
    if axis.limits is not None:
        return axis.limits
    to, back = (math.log10, _power) if axis.scale == "log" else (float, float)
    usable = [to(value) for value in values if axis.scale == "linear" or value > 0]
    if not usable:
        return None
    low, high = min(usable), max(usable)
    room = max(high - low, 1.0 if axis.scale == "log" else abs(high) / 2)
    heights = [to(edge) for edge in edges if axis.scale == "linear" or edge > 0]
    low = max(low - room, min([low, *heights]))
    high = min(high + room, max([high, *heights]))
    margin = _LOG_MARGIN if axis.scale == "log" else 0.04 * (high - low) or 0.5
    return back(low - margin), back(high + margin)


def _power(exponent: float) -> float:
    return 10.0**exponent


def _name_ticks(labels: tuple[str, ...]) -> dict[str, Any]:
    """Write names upright, every second or third of many."""
    shown = range(0, len(labels), math.ceil(len(labels) / _MOST_LABELS))
    return {
        "range": [-0.5, len(labels) - 0.5],
        "tickvals": list(shown),
        "ticktext": [html.escape(labels[at], quote=False) for at in shown],
        "tickangle": -90,
    }


def _log_ticks(low: float, high: float) -> dict[str, Any]:
    """Label powers of ten, every second or third of many; a short axis gets 1, 2, 5 as well."""
    powers = range(math.ceil(low), math.floor(high) + 1)
    if len(powers) < 3 or len(_ticks_at((1, 2, 5), low, high)) <= _MOST_TICKS:
        return _fine_ticks(low, high)
    step = math.ceil(len(powers) / _MOST_TICKS)
    labelled = [power for power in powers if power % step == 0]
    return {
        "tickvals": [10.0**power for power in labelled],
        "ticktext": [_write_tick(10.0**power) for power in labelled],
    }


def _fine_ticks(low: float, high: float) -> dict[str, Any]:
    for digits in ((1, 2, 5), range(1, 10), [x / 10 for x in range(10, 100)]):
        shown = _ticks_at(digits, low, high)
        if len(shown) >= 3:
            shown = shown[:: math.ceil(len(shown) / _MOST_TICKS)]
            return {"tickvals": shown, "ticktext": [_write_tick(tick) for tick in shown]}
    return {}


def _ticks_at(digits: Sequence[float], low: float, high: float) -> list[float]:
    powers = range(math.floor(low), math.floor(high) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in digits]
    return [tick for tick in ticks if low <= math.log10(tick) <= high]


def _write_tick(value: float) -> str:
    """Write 0.001 in full and 1e-5 short: six of them have to fit on a phone."""
    if 1e-3 <= value < 1e4:
        return f"{value:.4g}"
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"
