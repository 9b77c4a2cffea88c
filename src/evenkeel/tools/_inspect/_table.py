"""The inspection as tables: settings once for all layers that share them, then one row each."""

from __future__ import annotations

import io
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from evenkeel.tools._inspect._counts import Count
    from evenkeel.tools._inspect._records import Finding, Inspection, LayerRow, Range

WIDTH: Final = 80
_UNKNOWN: Final = "?"
_NOT_STORED: Final = "?: not stored with the weights; the code that builds the model sets it"
_STYLES: Final = {"error": "bold red", "warning": "yellow", "note": "dim"}
_FRAMEWORKS: Final = {"torch": "torch", "keras": "Keras", "flax": "Flax", "onnx": "ONNX"}
_MARKS: Final = {"error": "error", "warning": "warn", "note": "note"}
#: Layers named in a finding that many share.
_NAMED: Final = 3


def to_text(report: Inspection) -> str:
    """The report without colour, at most :data:`WIDTH` columns wide."""
    return plain_text(render(report))


def plain_text(content: RenderableType) -> str:
    """What rich prints, without colour, at most :data:`WIDTH` columns wide."""
    out = io.StringIO()
    console = Console(file=out, width=WIDTH, color_system=None, force_terminal=False)
    console.print(content)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def render(report: Inspection) -> Group:
    """The report for a rich console."""
    parts: list[Text | Table] = [Text(_title(report), style="bold")]
    parts += [Text(printable(remark)) for remark in report.remarks]
    if report.rows:
        parts += [Text(""), _settings_table(report.rows)]
        if any(map(_is_stored, report.rows)):
            parts.append(Text(_NOT_STORED, style="dim"))
        parts += [Text(""), _layer_table(report)]
    if report.counts:
        parts += [Text(""), _counts_table(report.counts)]
    if report.findings:
        parts += [Text(""), _findings_table(report.findings)]
    return Group(*parts)


def _title(report: Inspection) -> str:
    rows = report.rows
    source = printable(report.source)
    if not rows:
        return f"{source}: no batch-norm layers"
    return f"{source}: {counted(len(rows), 'batch-norm layer')}, {_numbers(report)}"


def _numbers(report: Inspection) -> str:
    """Parameters of the layers, as the framework that they live in reports them."""
    own = next((c for c in report.counts if c.framework == report.framework), None)
    if report.framework == "torch" or own is None:
        numbers = (sum(getattr(r, key) for r in report.rows) for key in ("parameters", "buffers"))
        parameters, buffers = numbers
        return f"{counted(parameters, 'parameter')}, {counted(buffers, 'buffer value')}"
    beside = f", {own.beside} in batch_stats" if own.beside else ""
    return f"{counted(own.parameters, 'parameter')} ({own.trained} trained){beside}"


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the plural where needed."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def new_table(*columns: str) -> Table:
    """An empty table in the style of all reports."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _settings_table(rows: tuple[LayerRow, ...]) -> Table:
    headers = ("set", "kind", "eps", "momentum", "affine", "variance", "mode", "dtype", "n")
    table = new_table(*headers)
    for letter, (settings, count) in _groups(rows).items():
        table.add_row(letter, *map(Text, settings), str(count))
    return table


def _groups(rows: tuple[LayerRow, ...]) -> dict[str, tuple[tuple[str, ...], int]]:
    """A short name for every distinct line of settings, with its number of layers."""
    counts: dict[tuple[str, ...], int] = defaultdict(int)
    for row in rows:
        counts[_settings(row)] += 1
    return {_letters(i): item for i, item in enumerate(counts.items())}


def _settings(row: LayerRow) -> tuple[str, ...]:
    eps = _UNKNOWN if row.eps is None else f"{row.eps:g}"
    dtypes = dict.fromkeys(filter(None, (row.parameter_dtype, row.statistics_dtype)))
    return (
        printable(row.kind),
        eps,
        _momentum(row),
        "+".join(name[0] for name in row.affine) or "none",
        row.variance or _UNKNOWN,
        row.mode or _UNKNOWN,
        " / ".join(dtypes) or "-",
    )


def _momentum(row: LayerRow) -> str:
    if row.mode == "frozen":
        return "-"
    if row.momentum is None:
        return _UNKNOWN
    if row.momentum.value is None:
        return "cumulative"
    return f"{row.momentum.value:g} ({row.momentum.weighs})"


def _is_stored(row: LayerRow) -> bool:
    # Only a live module has a mode.
    return row.mode is None


def _letters(index: int) -> str:
    """A, B, ..., Z, AA, AB, ..."""
    head, last = divmod(index, 26)
    return (_letters(head - 1) if head else "") + chr(ord("A") + last)


def _layer_table(report: Inspection) -> Table:
    headers = ["layer", "set", "C", "gamma", "beta", "mean", "variance", "seen", "mark"]
    letters = {settings: letter for letter, (settings, _) in _groups(report.rows).items()}
    worst = _worst(report.findings)
    if not worst:
        headers.remove("mark")  # the room is for the names
    table = new_table(*headers)
    for name in ("C", "seen"):
        table.columns[headers.index(name)].justify = "right"
    for row in report.rows:
        ranges = (row.weight, row.bias, row.running_mean, row.running_var)
        severity = worst.get(row.name, "")
        cells = (
            Text(_name(row.name)),
            letters[_settings(row)],
            "?" if row.channels is None else str(row.channels),
            *(Text(_range(values)) for values in ranges),
            "-" if row.batches is None else str(row.batches),
            Text(_MARKS.get(severity, ""), style=_STYLES.get(severity, "")),
        )
        table.add_row(*cells[: len(headers)])
    return table


def _counts_table(counts: tuple[Count, ...]) -> Table:
    """The numbers of parameters, which differ though the layers are the same."""
    table = new_table("counted by", "parameters", "trained", "beside", "why")
    for column in table.columns[1:4]:
        column.justify = "right"
    for row in counts:
        numbers = map(str, (row.parameters, row.trained, row.beside))
        table.add_row(_FRAMEWORKS[row.framework], *numbers, row.why)
    return table


def _worst(findings: tuple[Finding, ...]) -> dict[str, str]:
    order = list(_STYLES)
    worst: dict[str, str] = {}
    for finding in sorted(findings, key=lambda f: order.index(f.severity)):
        worst.setdefault(finding.layer, finding.severity)
    return worst


def _range(values: Range | None) -> str:
    if values is None:
        return "-"
    low, high = _number(values.low), _number(values.high)
    return low if values.low == values.high else f"{low} .. {high}"


def _number(value: float) -> str:
    # .2g would write 745 as 7.4e+02.
    return f"{value:.0f}" if 100 <= abs(value) < 1e5 else f"{value:.2g}"


def _findings_table(findings: tuple[Finding, ...]) -> Table:
    """One line for each distinct text, worst first, with the layers that share it."""
    layers: dict[tuple[str, str], list[str]] = defaultdict(list)
    for severity in _STYLES:
        for finding in findings:
            if finding.severity == severity:
                layers[severity, finding.text].append(finding.layer)
    table = new_table("mark", "layer", "evidence")
    for (severity, text), names in layers.items():
        named = ", ".join(map(_name, names[:_NAMED]))
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        mark = Text(_MARKS[severity], style=_STYLES[severity])
        table.add_row(mark, Text(named + more), Text(printable(text)))
    return table


def _name(name: str) -> str:
    return printable(name) or "(top)"


def printable(text: str) -> str:
    """Names come from files; control characters in them must not reach the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
