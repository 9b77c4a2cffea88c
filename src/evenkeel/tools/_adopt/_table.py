"""The reports of ``adopt`` and ``release`` as tables of at most 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from evenkeel.tools._inspect._table import counted, new_table, plain_text, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from evenkeel.tools._adopt._records import Adopted, Adoption, Release


def adoption_to_text(report: Adoption) -> str:
    """The report without colour."""
    parts: list[RenderableType] = [Text(line) for line in _summary(report)]
    if report.layers:
        table = new_table("layer", "class", "in one pass", "left")
        for row in report.layers:
            table.add_row(*(Text(printable(cell)) for cell in _cells(row)))
        parts += [Text(""), table]
    return plain_text(Group(*parts))


def release_to_text(report: Release) -> str:
    """The report without colour."""
    number = counted(len(report.modules), "module")
    parts: list[RenderableType] = [
        Text(f"{type(report.model).__name__}: {number} with the original class")
    ]
    noted = [row for row in report.modules if row.note]
    if noted:
        table = new_table("module", "class", "note")
        for row in noted:
            table.add_row(*(Text(printable(cell)) for cell in (row.module, row.kind, row.note)))
        parts += [Text(""), table]
    return plain_text(Group(*parts))


def _cells(row: Adopted) -> tuple[str, str, str, str]:
    return row.layer or "(top)", row.kind, "; ".join(row.fused), row.left


def _summary(report: Adoption) -> Iterator[str]:
    rows = report.layers
    adopted, fused = sum(row.adopted for row in rows), sum(bool(row.fused) for row in rows)
    total = counted(len(rows), "batch norm")
    yield f"{type(report.model).__name__}: {adopted} of {total} adopted, {fused} fused"
    proof = report.proof
    if proof is not None:
        worst = proof.worst
        batches = counted(proof.batches, "batch").replace("batchs", "batches")
        yield f"proof: {proof.quantities} results equal in both modes, on {batches}"
        yield (
            f"  nearest to its bound: {worst.item} {f'of {worst.layer} ' * bool(worst.layer)}"
            f"in {worst.mode}"
        )
        yield (
            f"  error against float64: {worst.error:.2e}, allowed {worst.bound:.2e}, "
            f"the original's own {worst.own_error:.2e}"
        )
    else:
        yield "proof: none of the whole model, as there was no example to run"
        if report.pairs:
            yield f"  each kind of fused pair was checked on its own: {report.pairs} equal"
