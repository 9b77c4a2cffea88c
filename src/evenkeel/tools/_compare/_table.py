"""A comparison as tables: the verdict, inference layer by layer, training item by item."""

from __future__ import annotations

import io
from collections import defaultdict
from typing import TYPE_CHECKING, Final

import numpy as np
from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from evenkeel.tools._compare._records import Comparison, ComparisonRow

WIDTH: Final = 80
#: Rows that differ, listed one by one.
_LISTED: Final = 10
_EQUAL: Final = Text("equal", style="green")
_DIFFERS: Final = Text("DIFFERS", style="bold red")
_LEGEND: Final = (
    "err a, err b: largest error in float32 against float64; bound: of err b; use: err b / bound"
)


def to_text(report: Comparison) -> str:
    """The report without colour, at most :data:`WIDTH` columns wide."""
    out = io.StringIO()
    console = Console(file=out, width=WIDTH, color_system=None, force_terminal=False)
    console.print(render(report))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def render(report: Comparison) -> Group:
    """The report for a rich console."""
    parts: list[Text | Table] = [Text(_title(report), style="bold"), *_reasons(report)]
    inference = [row for row in report.rows if row.stage == "inference"]
    training = [row for row in report.rows if row.stage != "inference"]
    if inference:
        parts += [Text(""), _inference_table(inference)]
    if training:
        parts += [Text(""), _training_table(training)]
        different = [row for row in training if not row.equal]
        if different:
            parts += [Text(""), _list(different[:_LISTED])]
        if len(different) > _LISTED:
            parts.append(Text(f"and {len(different) - _LISTED} more that differ", style="dim"))
    if report.rows:
        parts.append(Text(_LEGEND, style="dim"))
    parts += [Text(_printable(remark), style="dim") for remark in report.remarks]
    return Group(*parts)


def _title(report: Comparison) -> str:
    what = "in inference" if not report.steps else f"in inference and over {report.steps} steps"
    if not any(row.stage == "inference" for row in report.rows):
        what = f"over {report.steps} steps"
    verdict = "equal" if report.equal else "NOT equal"
    return _printable(f"a: {report.source}, b: {report.target}: {verdict} {what}")


def _reasons(report: Comparison) -> list[Text]:
    first = report.first_difference
    if first is None:
        return []
    where = first.layer or "the network"
    if first.layer != first.target:
        where += f" ({first.target})"
    when = f"step {first.step}, {first.optimizer}, " if first.step else ""
    lines = [f"first difference: {first.stage}, {when}{first.item} of {where}"]
    lines += [
        f"likely cause: {cause.code}" + (f" in {cause.layer}" if cause.layer else "") + ": "
        f"{cause.evidence}"
        for cause in report.causes
    ]
    return [Text(_printable(line)) for line in lines]


def _inference_table(rows: list[ComparisonRow]) -> Table:
    """One line for each output, and for each input that differs."""
    table = _table("layer (a)", "layer (b)", "of", "err a", "err b", "bound", "use", "")
    for row in rows:
        if row.item == "input" and row.equal:
            continue
        table.add_row(
            Text(_printable(row.layer) or "(network)"),
            Text(_printable(row.target) if row.target != row.layer else '"'),
            "in" if row.item == "input" else "out",
            *_figures(row),
            _EQUAL if row.equal else _DIFFERS,
        )
    return table


def _training_table(rows: list[ComparisonRow]) -> Table:
    """One line for each proof, rule and item: the tightest of its layers."""
    table = _table("proof", "rule", "item", "tightest in", "step", "bound", "use", "")
    groups: dict[tuple[str, ...], list[ComparisonRow]] = defaultdict(list)
    for row in rows:
        zero = " (zero)" if row.note == "mathematically zero" else ""
        groups[row.stage, row.optimizer or "", row.item + zero].append(row)
    for (stage, rule, item), members in groups.items():
        worst = max(members, key=_use)
        table.add_row(
            stage,
            rule,
            item,
            Text(_printable(worst.layer) or "(network)"),
            str(worst.step),
            f"{worst.bound:.1e}",
            _share(worst),
            _EQUAL if all(row.equal for row in members) else _DIFFERS,
        )
    return table


def _list(rows: Iterable[ComparisonRow]) -> Table:
    table = _table("differs", "of", "step", "rule", "err a", "err b", "bound", "use")
    for row in rows:
        table.add_row(
            Text(_printable(row.layer) or "(network)"),
            row.item,
            str(row.step),
            row.optimizer or "",
            *_figures(row),
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _figures(row: ComparisonRow) -> tuple[str, str, str, str]:
    return f"{row.error_a:.1e}", f"{row.error_b:.1e}", f"{row.bound:.1e}", _share(row)


def _share(row: ComparisonRow) -> str:
    use = _use(row)
    return f"{use:.2f}" if use < 100 else ">99" if np.isfinite(use) else "inf"


def _use(row: ComparisonRow) -> float:
    if row.error_b == 0:
        return 0.0 if row.equal else np.inf
    return row.error_b / row.bound if row.bound else np.inf


def _printable(text: str) -> str:
    """Names come from files; control characters in them must not reach the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
