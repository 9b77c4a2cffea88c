"""One self-contained HTML file: text, tables, pictures, plots and the plot library in it."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from evenkeel.report._plots import plot_json
from evenkeel.report._tables import panel_table
from evenkeel.report._text import write_cell

if TYPE_CHECKING:
    from evenkeel.report._model import Report


def render_html(report: Report) -> str:
    """Return the report as one HTML document that loads nothing from anywhere.

    All text is escaped. A content security policy in the page forbids every request, so the
    file is as private as it looks.
    """
    environment = Environment(
        loader=PackageLoader("evenkeel.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = write_cell
    environment.filters["base64"] = _base64
    return environment.get_template("report.html.j2").render(
        report=report, plotly=get_plotlyjs(), plot_json=plot_json, panel_table=panel_table
    )


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
