"""Timings as a report: for each network the ratio of every peer to the floor, site by site."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from evenkeel.bench._summary import FLOOR, US
from evenkeel.report import Axis, Column, Figure, Note, Panel, Report, Series, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evenkeel.bench._records import Record
    from evenkeel.bench._summary import Ratio

#: One colour for each peer, whichever of them were timed.
_COLORS: Final = {
    US: 0,
    "torch": 1,
    "compile": 2,
    "keras-tf": 3,
    "keras-jax": 4,
    "flax": 6,
    FLOOR: 5,
}
_METHOD: Final = (
    "Every peer runs in a process of its own, in turns; a time is the median over the rounds.",
    "The floor is a copy into fresh memory, scaled to the bytes that the case cannot save.",
    "Such bytes are those of each input, read once, and of each output, written once.",
    "A case is one batch norm in training mode, with the residual and the activation after it.",
)


def report(records: Sequence[Record], summary: Sequence[Ratio]) -> Report:
    """What :func:`evenkeel.report.render_html` makes a page of."""
    one = records[0]
    pages = "with" if one.huge_pages else "without"
    problems = dict.fromkeys(f"{r.peer}: {r.problem}" for r in records if r.problem)
    notes = [Note(name="method", title="How it was measured", paragraphs=_METHOD)]
    if problems:
        notes.append(Note(name="problems", title="What failed", paragraphs=tuple(problems)))
    return Report(
        title="Batch norm beside its floor",
        subtitle=f"{one.machine}, {one.threads} threads, {pages} huge pages",
        pictures=(),
        pictures_caption="",
        chapters=(),
        figures=figures(records),
        tables=(_table(summary),),
        notes=tuple(notes),
        footer=f"{one.versions}; commit {one.commit or 'unknown'}, {one.date}",
    )


def figures(records: Sequence[Record]) -> tuple[Figure, ...]:
    """One for each network, dtype and mode, with a panel for each layout; none without a floor."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for one in records:
        groups.setdefault((one.suite, one.dtype, one.mode), []).append(one)
    return tuple(
        _figure(key, group) for key, group in groups.items() if any(r.peer == FLOOR for r in group)
    )


def _figure(key: tuple[str, ...], records: Sequence[Record]) -> Figure:
    suite, dtype, mode = key
    names = dict.fromkeys(one.title for one in records)
    batch, same = _common_batch(names)
    panels: dict[str, list[Record]] = {}
    for one in records:
        panels.setdefault(one.layout, []).append(one)
    return Figure(
        name=f"{suite}-{dtype}-{mode}".replace("_", "-").replace("+", "-"),
        title=f"{suite}, {dtype}, {mode}: time divided by the floor",
        caption="1 is the time of a copy of as many bytes; lower is better. Sites in the order of "
        "the network, those that are equal once.",
        alt="One line for each framework over the sites of the network, on a logarithmic scale.",
        x=Axis(
            title=f"shape{f' ({batch} images)' if same else ''}, activation, + after a residual",
            labels=tuple(name.removeprefix(f"{batch}x") if same else name for name in names),
        ),
        y=Axis(title="time / floor", scale="log"),
        panels=tuple(
            Panel(title=f"channels {layout}", series=_series(group, tuple(names)))
            for layout, group in panels.items()
        ),
    )


def _common_batch(names: dict[str, None]) -> tuple[str, bool]:
    batches = {name.partition("x")[0] for name in names}
    return min(batches), len(batches) == 1


def _series(records: Sequence[Record], names: Sequence[str]) -> tuple[Series, ...]:
    times = {(one.peer, one.title): one.median for one in records}
    x = tuple(map(float, range(len(names))))
    return tuple(
        Series(
            name=peer,
            x=x,
            y=tuple(_over(times.get((peer, name)), times.get((FLOOR, name))) for name in names),
            color=_COLORS[peer],
            dash="dash" if peer == FLOOR else "solid",
            markers=peer != FLOOR,
        )
        for peer in dict.fromkeys(one.peer for one in records)
    )


def _over(time: float | None, floor: float | None) -> float | None:
    return None if time is None or floor is None else time / floor


def _table(summary: Sequence[Ratio]) -> Table:
    texts = ("network", "channels", "dtype", "mode", "peer")
    numbers = ("geometric mean", "of the sums", "least")
    return Table(
        name="ratios",
        title="Time divided by evenkeel's",
        columns=(
            *(Column(title=title) for title in texts),
            *(Column(title=title, format="number") for title in numbers),
            Column(title="at"),
        ),
        rows=tuple(
            (r.suite, r.layout, r.dtype, r.mode, r.peer, r.mean, r.total, r.worst, r.where)
            for r in summary
        ),
    )
