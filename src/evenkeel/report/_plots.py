"""From a figure as data to what plotly.js draws.

Colours are left to the page: a trace carries its palette index in ``meta`` and the script
paints it from the style sheet, so that one figure is legible in dark, light and print.
"""

from __future__ import annotations

import html
import json
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import plotly.graph_objects as go

from evenkeel.report._axes import HOVER, axis_layout, span_of
from evenkeel.report._legend import entries, look

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evenkeel.report._model import Figure, Panel, Series

#: Shapes of the palette's eight entries; the page's legend draws the same ones.
MARKERS: Final = (
    "circle",
    "square",
    "diamond",
    "triangle-up",
    "cross",
    "x",
    "triangle-down",
    "star",
)
_WIDTHS: Final = {"solid": 2.5, "dash": 2.5, "dot": 1.5}
#: A box with the values of more lines hides the plot.
_MOST_TOGETHER: Final = 4
_NAME_WIDTH: Final = 26

#: Position, lower and upper edge of a band.
_Edge: TypeAlias = tuple[float, float, float]
_Runs: TypeAlias = list[list[_Edge]]


def plot_json(figure: Figure, panel: Panel) -> dict[str, Any]:
    """Return ``{"data": [...], "layout": {...}}`` of one panel, checked by plotly."""
    lines, edges = _heights(figure)
    heights = span_of(lines, figure.y, edges)
    numbers = entries(figure)
    traces: list[go.Scatter] = []
    for series in panel.series:
        meta = {"color": series.color, "entry": numbers[look(series)]}
        runs = list(_runs(series))
        traces += [*_band(runs, meta), _line(series, figure, runs, meta)]
    layout = go.Layout(
        template="none",
        xaxis=axis_layout(
            figure.x, span_of([x for series in panel.series for x in series.x], figure.x)
        ),
        yaxis=axis_layout(figure.y, heights),
        hovermode="closest" if _lines(panel) > _MOST_TOGETHER else "x unified",
        showlegend=False,
        margin={"l": 40, "r": 12, "t": 8, "b": 26},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        dragmode=False,
    )
    return json.loads(str(go.Figure(traces, layout).to_json()))


def _line(series: Series, figure: Figure, runs: _Runs, meta: dict[str, int]) -> go.Scatter:
    """Return the line, with an error bar where a point stands alone and a band has no width."""
    line = go.Scatter(
        x=list(series.x),
        y=list(series.y),
        name=html.escape(_short(series.name), quote=False),
        mode="lines+markers" if series.markers else "lines",
        line={"dash": series.dash, "width": 1 if series.faint else _WIDTHS[series.dash]},
        marker={"size": 7, "symbol": MARKERS[series.color % len(MARKERS)]},
        opacity=0.55 if series.faint else 1,
        meta=meta | {"role": "line"},
        text=_places(series, figure),
        hovertemplate=None if series.faint else _hover(figure),
        hoverinfo="skip" if series.faint else None,
    )
    alone = {run[0][0]: run[0][1:] for run in runs if len(run) == 1}
    if alone:
        line.error_y = _error_bars(series, alone)
    return line


def _places(series: Series, figure: Figure) -> list[str] | None:
    names = figure.x.labels
    return [html.escape(names[round(x)], quote=False) for x in series.x] if names else None


def _hover(figure: Figure) -> str:
    """Return the value, and the name of its place where an axis of names may not show it."""
    return f"{'%{text}: ' if figure.x.labels else ''}%{{y:{HOVER[figure.y.format]}}}"


def _lines(panel: Panel) -> int:
    return sum(not series.faint for series in panel.series)


def _short(name: str) -> str:
    """Cut a name off where it would leave the plot: the legend has it in full."""
    return (
        name
        if len(name) <= _NAME_WIDTH
        else f"{name[: _NAME_WIDTH - 1].rstrip()}\N{HORIZONTAL ELLIPSIS}"
    )


def _error_bars(series: Series, alone: dict[float, tuple[float, float]]) -> dict[str, Any]:
    points = [(y, alone.get(x)) for x, y in zip(series.x, series.y, strict=True)]
    return {
        "type": "data",
        "symmetric": False,
        "array": [ends[1] - y if ends and y is not None else 0 for y, ends in points],
        "arrayminus": [y - ends[0] if ends and y is not None else 0 for y, ends in points],
        "thickness": 1.5,
        "width": 4,
    }


def _band(runs: _Runs, meta: dict[str, int]) -> list[go.Scatter]:
    """Return one filled outline for each run of the band; a gap stays empty."""
    wide = [run for run in runs if len(run) > 1]
    if not wide:
        return []
    x: list[float | None] = []
    y: list[float | None] = []
    for run in wide:
        around = [(at, high) for at, _, high in run] + [(at, low) for at, low, _ in reversed(run)]
        x += [None] * bool(x) + [at for at, _ in around]
        y += [None] * bool(y) + [height for _, height in around]
    return [
        go.Scatter(
            x=x,
            y=y,
            fill="toself",
            mode="lines",
            line={"width": 0},
            hoverinfo="skip",
            meta=meta | {"role": "band"},
        )
    ]


def _runs(series: Series) -> Iterator[list[_Edge]]:
    """Split the band at its gaps."""
    run: list[_Edge] = []
    edges = zip(series.x, series.low, series.high, strict=True) if series.low else ()
    for x, low, high in edges:
        if low is not None and high is not None:
            run.append((x, low, high))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _heights(figure: Figure) -> tuple[list[float], list[float]]:
    """Return all values and all edges of bands, so that the panels share one range of heights."""
    series = [series for panel in figure.panels for series in panel.series]
    lines = [value for s in series for value in s.y if value is not None]
    edges = [value for s in series for value in (*s.low, *s.high) if value is not None]
    return lines, edges
