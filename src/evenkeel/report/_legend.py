"""Which lines of a figure share an entry of the legend, and where the legend stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from evenkeel.report._model import Figure, Panel, Series

#: Lines that look alike and are called alike.
Look: TypeAlias = tuple[str, int, str, bool, bool]
#: Beyond so many entries the panels of a figure get a legend each.
_SHARED: Final = 8


def look(series: Series) -> Look:
    """Return what tells two entries of a legend apart."""
    return series.name, series.color, series.dash, series.markers, series.faint


def entries(figure: Figure) -> dict[Look, int]:
    """Number all different lines of a figure, in reading order."""
    looks = dict.fromkeys(look(series) for panel in figure.panels for series in panel.series)
    return {key: number for number, key in enumerate(looks)}


def shared_legend(figure: Figure) -> tuple[Series, ...]:
    """Return the entries of the figure's legend; empty if each panel needs its own."""
    found = _unique(tuple(series for panel in figure.panels for series in panel.series))
    return found if len(found) <= _SHARED or len(figure.panels) == 1 else ()


def panel_legend(figure: Figure, panel: Panel) -> tuple[Series, ...]:
    """Return the entries of one panel's own legend; empty if the figure has one for all."""
    return () if shared_legend(figure) else _unique(panel.series)


def _unique(lines: tuple[Series, ...]) -> tuple[Series, ...]:
    """Return one line of each look, leaving out the faint companions."""
    return tuple({look(series): series for series in lines if not series.faint}.values())
