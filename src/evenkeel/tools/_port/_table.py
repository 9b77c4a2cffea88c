"""The report of a port as tables of at most 80 columns."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.text import Text

from evenkeel.tools._inspect._table import counted, new_table, plain_text, printable
from evenkeel.tools._port._records import change_of, preprocessing_numbers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from evenkeel.tools._port._records import Port, SettingDifference

#: Layers that one line names.
_NAMED = 3


def to_text(report: Port) -> str:
    """The report without colour."""
    return plain_text(render(report))


def render(report: Port) -> Group:
    """The report for a rich console."""
    parts: list[Text | Table] = [Text(_title(report), style="bold")]
    parts += [Text(line) for line in _proof_lines(report)]
    parts += [Text(""), _layer_table(report)]
    if report.differences:
        parts += [Text(""), Text("Batch-norm settings that differed:")]
        parts.append(_settings_table(report.differences))
    notes = [Text(printable(line)) for line in _notes(report)]
    return Group(*parts, *([Text(""), *notes] if notes else []))


def _title(report: Port) -> str:
    source, target = report.frameworks
    return f"{source} -> {target}: {counted(len(report.matching.pairs), 'layer')}"


def _proof_lines(report: Port) -> Iterator[str]:
    proof = report.proof
    yield "proof: equal outputs on the example" if proof.holds else "proof: FAILED"
    yield (
        f"  error against float64: target {proof.target_error:.2e}, allowed {proof.bound:.2e}, "
        f"source {proof.source_error:.2e}"
    )


def _layer_table(report: Port) -> Table:
    table = new_table("source", "target", "kind", "shape", "change")
    into = {norm: f"minus {layer}.bias" for layer, norm in report.matching.absorbed}
    for pair in report.matching.pairs:
        shapes = pair.target.shapes
        shape = next((shapes[role] for role in ("kernel", *shapes) if role in shapes), ())
        change = into.get(pair.source.name) or change_of(pair)
        cells = (pair.source.name, pair.target.name, pair.target.kind, _size(shape), change)
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _settings_table(differences: tuple[SettingDifference, ...]) -> Table:
    """One line for all layers that differ alike."""
    layers: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for item in differences:
        now = "repaired" if item.repaired else f"changes {item.effect}"
        layers[item.field, _shown(item.wanted), _shown(item.found), now].append(item.target)
    table = new_table("setting", "source", "target", "now", "layers of the target")
    for cells, names in layers.items():
        table.add_row(*map(Text, cells), Text(printable(shortened(names))))
    return table


def _notes(report: Port) -> Iterator[str]:
    matching = report.matching
    for layer in matching.preprocessing:
        numbers = ", ".join(f"{k}={_shown(v)}" for k, v in preprocessing_numbers(layer).items())
        yield f"Apply to the target's inputs yourself: {layer.kind} {layer.name!r} ({numbers})."
    if matching.absorbed:
        yield f"Biases absorbed into running means: {len(matching.absorbed)}."
    if matching.made:
        yield f"Made without effect, must stay frozen: {shortened(list(matching.made))}."
    if matching.dropped:
        yield f"Without effect in inference, not carried: {shortened(list(matching.dropped))}."
    yield from report.remarks


def shortened(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _shown(value: Any) -> str:  # noqa: ANN401 - a JSON value
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return str(value)
