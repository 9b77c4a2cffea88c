"""The report of a conversion as tables of at most 80 columns."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from evenkeel.tools._inspect._table import counted, new_table, plain_text, printable

if TYPE_CHECKING:
    from rich.table import Table

    from evenkeel.tools._convert._records import Conversion, Converted, LeftOut, Setting


def to_text(report: Conversion) -> str:
    """The report without colour."""
    return plain_text(render(report))


def render(report: Conversion) -> Group:
    """The report for a rich console."""
    parts: list[Text | Table] = [Text(printable(_title(report)), style="bold")]
    parts += [Text(printable(remark)) for remark in report.remarks]
    parts += [Text(""), _rows_table(report.rows)]
    if report.settings:
        parts += [Text(""), Text(_not_stored(report)), _settings_table(report.settings)]
    if report.left_out:
        parts += [Text(""), Text("Not in the target:"), _left_table(report.left_out)]
    return Group(*parts)


def _title(report: Conversion) -> str:
    source, target = report.frameworks
    what = "array" if all(row.kind == "array" for row in report.rows) else "layer"
    number = counted(len(report.rows), what)
    return f"{report.source} ({source}) -> {report.target} ({target}): {number}"


def _not_stored(report: Conversion) -> str:
    return f"{report.target} does not store these; the code that builds the model sets them:"


def _rows_table(rows: tuple[Converted, ...]) -> Table:
    if rows and all(row.kind == "array" for row in rows):
        table = new_table("array", "shape")
        for row in rows:
            table.add_row(Text(printable(row.source)), str(row.shapes[""]))
        return table
    table = new_table("source", "target", "kind", "shape", "change")
    for row in rows:
        shape = next((shape for shape in row.shapes.values() if shape), ())
        change = "; ".join(filter(None, (row.change, *(f"{made} made" for made in row.made))))
        target = "same" if row.target == row.source else row.target
        cells = (row.source, target, row.kind, "x".join(map(str, shape)), change)
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def _settings_table(settings: tuple[Setting, ...]) -> Table:
    """One line for all layers that are built alike."""
    layers: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for setting in settings:
        layers[setting.code, setting.unknown].append(setting.layer)
    table = new_table("layers", "to be set")
    for (code, unknown), names in layers.items():
        said = f"{', '.join(unknown)}: the source does not store them, either" if unknown else ""
        text = "; ".join(filter(None, (code, said)))
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        table.add_row(Text(printable(", ".join(names[:3]) + more)), Text(printable(text)))
    return table


def _left_table(left: tuple[LeftOut, ...]) -> Table:
    table = new_table("name", "what", "why")
    for item in left:
        table.add_row(*(Text(printable(cell)) for cell in (item.name, item.what, item.why)))
    return table
