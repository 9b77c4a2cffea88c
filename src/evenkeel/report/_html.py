"""One self-contained HTML file: text, tables, pictures, plots and the plot library in it."""

from __future__ import annotations

import base64
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from evenkeel.report._legend import entries, look, panel_legend, shared_legend
from evenkeel.report._plots import MARKERS, plot_json
from evenkeel.report._tables import measure_table, panel_table
from evenkeel.report._text import write_cell

if TYPE_CHECKING:
    from evenkeel.report._model import Chapter, Report

#: What the templates call.
_HELPERS: Final[dict[str, Any]] = {
    "entries": entries,
    "look": look,
    "markers": len(MARKERS),
    "measure_table": measure_table,
    "panel_legend": panel_legend,
    "panel_table": panel_table,
    "plot_json": plot_json,
    "shared_legend": shared_legend,
}
_TALLIES: Final = {"holds": "hold here", "fails": "do not hold here", "depends": "depend"}


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
    environment.globals.update(_HELPERS)
    return environment.get_template("report.html.j2").render(
        report=report, plotly=get_plotlyjs(), tally=_tally(report.chapters)
    )


def _tally(chapters: tuple[Chapter, ...]) -> str:
    """Count the verdicts in words, such as ``3 hold here, 1 does not hold here``."""
    counts = Counter(chapter.verdict.kind for chapter in chapters)
    return ", ".join(
        f"{counts[kind]} {_singular(words) if counts[kind] == 1 else words}"
        for kind, words in _TALLIES.items()
        if counts[kind]
    )


def _singular(words: str) -> str:
    verb, _, rest = words.partition(" ")
    return f"{'does' if verb == 'do' else f'{verb}s'} {rest}".strip()


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
