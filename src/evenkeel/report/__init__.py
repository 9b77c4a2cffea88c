"""Reports as data, and the renderer that makes one offline HTML file of them.

Knows nothing of networks or training: whoever has numbers to show builds a :class:`Report`
out of chapters, figures and tables and calls :func:`render_html`.
"""

from __future__ import annotations

from evenkeel.report._html import render_html
from evenkeel.report._model import (
    Axis,
    Cell,
    Chapter,
    Column,
    Figure,
    Findings,
    Format,
    Highlight,
    Measure,
    Note,
    Panel,
    Paper,
    Picture,
    Report,
    Series,
    Table,
    Verdict,
)
from evenkeel.report._text import write_cell

__all__ = [
    "Axis",
    "Cell",
    "Chapter",
    "Column",
    "Figure",
    "Findings",
    "Format",
    "Highlight",
    "Measure",
    "Note",
    "Panel",
    "Paper",
    "Picture",
    "Report",
    "Series",
    "Table",
    "Verdict",
    "render_html",
    "write_cell",
]
