"""From a figure as data to what plotly.js draws.

Colours are left to the page: a trace carries its palette index in ``meta`` and the script
paints it from the style sheet, so that one figure is legible in dark, light and print.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

import plotly.graph_objects as go

if TYPE_CHECKING:
    from evenkeel.report._model import Axis, Figure, Panel, Series

_MARKERS: Final = ("circle", "square", "diamond", "triangle-up", "cross", "x")
_HOVER: Final = {"percent": ".1%", "rate": "~g", "count": ",.0f", "number": ".4g", "text": ""}
_WIDTHS: Final = {"solid": 2.5, "dash": 2.5, "dot": 1.5}
#: Empty space left and right of the data on a logarithmic axis, in decades.
_LOG_MARGIN: Final = 0.12


def plot_json(figure: Figure, panel: Panel) -> dict[str, Any]:
    """Return ``{"data": [...], "layout": {...}}`` of one panel, checked by plotly."""
    plot = go.Figure()
    for series in panel.series:
        for trace in _traces(series, figure):
            plot.add_trace(trace)
    plot.update_layout(
        template="none",
        xaxis=_axis(figure.x, [x for series in panel.series for x in series.x]),
        yaxis=_axis(figure.y, _heights(figure)),
        hovermode="x unified",
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "xanchor": "left"},
        margin={"l": 58, "r": 10, "t": 8, "b": 48},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        dragmode=False,
    )
    return json.loads(str(plot.to_json()))


def _traces(series: Series, figure: Figure) -> list[go.Scatter]:
    """Return the band (if there is one) below the line."""
    line = go.Scatter(
        x=list(series.x),
        y=list(series.y),
        name=series.name,
        legendgroup=series.name,
        showlegend=not series.faint,
        mode="lines+markers" if series.markers else "lines",
        line={"dash": series.dash, "width": 1 if series.faint else _WIDTHS[series.dash]},
        marker={"size": 7, "symbol": _MARKERS[series.color % len(_MARKERS)]},
        opacity=0.55 if series.faint else 1,
        meta={"color": series.color, "role": "line"},
        hovertemplate=f"%{{y:{_HOVER[figure.y.format]}}}",
        hoverinfo="skip" if series.faint else None,
    )
    if series.faint:
        line.hovertemplate = None
    return [line] if not series.low else [*_band(series), line]


def _band(series: Series) -> list[go.Scatter]:
    """Return two edges without a stroke, the space between them filled."""
    shared: dict[str, Any] = {
        "mode": "lines",
        "line": {"width": 0},
        "legendgroup": series.name,
        "showlegend": False,
        "hoverinfo": "skip",
    }
    points = zip(series.x, series.low, series.high, strict=True)
    # plotly fills across a gap in one edge only, so a gap is cut out of both.
    known = [(x, low, high) for x, low, high in points if low is not None and high is not None]
    x, low, high = ([list(values) for values in zip(*known, strict=True)]) or ([], [], [])
    return [
        go.Scatter(x=x, y=low, meta={"color": series.color, "role": "edge"}, **shared),
        go.Scatter(
            x=x, y=high, fill="tonexty", meta={"color": series.color, "role": "band"}, **shared
        ),
    ]


def _axis(axis: Axis, values: list[float]) -> dict[str, Any]:
    """Return the layout of one axis, its range taken from ``values``."""
    drawn: dict[str, Any] = {
        "title": {"text": axis.title, "standoff": 8},
        "type": axis.scale,
        "automargin": True,
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 4,
    }
    if axis.format == "percent":
        drawn |= {"tickformat": ".0%"}
    if axis.scale == "log":
        drawn["tickangle"] = 0
    span = axis.limits or _span(values, axis)
    if span is not None and axis.scale == "log":
        low, high = (math.log10(value) for value in span)
        powers = range(math.ceil(low), math.floor(high) + 1)
        drawn |= {"range": [low, high], "tickvals": [10.0**power for power in powers]}
        drawn["ticktext"] = [_power_of_ten(power) for power in powers]
    elif span is not None:
        drawn["range"] = list(span)
    return drawn


def _power_of_ten(power: int) -> str:
    """Write 0.001 in full and 1e-5 short: six of them have to fit on a phone."""
    return f"{10.0**power:g}" if power >= -3 else f"1e{power}"


def _span(values: list[float], axis: Axis) -> tuple[float, float] | None:
    """Return the common range of all values with a little space at the ends."""
    usable = [v for v in values if axis.scale == "linear" or v > 0]
    if not usable:
        return None
    low, high = min(usable), max(usable)
    if axis.scale == "log":
        return low / 10**_LOG_MARGIN, high * 10**_LOG_MARGIN
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin


def _heights(figure: Figure) -> list[float]:
    """Return all values of all panels, so that the panels share one range of heights."""
    series = [series for panel in figure.panels for series in panel.series]
    columns = [column for s in series for column in (s.y, s.low, s.high)]
    return [value for column in columns for value in column if value is not None]
