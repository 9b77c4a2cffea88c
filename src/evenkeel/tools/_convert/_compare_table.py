"""Two files of weights side by side, as a table of at most 80 columns."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.text import Text

from evenkeel.tools._inspect._table import counted, new_table, plain_text, printable

if TYPE_CHECKING:
    from rich.table import Table

    from evenkeel.tools._convert._compare import ComparedArray, FileComparison

_STYLES: Final = {"differs": "bold red", "shape": "bold red", "undecided": "yellow"}


def to_text(report: FileComparison) -> str:
    """The report without colour."""
    return plain_text(render(report))


def render(report: FileComparison) -> Group:
    """The report for a rich console: what differs in full, what is equal as a number."""
    first, second = report.frameworks
    title = f"a: {report.a} ({first})\nb: {report.b} ({second})"
    numbers = Counter(row.verdict for row in report.rows)
    said = ", ".join(f"{counted(n, 'row')} {verdict}" for verdict, n in numbers.items())
    verdict = "equal" if report.equal else "not equal"
    parts: list[Text | Table] = [
        Text(printable(title.partition("\n")[0]), style="bold"),
        Text(printable(title.partition("\n")[2]), style="bold"),
        Text(f"{verdict}: {said or 'nothing to compare'}"),
    ]
    shown = [row for row in report.rows if row.verdict not in {"equal", "not stored"}]
    if shown:
        parts += [Text(""), _table(shown)]
    missing = sorted({row.what for row in report.rows if row.verdict == "not stored"})
    if missing:
        parts.append(Text(f"not stored in both files, so not compared: {', '.join(missing)}"))
    return Group(*parts)


def _table(rows: list[ComparedArray]) -> Table:
    table = new_table("a", "b", "what", "verdict", "detail")
    for row in rows:
        b = "same name" if row.a == row.b else row.b
        cells = [printable(cell) for cell in (row.a, b, row.what)]
        verdict = Text(row.verdict, style=_STYLES.get(row.verdict, ""))
        table.add_row(*map(Text, cells), verdict, Text(printable(row.detail)))
    return table
