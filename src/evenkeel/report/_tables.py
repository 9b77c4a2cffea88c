"""The numbers behind a figure or a verdict as a table, for readers who want or need them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evenkeel.report._model import Column, Table
from evenkeel.report._text import MISSING, write_cell, write_interval

if TYPE_CHECKING:
    from evenkeel.report._model import Axis, Cell, Figure, Findings, Measure, Panel, Series


def panel_table(figure: Figure, panel: Panel) -> Table:
    """Return one row per position on the x axis and one column per series."""
    columns = [Column(title=figure.x.title, format=figure.x.format)]
    columns += [
        Column(title=f"{series.name} (low to high)" if series.low else series.name)
        for series in panel.series
    ]
    positions = sorted({x for series in panel.series for x in series.x})
    lookups = [_written(series, figure.y) for series in panel.series]
    rows: list[tuple[Cell, ...]] = [
        (_position(x, figure.x), *(lookup.get(x, MISSING) for lookup in lookups)) for x in positions
    ]
    return Table(
        name=f"{figure.name}-data", title=panel.title, columns=tuple(columns), rows=tuple(rows)
    )


def _position(x: float, axis: Axis) -> Cell:
    return axis.labels[round(x)] if axis.labels else x


def measure_table(findings: Findings) -> Table:
    """Return one row per number that the verdict rests on."""
    titles = ("what", "mean", "95 % confidence interval", "seeds", "each seed")
    return Table(
        name="measures",
        title="The numbers behind the verdict",
        columns=tuple(Column(title=title) for title in titles),
        rows=tuple(_measure_row(measure) for measure in findings.measures),
    )


def _measure_row(measure: Measure) -> tuple[Cell, ...]:
    return (
        measure.label,
        write_cell(measure.mean, measure.format),
        write_interval(measure.low, measure.high, measure.format),
        len(measure.values),
        ", ".join(write_cell(value, measure.format) for value in measure.values),
    )


def _written(series: Series, axis: Axis) -> dict[float, str]:
    """Return x -> ``value (low to high)`` for one series."""
    values = [write_cell(y, axis.format) for y in series.y]
    if series.low:
        edges = zip(series.low, series.high, strict=True)
        values = [
            f"{value} ({write_interval(low, high, axis.format)})" if value != MISSING else MISSING
            for value, (low, high) in zip(values, edges, strict=True)
        ]
    return dict(zip(series.x, values, strict=True))
